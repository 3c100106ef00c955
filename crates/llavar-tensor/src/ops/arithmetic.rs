//! Sums, reshapes and concatenation: `a + b`, the same elements under another shape, rows side by side.

use crate::{Result, Tape, Tensor, Var, cpu, cuda, error::ensure_shape, memory::Buffer};

impl Tape {
    /// `a + b` of equal shapes; both receive the gradient unchanged.
    ///
    /// # Errors
    /// When the shapes differ.
    pub fn add(&self, a: &Var, b: &Var) -> Result<Var> {
        ensure_shape(
            "add",
            a.shape() == b.shape(),
            || format!("{:?}", a.shape()),
            b.shape(),
        )?;
        let out = match a.value().cuda() {
            Some(cuda) => cuda::ops::add(cuda, a.value(), b.value())?,
            None => {
                let mut out = Buffer::<f32>::unspecified(a.value().numel());
                let (a, b) = (a.value(), b.value());
                let (x, y) = (a.data::<f32>()?, b.data::<f32>()?);
                cpu::par_chunks(&mut out, |first, out| {
                    let range = first..first + out.len();
                    cpu::add(&x[range.clone()], &y[range], out);
                });
                Tensor::from_buffer(out, a.shape())
            }
        };
        if !self.needs_grad(&[a, b], &[]) {
            return Ok(Var::constant(out));
        }
        let (a, b) = (a.without_value(), b.without_value());
        Ok(self.record(out, move |dy, grads| {
            grads.add(&a, dy.clone())?;
            grads.add(&b, dy)
        }))
    }

    /// The same elements under another shape; nothing is copied.
    ///
    /// # Errors
    /// When the number of elements differs.
    pub fn reshape(&self, x: &Var, shape: &[usize]) -> Result<Var> {
        let out = x.value().reshape(shape)?;
        if !self.needs_grad(&[x], &[]) {
            return Ok(Var::constant(out));
        }
        let x = x.without_value();
        Ok(self.record(out, move |dy, grads| grads.add(&x, dy.reshape(x.shape())?)))
    }

    /// Rows of `a` and `b` side by side.
    ///
    /// # Shapes
    /// `a [R, M]`, `b [R, N]` -> `[R, M + N]`.
    ///
    /// # Errors
    /// When the numbers of rows differ.
    pub fn concat_last(&self, a: &Var, b: &Var) -> Result<Var> {
        let (m, n) = (a.value().last_dim(), b.value().last_dim());
        let rows = a.value().rows();
        ensure_shape(
            "concat_last",
            b.value().rows() == rows,
            || format!("[{rows}, ..]"),
            b.shape(),
        )?;
        if let Some(cuda) = a.value().cuda() {
            return cuda::ops::concat_last(self, cuda, a, b);
        }
        let mut out = Buffer::<f32>::unspecified(rows * (m + n));
        {
            let (a, b) = (a.value().data::<f32>()?, b.value().data::<f32>()?);
            for (r, row) in out.chunks_exact_mut(m + n).enumerate() {
                row[..m].copy_from_slice(&a[r * m..(r + 1) * m]);
                row[m..].copy_from_slice(&b[r * n..(r + 1) * n]);
            }
        }
        let out = Tensor::from_buffer(out, &[rows, m + n]);
        if !self.needs_grad(&[a, b], &[]) {
            return Ok(Var::constant(out));
        }
        let (a, b) = (a.without_value(), b.without_value());
        Ok(self.record(out, move |dy, grads| {
            let dy = dy.data::<f32>()?;
            let part = |from: usize, to: usize| -> Vec<f32> {
                dy.chunks_exact(m + n)
                    .flat_map(|row| row[from..to].iter().copied())
                    .collect()
            };
            grads.add(&a, Tensor::from_vec(part(0, m), a.shape())?)?;
            grads.add(&b, Tensor::from_vec(part(m, m + n), b.shape())?)
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{Rng, check_gradients};

    #[test]
    fn values_and_gradients() {
        let mut rng = Rng::new(12);
        let (a, b) = (rng.tensor(&[4, 3]), rng.tensor(&[4, 2]));
        let y = Tape::inference()
            .concat_last(&a.clone().into(), &b.clone().into())
            .unwrap();
        assert_eq!(
            y.value().data::<f32>().unwrap()[8..10],
            b.data::<f32>().unwrap()[2..4]
        );
        check_gradients(&[a.clone(), b], &[], |tape, x| {
            tape.concat_last(&x[0], &x[1])
        });
        // The same value on both sides: its gradient arrives twice.
        check_gradients(&[a], &[], |tape, x| {
            let y = tape.reshape(&x[0], &[2, 6])?;
            tape.add(&y, &y)
        });
    }
}
