//! AdamW and the global gradient norm.

use rayon::prelude::*;

use crate::{
    Error, Param, Result, Tensor,
    cpu::{dot, kernel, par_reduce},
};

/// Elements a task updates: 4 streams of 64 KiB stay in the second-level cache.
const CHUNK: usize = 16 << 10;

/// AdamW (decoupled weight decay), as `torch.optim.AdamW` computes it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
}

impl Default for AdamW {
    fn default() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
        }
    }
}

/// First and second moment of one weight, f32, in its shape.
#[derive(Debug, Clone)]
pub struct Moments {
    /// Running mean of the gradient.
    pub exp_avg: Tensor,
    /// Running mean of the squared gradient.
    pub exp_avg_sq: Tensor,
}

impl Moments {
    /// Zero moments for `param`.
    pub fn new(param: &Param) -> Self {
        Self {
            exp_avg: Tensor::zeros(param.shape()),
            exp_avg_sq: Tensor::zeros(param.shape()),
        }
    }
}

/// What one update needs beside the weight.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct UpdateArgs {
    /// Learning rate.
    pub lr: f32,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// Number of this update, from 1 (for the bias correction).
    pub step: u64,
    /// Factor on the gradient (from clipping).
    pub grad_scale: f32,
}

impl AdamW {
    /// Updates `param` from its accumulated gradient; nothing happens where there is none.
    ///
    /// `m = b1 m + (1 - b1) g`, `v = b2 v + (1 - b2) g^2`,
    /// `p = p (1 - lr wd) - lr m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)`.
    ///
    /// # Errors
    /// When the moments have another shape, or the weight is not f32.
    pub fn update(&self, param: &Param, moments: &mut Moments, args: UpdateArgs) -> Result<()> {
        if moments.exp_avg.shape() != param.shape() || moments.exp_avg_sq.shape() != param.shape() {
            return Err(Error::ShapeMismatch {
                op: "adamw moments",
                expected: format!("{:?} of `{}`", param.shape(), param.name()),
                got: moments.exp_avg.shape().to_vec(),
            });
        }
        // Bias corrections in f64, as torch computes them in Python floats.
        let correction1 = 1.0 - f64::from(self.beta1).powf(args.step as f64);
        let correction2 = 1.0 - f64::from(self.beta2).powf(args.step as f64);
        let factors = Factors {
            adam: *self,
            scale: args.grad_scale,
            step_size: (f64::from(args.lr) / correction1) as f32,
            inv_root: (1.0 / correction2.sqrt()) as f32,
            keep: (1.0 - f64::from(args.lr) * f64::from(args.weight_decay)) as f32,
        };
        param.update(|p, grad| {
            let Some(g) = grad else { return Ok(()) };
            let m = moments.exp_avg.data_mut::<f32>()?;
            let v = moments.exp_avg_sq.data_mut::<f32>()?;
            p.par_chunks_mut(CHUNK)
                .zip(g.par_chunks(CHUNK))
                .zip(m.par_chunks_mut(CHUNK).zip(v.par_chunks_mut(CHUNK)))
                .for_each(|((p, g), (m, v))| {
                    update(factors, p, g, m, v);
                });
            Ok(())
        })
    }
}

/// What is the same for all elements of a weight.
#[derive(Debug, Clone, Copy)]
struct Factors {
    adam: AdamW,
    /// Of the gradient.
    scale: f32,
    /// Learning rate over the bias correction of the first moment.
    step_size: f32,
    /// 1 / root of the bias correction of the second moment.
    inv_root: f32,
    /// What weight decay leaves of the weight.
    keep: f32,
}

kernel! {
    /// One step of AdamW on a run of elements.
    fn update(f: Factors, p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32]) {
        let n = p.len();
        let (g, m, v) = (&g[..n], &mut m[..n], &mut v[..n]);
        let AdamW { beta1, beta2, eps } = f.adam;
        for i in 0..n {
            let g = g[i] * f.scale;
            m[i] = beta1.mul_add(m[i], (1.0 - beta1) * g);
            v[i] = beta2.mul_add(v[i], (1.0 - beta2) * g * g);
            p[i] = p[i] * f.keep - f.step_size * m[i] / (v[i].sqrt() * f.inv_root + eps);
        }
    }
}

