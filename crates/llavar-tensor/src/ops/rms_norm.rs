//! RMS norm over the last axis: `y = x / sqrt(mean(x^2) + eps) * w` (Llama, Phi-3).
//!
//! Shapes: `x`, `y` `[.., C]`, `w [C]`. Only 1/rms is saved.
//! Gradients, with `r = 1/rms`, `g = dy w`: `dx = r (g - x r^2 mean(g x))`, `dw += sum dy x r`.

use super::linear::write_back;
use crate::{Param, Result, Tape, Tensor, Var, cpu, error::ensure_shape, memory::Buffer};

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
        let w = weight.value();
        let mut out = Buffer::<f32>::unspecified(rows * c);
        let mut inverse = Buffer::<f32>::unspecified(rows);
        {
            let (x, w) = (x.value().data::<f32>()?, w.data::<f32>()?);
            cpu::par_rows2(&mut out, c, &mut inverse, 1, |first, y, inverse| {
                cpu::simd(|| {
                    for (i, (y, inverse)) in y.chunks_exact_mut(c).zip(inverse).enumerate() {
                        let row = &x[(first + i) * c..(first + i + 1) * c];
                        let r = 1.0 / (cpu::dot(row, row) / c as f32 + eps).sqrt();
                        for j in 0..c {
                            y[j] = row[j] * r * w[j];
                        }
                        *inverse = r;
                    }
                });
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
                    cpu::simd(|| {
                        for r in rows {
                            let (x, g, inv) = (
                                &input[r * c..(r + 1) * c],
                                &dy[r * c..(r + 1) * c],
                                inverse[r],
                            );
                            for j in 0..c {
                                dw[j] = g[j].mul_add(x[j] * inv, dw[j]);
                            }
                        }
                    });
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
                cpu::simd(|| {
                    for (i, dx) in dx.chunks_exact_mut(c).enumerate() {
                        let r = first + i;
                        let (x, g, inv) = (
                            &input[r * c..(r + 1) * c],
                            &dy[r * c..(r + 1) * c],
                            inverse[r],
                        );
                        for j in 0..c {
                            dx[j] = g[j] * w[j];
                        }
                        let m = cpu::dot(dx, x) * inv * inv / c as f32;
                        for j in 0..c {
                            dx[j] = inv * (dx[j] - x[j] * m);
                        }
                    }
                });
            });
            grads.add(&x, Tensor::from_buffer(dx, x.shape()))
        }))
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
            let wv = w.value().to_f32_vec();
            let want: Vec<f32> = x
                .to_f32_vec()
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
