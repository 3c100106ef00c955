//! Mean over the tokens of each picture: `y[b] = 1/N sum over n of x[b, n]`.
//!
//! Shapes: `x` `[B, N, C]`, `y` `[B, C]`. Gradient: `dx[b, n] = dy[b] / N`.

use super::linear::column_sums;
use crate::{
    Error, Result, Tape, Tensor, Var,
    cpu::{self, kernel},
    cuda,
    memory::Buffer,
};

impl Tape {
    /// Mean over the second axis.
    ///
    /// # Shapes
    /// `x [B, N, C]` -> `[B, C]`.
    ///
    /// # Errors
    /// When `x` has not three axes, or no token.
    pub fn mean_tokens(&self, x: &Var) -> Result<Var> {
        let &[batch, n, c] = x.shape() else {
            return Err(shape_error(x));
        };
        if n == 0 || c == 0 {
            return Err(shape_error(x));
        }
        if let Some(cuda) = x.value().cuda() {
            return cuda::ops::mean_tokens(self, cuda, x, [batch, n, c]);
        }
        let mut out = Buffer::<f32>::unspecified(batch * c);
        let input = x.value().data::<f32>()?;
        let scale = 1.0 / n as f32;
        for (x, out) in input.chunks_exact(n * c).zip(out.chunks_exact_mut(c)) {
            column_sums(x, c, out, 0.0);
            out.iter_mut().for_each(|y| *y *= scale);
        }
        let out = Tensor::from_buffer(out, &[batch, c]);
        if !self.needs_grad(&[x], &[]) {
            return Ok(Var::constant(out));
        }
        let x = x.without_value();
        Ok(self.record(out, move |dy, grads| {
            let g = dy.data::<f32>()?;
            let mut dx = Buffer::<f32>::unspecified(batch * n * c);
            cpu::par_rows(&mut dx, c, |first, dx| {
                for (i, dx) in dx.chunks_exact_mut(c).enumerate() {
                    let b = (first + i) / n;
                    scale_row(&g[b * c..(b + 1) * c], scale, dx);
                }
            });
            grads.add(&x, Tensor::from_buffer(dx, x.shape()))
        }))
    }
}

fn shape_error(x: &Var) -> Error {
    Error::ShapeMismatch {
        op: "mean_tokens",
        expected: "[B, N >= 1, C >= 1]".into(),
        got: x.shape().to_vec(),
    }
}

kernel! {
    /// `dx = scale g`.
    fn scale_row(g: &[f32], scale: f32, dx: &mut [f32]) {
        for (dx, g) in dx.iter_mut().zip(g) {
            *dx = g * scale;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{Rng, check_gradients, close};

    #[test]
    fn forward_agrees_with_a_plain_loop() {
        let mut rng = Rng::new(36);
        for _ in 0..20 {
            let (b, n, c) = (rng.size(1, 4), rng.size(1, 30), rng.size(1, 40));
            let x = rng.tensor(&[b, n, c]);
            let y = Tape::inference().mean_tokens(&x.clone().into()).unwrap();
            let xv = x.to_f32_vec().unwrap();
            let want: Vec<f32> = (0..b * c)
                .map(|i| {
                    let (b, j) = (i / c, i % c);
                    let sum: f64 = (0..n).map(|t| f64::from(xv[(b * n + t) * c + j])).sum();
                    (sum / n as f64) as f32
                })
                .collect();
            close(y.value().data().unwrap(), &want, 1e-6, "mean tokens");
        }
        assert!(
            Tape::inference()
                .mean_tokens(&Tensor::zeros(&[2, 0, 3]).into())
                .is_err()
        );
    }

    #[test]
    fn gradients_agree_with_finite_differences() {
        let mut rng = Rng::new(37);
        check_gradients(&[rng.tensor(&[3, 5, 7])], &[], |tape, x| {
            tape.mean_tokens(&x[0])
        });
    }
}