/// L2 norm of all accumulated gradients together (0 where there are none). Not finite when any
/// gradient is not.
///
/// # Errors
/// When a gradient is not f32.
pub fn global_grad_norm<'a>(params: impl IntoIterator<Item = &'a Param>) -> Result<f32> {
    let mut total = 0.0f64;
    for grad in params.into_iter().filter_map(Param::grad) {
        total += squared_norm(grad.data::<f32>()?);
    }
    Ok(total.sqrt() as f32)
}

/// Sum of squares, in a partition that depends on the length alone.
fn squared_norm(x: &[f32]) -> f64 {
    let rows = x.len().div_ceil(CHUNK);
    // Each part adds its chunks up in f32 lanes of at most 1,024 terms, then in f64 held as two f32.
    let parts = par_reduce(rows, 2, |range, acc| {
        let mut sum = 0.0f64;
        for chunk in x[range.start * CHUNK..(range.end * CHUNK).min(x.len())].chunks(CHUNK) {
            sum += f64::from(dot(chunk, chunk));
        }
        acc[0] = sum as f32;
        acc[1] = (sum - f64::from(acc[0])) as f32;
    });
    f64::from(parts[0]) + f64::from(parts[1])
}

/// Factor that brings a gradient of norm `norm` down to at most `max_norm`, as
/// `torch.nn.utils.clip_grad_norm_` has it; 1 where `max_norm` is 0 (no clipping).
pub fn clip_factor(norm: f32, max_norm: f32) -> f32 {
    if max_norm > 0.0 {
        (max_norm / (norm + 1e-6)).min(1.0)
    } else {
        1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{Rng, close};

    #[test]
    fn updates_agree_with_the_formula_in_f64() {
        let mut rng = Rng::new(21);
        let n = CHUNK + 77;
        let param = Param::new("p", rng.tensor(&[n]));
        let mut moments = Moments::new(&param);
        let mut p: Vec<f64> = param
            .value()
            .to_f32_vec()
            .unwrap()
            .into_iter()
            .map(f64::from)
            .collect();
        let (mut m, mut v) = (vec![0.0f64; n], vec![0.0f64; n]);
        for step in 1..=5u64 {
            let g = rng.vec(n);
            param.zero_grad();
            param
                .accumulate(|out, _| {
                    out.copy_from_slice(&g);
                    Ok(())
                })
                .unwrap();
            let args = UpdateArgs {
                lr: 0.01,
                weight_decay: 0.1,
                step,
                grad_scale: 0.5,
            };
            AdamW::default().update(&param, &mut moments, args).unwrap();
            for i in 0..n {
                let g = f64::from(g[i]) * 0.5;
                m[i] = 0.9 * m[i] + 0.1 * g;
                v[i] = 0.999 * v[i] + 0.001 * g * g;
                let (mh, vh) = (
                    m[i] / (1.0 - 0.9f64.powi(step as i32)),
                    v[i] / (1.0 - 0.999f64.powi(step as i32)),
                );
                p[i] = p[i] * (1.0 - 0.01 * 0.1) - 0.01 * mh / (vh.sqrt() + 1e-8);
            }
        }
        let want: Vec<f32> = p.into_iter().map(|x| x as f32).collect();
        close(&param.value().to_f32_vec().unwrap(), &want, 1e-5, "adamw");
    }

    #[test]
    fn norm_is_exact_and_shows_bad_values() {
        let a = Param::new("a", Tensor::zeros(&[3 * CHUNK + 5]));
        let b = Param::new("b", Tensor::zeros(&[2]));
        let none = Param::new("none", Tensor::zeros(&[2]));
        for (param, value) in [(&a, 0.5f32), (&b, 3.0)] {
            param
                .accumulate(|g, _| {
                    g.fill(value);
                    Ok(())
                })
                .unwrap();
        }
        let want = (0.25 * (3 * CHUNK + 5) as f64 + 18.0).sqrt() as f32;
        assert_eq!(global_grad_norm([&a, &b, &none]).unwrap(), want);
        b.accumulate(|g, _| {
            g[1] = f32::INFINITY;
            Ok(())
        })
        .unwrap();
        assert!(!global_grad_norm([&a, &b]).unwrap().is_finite());
        assert_eq!((clip_factor(0.5, 1.0), clip_factor(9.0, 0.0)), (1.0, 1.0));
        assert!((clip_factor(4.0, 1.0) - 0.25).abs() < 1e-6);
    }
}
