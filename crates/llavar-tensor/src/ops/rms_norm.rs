//! RMS norm over the last axis: `y = x / sqrt(mean(x^2) + eps) * w` (Llama, Phi-3).
//!
//! Shapes: `x`, `y` `[.., C]`, `w [C]`. Only 1/rms is saved.
//! Gradients, with `r = 1/rms`, `g = dy w`: `dx = r (g - x r^2 mean(g x))`, `dw += sum dy x r`.

use super::linear::write_back;
use crate::{
    Param, Result, Tape, Tensor, Var,
    cpu::{self, kernel},
    cuda,
    error::ensure_shape,
    memory::Buffer,
};

impl Tape {
    /// RMS norm over the last axis.
    ///
    /// # Shapes
    /// `x [.., C]`, `weight [C]` -> `[.., C]`.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn rms_norm(&self, x: &Var, weight: &Param, eps: f32) -> Result<Var> {
        let c = x.value().last_dim();
        let rows = x.value().rows();
        ensure_shape(
            "rms_norm weight",
            weight.numel() == c,
            || format!("[{c}]"),
            weight.shape(),
        )?;
        if let Some(cuda) = x.value().cuda() {
            return cuda::ops::rms_norm(self, cuda, x, weight, eps);
        }
        let w = weight.value();
        let mut out = Buffer::<f32>::unspecified(rows * c);
        let mut inverse = Buffer::<f32>::unspecified(rows);
        {
            let (x, w) = (x.value().data::<f32>()?, w.data::<f32>()?);
            cpu::par_rows2(&mut out, c, &mut inverse, 1, |first, y, inverse| {
                normalise(&x[first * c..][..y.len()], w, eps, y, inverse);
            });
        }
        let out = Tensor::from_buffer(out, x.shape());
        if !self.needs_grad(&[x], &[weight]) {
            return Ok(Var::constant(out));
        }
        let (x, weight) = (x.clone(), weight.clone());
        Ok(self.record(out, move |dy, grads| {
            let (input, w, dy) = (
                x.value().data::<f32>()?,
                w.data::<f32>()?,
                dy.data::<f32>()?,
            );
            if weight.requires_grad() {
                let sums = cpu::par_reduce(rows, c, |rows, dw| {
                    let at = rows.start * c..rows.end * c;
                    weight_gradient(&input[at.clone()], &dy[at], &inverse[rows], dw);
                });
                weight.accumulate(|out, beta| {
                    write_back(&sums, out, beta);
                    Ok(())
                })?;
            }
            if !x.requires_grad() {
                return Ok(());
            }
            let mut dx = Buffer::<f32>::unspecified(rows * c);
            cpu::par_rows(&mut dx, c, |first, dx| {
                let at = first * c..first * c + dx.len();
                input_gradient(&input[at.clone()], &dy[at], w, &inverse[first..], dx);
            });
            grads.add(&x, Tensor::from_buffer(dx, x.shape()))
        }))
    }
}

kernel! {
    /// Rows of the forward pass; `inverse` receives 1/rms of each.
    fn normalise(x: &[f32], w: &[f32], eps: f32, y: &mut [f32], inverse: &mut [f32]) {
        let c = w.len();
        for ((x, y), inverse) in x.chunks_exact(c).zip(y.chunks_exact_mut(c)).zip(inverse) {
            let r = 1.0 / (cpu::dot(x, x) / c as f32 + eps).sqrt();
            for j in 0..c {
                y[j] = x[j] * r * w[j];
            }
            *inverse = r;
        }
    }
}

kernel! {
    /// `dw += sum dy x r`.
    fn weight_gradient(x: &[f32], dy: &[f32], inverse: &[f32], dw: &mut [f32]) {
        let c = dw.len();
        for ((x, g), r) in x.chunks_exact(c).zip(dy.chunks_exact(c)).zip(inverse) {
            for j in 0..c {
                dw[j] = g[j].mul_add(x[j] * r, dw[j]);
            }
        }
    }
}

kernel! {
    /// Rows of `dx`.
    fn input_gradient(x: &[f32], dy: &[f32], w: &[f32], inverse: &[f32], dx: &mut [f32]) {
        let c = w.len();
        let rows = x.chunks_exact(c).zip(dy.chunks_exact(c)).zip(inverse);
        for (((x, g), r), dx) in rows.zip(dx.chunks_exact_mut(c)) {
            for j in 0..c {
                dx[j] = g[j] * w[j];
            }
            let m = cpu::dot(dx, x) * r * r / c as f32;
            for j in 0..c {
                dx[j] = r * (dx[j] - x[j] * m);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{Rng, check_gradients, close};

    #[test]
    fn forward_agrees_with_a_plain_loop() {
        let mut rng = Rng::new(10);
        for _ in 0..20 {
            let (rows, c) = (rng.size(1, 30), rng.size(1, 70));
            let x = rng.tensor(&[rows, c]);
            let w = Param::new("w", rng.tensor(&[c]));
            let y = Tape::inference()
                .rms_norm(&x.clone().into(), &w, 1e-5)
                .unwrap();
            let wv = w.value().to_f32_vec().unwrap();
            let want: Vec<f32> = x
                .to_f32_vec()
                .unwrap()
                .chunks(c)
                .flat_map(|r| {
                    let ms = r.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / c as f64;
                    let inv = 1.0 / (ms + 1e-5).sqrt();
                    (0..c)
                        .map(|j| (f64::from(r[j]) * inv * f64::from(wv[j])) as f32)
                        .collect::<Vec<_>>()
                })
                .collect();
            close(y.value().data().unwrap(), &want, 1e-5, "rms_norm");
        }
    }

    #[test]
    fn gradients_agree_with_finite_differences() {
        let mut rng = Rng::new(11);
        let w = Param::new("w", rng.tensor(&[17]));
        check_gradients(&[rng.tensor(&[3, 5, 17])], &[&w], |tape, x| {
            tape.rms_norm(&x[0], &w, 1e-5)
        });
    }
}
