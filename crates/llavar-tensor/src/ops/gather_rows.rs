//! Some rows of a matrix: `y[i] = x[rows[i]]`; `dx` is `dy[i]` at `rows[i]` and 0 elsewhere.
//!
//! Shapes: `x [N, ..]`, `rows [n]`, all different where a gradient is wanted -> `[n, ..]`. The last decoder layer so goes on with the rows
//! alone whose outputs are read.

use std::{collections::HashSet, sync::Arc};

use crate::{Error, Result, Tape, Tensor, Var};

impl Tape {
    /// The rows with these numbers, all different where a gradient is wanted.
    ///
    /// # Shapes
    /// `x [N, ..]`, `rows [n]` -> `[n, ..]`.
    ///
    /// # Errors
    /// When a number is outside the first axis, or stands twice where a gradient is wanted.
    pub fn gather_rows(&self, x: &Var, rows: &Arc<[usize]>) -> Result<Var> {
        let value = x.value();
        let out = value.gather_rows(rows)?;
        if !self.needs_grad(&[x], &[]) {
            return Ok(Var::constant(out));
        }
        let mut seen = HashSet::with_capacity(rows.len());
        if let Some(row) = rows.iter().find(|row| !seen.insert(**row)) {
            return Err(Error::InvalidArgument {
                op: "gather of rows",
                reason: format!("row {row} twice, with a gradient"),
            });
        }
        let (x, rows, device) = (x.without_value(), rows.clone(), value.device());
        Ok(self.record(out, move |dy, grads| {
            let mut dx = Tensor::zeros_on(x.shape(), dy.dtype(), &device)?;
            dx.scatter_rows(&rows, &dy)?;
            grads.add(&x, dx)
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{Rng, check_gradients};

    #[test]
    fn values_and_gradients() {
        let mut rng = Rng::new(62);
        let x = rng.tensor(&[6, 2, 3]);
        let rows: Arc<[usize]> = Arc::from([4, 0, 5]);
        let y = Tape::inference()
            .gather_rows(&x.clone().into(), &rows)
            .unwrap();
        assert_eq!(y.shape(), [3, 2, 3]);
        let (from, to) = (x.data::<f32>().unwrap(), y.value().data::<f32>().unwrap());
        assert_eq!(to[..6], from[24..30]);
        check_gradients(std::slice::from_ref(&x), &[], |tape, x| {
            tape.gather_rows(&x[0], &rows)
        });
        let none: Arc<[usize]> = Arc::from([]);
        let y = Tape::inference().gather_rows(&x.clone().into(), &none);
        assert_eq!(y.unwrap().shape(), [0, 2, 3]);
        let outside: Arc<[usize]> = Arc::from([6]);
        let leaf = |tape: &Tape| tape.leaf(x.clone());
        let tape = Tape::inference();
        assert!(tape.gather_rows(&leaf(&tape), &outside).is_err());
        // Twice is for passes without gradients alone.
        let twice: Arc<[usize]> = Arc::from([2, 2]);
        assert!(tape.gather_rows(&leaf(&tape), &twice).is_ok());
        let tape = Tape::training();
        assert!(tape.gather_rows(&leaf(&tape), &twice).is_err());
    }

    #[test]
    #[ignore = "needs a GPU"]
    fn it_agrees_with_the_cpu_on_a_gpu() {
        let mut rng = Rng::new(63);
        for (n, width, step) in [(1, 1, 1), (9, 7, 2), (700, 3072, 7), (3, 64, 1)] {
            let rows: Arc<[usize]> = (0..n).rev().step_by(step).collect();
            crate::cuda::testing::compare(
                &format!("one of {step} of {n} rows of {width}"),
                &[rng.tensor(&[n, width])],
                &[],
                |tape, x, _| Ok(vec![tape.gather_rows(&x[0], &rows)?]),
            );
        }
    }
}
