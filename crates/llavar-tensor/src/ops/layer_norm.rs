//! Layer norm over the last axis: `y = (x - mean) / sqrt(var + eps) * w + b`.
//!
//! Shapes: `x`, `y` `[.., C]`, `w`, `b` `[C]`. Statistics in f32; only mean and 1/std are saved.
//! Gradients, with `h = (x - mean) / std`, `g = dy w`:
//! `dx = (g - mean(g) - h mean(g h)) / std`, `dw += sum dy h`, `db += sum dy`.

use super::linear::write_back;
use crate::{
    Param, Result, Tape, Tensor, Var,
    cpu::{self, kernel},
    cuda,
    error::ensure_shape,
    memory::Buffer,
};

impl Tape {
    /// Layer norm over the last axis.
    ///
    /// # Shapes
    /// `x [.., C]`, `weight [C]`, `bias [C]` -> `[.., C]`.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn layer_norm(&self, x: &Var, weight: &Param, bias: &Param, eps: f32) -> Result<Var> {
        let c = x.value().last_dim();
        let rows = x.value().rows();
        ensure_shape(
            "layer_norm weight",
            weight.numel() == c,
            || format!("[{c}]"),
            weight.shape(),
        )?;
        ensure_shape(
            "layer_norm bias",
            bias.numel() == c,
            || format!("[{c}]"),
            bias.shape(),
        )?;
        if let Some(cuda) = x.value().cuda() {
            return cuda::ops::layer_norm(self, cuda, x, weight, bias, eps);
        }
        let (w, b) = (weight.value(), bias.value());
        let mut out = Buffer::<f32>::unspecified(rows * c);
        let mut stats = Buffer::<f32>::unspecified(rows * 2); // mean, 1 / std
        {
            let (x, w, b) = (x.value().data::<f32>()?, w.data::<f32>()?, b.data::<f32>()?);
            cpu::par_rows2(&mut out, c, &mut stats, 2, |first, y, stats| {
                normalise(&x[first * c..][..y.len()], w, b, eps, y, stats);
            });
        }
        let out = Tensor::from_buffer(out, x.shape());
        if !self.needs_grad(&[x], &[weight, bias]) {
            return Ok(Var::constant(out));
        }
        let (x, weight, bias) = (x.clone(), weight.clone(), bias.clone());
        Ok(self.record(out, move |dy, grads| {
            let (input, w, dy) = (
                x.value().data::<f32>()?,
                w.data::<f32>()?,
                dy.data::<f32>()?,
            );
            if weight.requires_grad() || bias.requires_grad() {
                let sums = cpu::par_reduce(rows, 2 * c, |rows, acc| {
                    let at = rows.start * c..rows.end * c;
                    let stats = &stats[2 * rows.start..2 * rows.end];
                    weight_gradients(&input[at.clone()], &dy[at], stats, acc);
                });
                for (param, sums) in [(&weight, &sums[..c]), (&bias, &sums[c..])] {
                    if param.requires_grad() {
                        param.accumulate(|out, beta| {
                            write_back(sums, out, beta);
                            Ok(())
                        })?;
                    }
                }
            }
            if !x.requires_grad() {
                return Ok(());
            }
            let mut dx = Buffer::<f32>::unspecified(rows * c);
            cpu::par_rows(&mut dx, c, |first, dx| {
                let at = first * c..first * c + dx.len();
                let stats = &stats[2 * first..];
                input_gradient(&input[at.clone()], &dy[at], w, stats, dx);
            });
            grads.add(&x, Tensor::from_buffer(dx, x.shape()))
        }))
    }
}

kernel! {
    /// Rows of the forward pass; `stats` receives mean and 1/std of each.
    fn normalise(x: &[f32], w: &[f32], b: &[f32], eps: f32, y: &mut [f32], stats: &mut [f32]) {
        let c = w.len();
        let (b, scale) = (&b[..c], 1.0 / c as f32);
        let (stats, _) = stats.as_chunks_mut::<2>();
        for ((x, y), stats) in x.chunks_exact(c).zip(y.chunks_exact_mut(c)).zip(stats) {
            let mean = cpu::sum(x) * scale;
            for j in 0..c {
                y[j] = x[j] - mean;
            }
            let inv = 1.0 / (cpu::dot(y, y) * scale + eps).sqrt();
            for j in 0..c {
                y[j] = (y[j] * inv).mul_add(w[j], b[j]);
            }
            *stats = [mean, inv];
        }
    }
}

