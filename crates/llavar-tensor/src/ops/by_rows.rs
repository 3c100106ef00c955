//! Rows that do not know each other, some at a time: what a chain of operations makes wider between its input and its
//! output then stays in the processor's cache and takes next to no memory.
//!
//! The first stage of a ConvNeXt that sees 1,024 px has 65,536 places; the inside of its blocks, four times as wide as
//! they are, would be written to main memory and read back twice.

use crate::{Result, Tape, Tensor, Var, error::ensure_shape, memory::Buffer};

const OP: &str = "by_rows";

/// Elements of the widest value of a block of rows: 4 MiB of f32, on two cores 5 % faster than one.
const BLOCK: usize = 1 << 20;

/// Rows of a block at least, so that weights are not read for a few rows at a time.
const MIN_ROWS: usize = 512;

impl Tape {
    /// What `f` makes of `inputs`, of which it must treat each row by itself. `width` is the number of elements of a row
    /// where it is widest.
    ///
    /// On the CPU, where nothing is recorded, `f` sees one block of rows after the other, as `[rows, Ci]`; otherwise all
    /// of them at once, as they are. No block has rows of two entries of the first axis (pictures), so that the results
    /// for one do not depend on what is beside it.
    ///
    /// # Shapes
    /// Inputs `[B, .., Ci]` with equally many rows, output of `f` `[.., C]` -> `[B, .., C]` with the first input's other
    /// axes.
    ///
    /// # Errors
    /// When the inputs differ in their numbers of rows, and those of `f`.
    pub fn by_rows(
        &self,
        inputs: &[Var],
        width: usize,
        f: impl Fn(&Self, &[Var]) -> Result<Var>,
    ) -> Result<Var> {
        let rows = inputs.first().map_or(0, |x| x.value().rows());
        let entries = inputs.first().and_then(|x| x.shape().first().copied());
        let each = rows / entries.unwrap_or(0).max(1);
        let block = (BLOCK / width.max(1)).max(MIN_ROWS);
        let on_gpu = inputs.iter().any(|x| x.value().cuda().is_some());
        if self.is_recording() || on_gpu || each <= block {
            return f(self, inputs);
        }
        let mut flat = Vec::with_capacity(inputs.len());
        for x in inputs {
            let (x, c) = (x.value(), x.value().last_dim());
            let fits = x.rows() == rows;
            ensure_shape(OP, fits, || format!("[.., C], {rows} rows"), x.shape())?;
            flat.push(x.reshape(&[rows, c])?);
        }
        let blocks = (0..rows).step_by(each).flat_map(|entry| {
            let starts = (0..each).step_by(block);
            starts.map(move |start| (entry + start, block.min(each - start)))
        });
        let (mut out, mut c) = (Buffer::<f32>::unspecified(0), 0);
        for (start, len) in blocks {
            let part = |x: &Tensor| Ok(Var::constant(x.narrow(start, len)?));
            let part = f(self, &flat.iter().map(part).collect::<Result<Vec<_>>>()?)?;
            let part = part.value();
            if start == 0 {
                c = part.last_dim();
                out = Buffer::unspecified(rows * c);
            }
            ensure_shape(
                OP,
                part.numel() == len * c,
                || format!("[{len}, {c}]"),
                part.shape(),
            )?;
            out[start * c..][..len * c].copy_from_slice(part.data()?);
        }
        let mut shape = inputs.first().map_or_else(Vec::new, |x| x.shape().to_vec());
        if let Some(last) = shape.last_mut() {
            *last = c;
        }
        Ok(Var::constant(Tensor::from_buffer(out, &shape)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Param,
        ops::{
            Activation,
            testing::{Rng, close},
        },
    };

    /// The inside of a ConvNeXt block, wide enough for several blocks of rows.
    #[test]
    fn blocks_of_rows_give_what_all_rows_at_once_give() {
        let mut rng = Rng::new(71);
        for _ in 0..4 {
            let (c, k) = (rng.size(1, 12), rng.size(1100, 1500));
            let (h, w) = (rng.size(32, 60), rng.size(32, 60));
            let [x, y] = [rng.tensor(&[2, h, w, c]), rng.tensor(&[2, h, w, c])].map(Var::constant);
            let fc1 = Param::new("fc1", rng.tensor(&[k, c]));
            let fc2 = Param::new("fc2", rng.tensor(&[c, k]));
            let vectors = ["bias", "gamma"].map(|name| Param::new(name, rng.tensor(&[c])));
            let [bias, gamma] = &vectors;
            let inside = |tape: &Tape, x: &[Var]| {
                let y = tape.layer_norm(&x[1], gamma, bias, 1e-6)?;
                let y = tape.linear_activation(&y, &fc1, None, Activation::Gelu)?;
                tape.linear_layer_scale(&x[0], &y, &fc2, bias, gamma)
            };
            let inputs = [x, y];
            let tape = Tape::inference();
            let blocks = tape.by_rows(&inputs, k, inside).unwrap();
            let whole = inside(&tape, &inputs).unwrap();
            assert_eq!(blocks.shape(), whole.shape());
            assert!(h * w > MIN_ROWS.max(BLOCK / k), "one block only");
            close(
                blocks.value().data().unwrap(),
                whole.value().data().unwrap(),
                1e-6,
                "blocks of rows",
            );
        }
    }

    #[test]
    fn blocks_are_parts_of_an_entry_and_the_whole_is_handed_on_where_it_is_recorded_or_small() {
        let shapes = |tape: &Tape, each: usize, width: usize| {
            let seen = std::cell::RefCell::new(Vec::new());
            let x = Var::constant(Tensor::zeros(&[2, each, 4]));
            let y = tape.by_rows(&[x], width, |_, x| {
                seen.borrow_mut().push(x[0].shape().to_vec());
                Ok(x[0].clone())
            });
            assert_eq!(y.unwrap().shape(), [2, each, 4]);
            seen.into_inner()
        };
        let inference = Tape::inference();
        assert_eq!(shapes(&Tape::training(), 1200, BLOCK), [[2, 1200, 4]]);
        assert_eq!(shapes(&inference, 1200, 4), [[2, 1200, 4]]);
        assert_eq!(shapes(&inference, MIN_ROWS, BLOCK), [[2, MIN_ROWS, 4]]);
        let of_each = [[512, 4], [512, 4], [176, 4]].map(Vec::from);
        assert_eq!(
            shapes(&inference, 1200, BLOCK),
            [of_each.clone(), of_each].concat()
        );
    }

    #[test]
    fn inputs_of_different_numbers_of_rows_are_refused() {
        let inputs = [[1, 900, 4], [1, 800, 4]].map(|shape| Var::constant(Tensor::zeros(&shape)));
        let y = Tape::inference().by_rows(&inputs, BLOCK, |_, x| Ok(x[0].clone()));
        assert!(y.is_err());
    }
}
