//! Weights as values, slices of the first axis, and sums that repeat one side.
//!
//! - `param(p)`: the weight itself; `dp += dy`.
//! - `narrow(x, start, len)`: rows `start..start + len`; `dx` is `dy` there and 0 elsewhere.
//! - `add_broadcast(x, y)`: `x[b] + y` for every `b`; `dx = dy`, `dy = sum over b`.
//!
//! Together they add position embeddings: `add_broadcast(tokens, narrow(param(positions), 1, N))`.

use super::linear::{column_sums, widened, write_back};
use crate::{Param, Result, Tape, Tensor, Var, cpu, cuda, error::ensure_shape, memory::Buffer};

impl Tape {
    /// A weight as a value whose gradient accumulates into the weight.
    ///
    /// # Shapes
    /// That of `p`; on the CPU a weight stored in 16 bits is widened to f32.
    ///
    /// # Errors
    /// When the weight is not a floating-point tensor.
    pub fn param(&self, p: &Param) -> Result<Var> {
        let value = p.value();
        if let Some(cuda) = value.cuda().cloned() {
            return cuda::ops::param(self, &cuda, value, p);
        }
        let value = widened(&value)?;
        if !self.needs_grad(&[], &[p]) {
            return Ok(Var::constant(value));
        }
        let p = p.clone();
        Ok(self.record(value, move |dy, _| {
            p.accumulate(|out, beta| {
                write_back(dy.data()?, out, beta);
                Ok(())
            })
        }))
    }

    /// Entries `start..start + len` of the first axis; nothing is copied.
    ///
    /// # Shapes
    /// `x [A, ..]` -> `[len, ..]`.
    ///
    /// # Errors
    /// When the range leaves the axis.
    pub fn narrow(&self, x: &Var, start: usize, len: usize) -> Result<Var> {
        let out = x.value().narrow(start, len)?;
        if !self.needs_grad(&[x], &[]) {
            return Ok(Var::constant(out));
        }
        let x = x.without_value();
        Ok(self.record(out, move |dy, grads| {
            if let Some(cuda) = dy.cuda() {
                return grads.add(&x, cuda::ops::narrow_backward(cuda, &dy, x.shape(), start)?);
            }
            let stride: usize = x.shape().iter().skip(1).product();
            let mut dx = Tensor::zeros(x.shape());
            dx.data_mut::<f32>()?[start * stride..(start + len) * stride]
                .copy_from_slice(dy.data()?);
            grads.add(&x, dx)
        }))
    }

    /// `x[b] + y` for every entry `b` of the first axis of `x`.
    ///
    /// # Shapes
    /// `x [B, ..rest]`, `y [..rest]` -> `[B, ..rest]`.
    ///
    /// # Errors
    /// When `y` has not the shape of one entry of `x`.
    pub fn add_broadcast(&self, x: &Var, y: &Var) -> Result<Var> {
        let rest = x.shape().get(1..).unwrap_or(&[]);
        ensure_shape(
            "add_broadcast",
            !x.shape().is_empty() && y.shape() == rest,
            || format!("{rest:?}"),
            y.shape(),
        )?;
        if let Some(cuda) = x.value().cuda() {
            return cuda::ops::add_broadcast(self, cuda, x, y);
        }
        let each = y.value().numel();
        let mut out = Buffer::<f32>::unspecified(x.value().numel());
        {
            let (x, y) = (x.value().data::<f32>()?, y.value().data::<f32>()?);
            for (b, out) in out.chunks_exact_mut(each.max(1)).enumerate() {
                let x = &x[b * each..(b + 1) * each];
                cpu::par_chunks(out, |first, out| {
                    let range = first..first + out.len();
                    cpu::add(&x[range.clone()], &y[range], out);
                });
            }
        }
        let out = Tensor::from_buffer(out, x.shape());
        if !self.needs_grad(&[x, y], &[]) {
            return Ok(Var::constant(out));
        }
        let (x, y) = (x.without_value(), y.without_value());
        Ok(self.record(out, move |dy, grads| {
            if y.requires_grad() {
                let mut sum = Buffer::<f32>::unspecified(each);
                column_sums(dy.data()?, each, &mut sum, 0.0);
                grads.add(&y, Tensor::from_buffer(sum, y.shape()))?;
            }
            grads.add(&x, dy)
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{Rng, check_gradients, close};

    #[test]
    fn forward_agrees_with_a_plain_loop() {
        let mut rng = Rng::new(38);
        for _ in 0..20 {
            let (b, n, c) = (rng.size(1, 4), rng.size(1, 20), rng.size(1, 30));
            let skip = rng.size(0, 3);
            let x = rng.tensor(&[b, n, c]);
            let p = Param::new("p", rng.tensor(&[n + skip + 1, c]));
            let tape = Tape::inference();
            let rows = tape.narrow(&tape.param(&p).unwrap(), skip, n).unwrap();
            let y = tape.add_broadcast(&x.clone().into(), &rows).unwrap();
            let (xv, pv) = (x.to_f32_vec().unwrap(), p.value().to_f32_vec().unwrap());
            let want: Vec<f32> = (0..b * n * c)
                .map(|i| xv[i] + pv[skip * c + i % (n * c)])
                .collect();
            close(y.value().data().unwrap(), &want, 1e-6, "add broadcast");
        }
    }

    #[test]
    fn gradients_agree_with_finite_differences() {
        let mut rng = Rng::new(39);
        let p = Param::new("p", rng.tensor(&[6, 7]));
        check_gradients(&[rng.tensor(&[3, 4, 7])], &[&p], |tape, x| {
            let rows = tape.narrow(&tape.param(&p)?, 1, 4)?;
            tape.add_broadcast(&x[0], &rows)
        });
        check_gradients(
            &[rng.tensor(&[3, 4, 7]), rng.tensor(&[4, 7])],
            &[],
            |tape, x| tape.add_broadcast(&x[0], &x[1]),
        );
    }

    #[test]
    fn a_weight_used_twice_accumulates_twice() {
        let p = Param::new("p", Tensor::from_vec(vec![1.0f32, 2.0], &[2]).unwrap());
        p.set_requires_grad(true);
        let tape = Tape::training();
        let (a, b) = (tape.param(&p).unwrap(), tape.param(&p).unwrap());
        let y = tape.add(&a, &b).unwrap();
        let seed = Tensor::from_vec(vec![1.0f32, 3.0], &[2]).unwrap();
        tape.backward_from(vec![(y, seed)], &[]).unwrap();
        assert_eq!(p.grad().unwrap().data::<f32>().unwrap(), &[2.0, 6.0]);
        assert!(
            Tape::inference()
                .add_broadcast(&Tensor::zeros(&[2, 3]).into(), &Tensor::zeros(&[2]).into())
                .is_err()
        );
    }
}