kernel! {
    /// Adds `sum dy h` to the first half of `sums` and `sum dy` to the second.
    fn weight_gradients(x: &[f32], dy: &[f32], stats: &[f32], sums: &mut [f32]) {
        let c = sums.len() / 2;
        let (dw, db) = sums.split_at_mut(c);
        let db = &mut db[..c];
        let (stats, _) = stats.as_chunks::<2>();
        for ((x, g), [mean, inv]) in x.chunks_exact(c).zip(dy.chunks_exact(c)).zip(stats) {
            for j in 0..c {
                dw[j] = g[j].mul_add((x[j] - mean) * inv, dw[j]);
                db[j] += g[j];
            }
        }
    }
}

kernel! {
    /// Rows of `dx`.
    fn input_gradient(x: &[f32], dy: &[f32], w: &[f32], stats: &[f32], dx: &mut [f32]) {
        let c = w.len();
        let scale = 1.0 / c as f32;
        let (stats, _) = stats.as_chunks::<2>();
        let rows = x.chunks_exact(c).zip(dy.chunks_exact(c)).zip(stats);
        for (((x, g), [mean, inv]), dx) in rows.zip(dx.chunks_exact_mut(c)) {
            for j in 0..c {
                dx[j] = g[j] * w[j];
            }
            let sum_g = cpu::sum(dx);
            // mean(g h) = (g . x - mean sum(g)) / std / C
            let mean_gh = (cpu::dot(dx, x) - mean * sum_g) * inv * scale;
            // dx = inv (g - mean(g) - (x - mean) inv mean(g h)), the parts without x gathered.
            let slope = -inv * mean_gh;
            let offset = -slope.mul_add(*mean, sum_g * scale);
            for j in 0..c {
                dx[j] = inv * slope.mul_add(x[j], dx[j] + offset);
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
        let mut rng = Rng::new(8);
        for _ in 0..20 {
            let (rows, c) = (rng.size(1, 30), rng.size(1, 70));
            let x = rng.tensor(&[rows, c]);
            let (w, b) = (
                Param::new("w", rng.tensor(&[c])),
                Param::new("b", rng.tensor(&[c])),
            );
            let y = Tape::inference()
                .layer_norm(&x.clone().into(), &w, &b, 1e-5)
                .unwrap();
            let (wv, bv) = (
                w.value().to_f32_vec().unwrap(),
                b.value().to_f32_vec().unwrap(),
            );
            let want: Vec<f32> = x
                .to_f32_vec()
                .unwrap()
                .chunks(c)
                .flat_map(|r| {
                    let mean = r.iter().map(|x| f64::from(*x)).sum::<f64>() / c as f64;
                    let var = r
                        .iter()
                        .map(|x| (f64::from(*x) - mean).powi(2))
                        .sum::<f64>()
                        / c as f64;
                    let inv = 1.0 / (var + 1e-5).sqrt();
                    (0..c)
                        .map(|j| {
                            ((f64::from(r[j]) - mean) * inv * f64::from(wv[j]) + f64::from(bv[j]))
                                as f32
                        })
                        .collect::<Vec<_>>()
                })
                .collect();
            close(y.value().data().unwrap(), &want, 2e-5, "layer_norm");
        }
    }

    #[test]
    fn gradients_agree_with_finite_differences() {
        let mut rng = Rng::new(9);
        let (w, b) = (
            Param::new("w", rng.tensor(&[13])),
            Param::new("b", rng.tensor(&[13])),
        );
        check_gradients(&[rng.tensor(&[2, 6, 13])], &[&w, &b], |tape, x| {
            tape.layer_norm(&x[0], &w, &b, 1e-5)
        });
    }
}
