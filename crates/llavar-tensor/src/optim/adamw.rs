//! AdamW: moments and the update of one weight.

use half::bf16;
use rayon::prelude::*;

use super::{Precision, StepState, rounding, step::CpuStep};
use crate::{DType, Error, Param, Result, Tensor, cpu::kernel};

/// Elements a task updates: 4 streams of 64 KiB stay in the second-level cache.
pub(super) const CHUNK: usize = 16 << 10;

/// Elements of bf16 state that are widened at a time.
const BLOCK: usize = 1024;

/// AdamW (decoupled weight decay), as `torch.optim.AdamW` computes it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Seed of the stochastic rounding of [`Precision::PureBf16`]; of no effect otherwise.
    pub seed: u64,
}

impl Default for AdamW {
    fn default() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            seed: 0,
        }
    }
}

/// What the optimizer keeps for one weight, in its shape and on its device.
#[derive(Debug, Clone)]
pub struct Moments {
    /// Running mean of the gradient.
    pub exp_avg: Tensor,
    /// Running mean of the squared gradient.
    pub exp_avg_sq: Tensor,
    /// The weight in f32, where the model computes with a rounded copy.
    pub master: Option<Tensor>,
}

impl Moments {
    /// Zero moments for `param`, and its widened value as master where `precision` has one.
    ///
    /// # Errors
    /// When the weight has not the type that `precision` trains, or its device has no room.
    pub fn new(param: &Param, precision: Precision) -> Result<Self> {
        let value = param.value();
        if value.dtype() != precision.weights() {
            return Err(Error::DTypeMismatch {
                op: "adamw moments",
                expected: precision.weights(),
                got: value.dtype(),
            });
        }
        let zeros = || match value.cuda() {
            Some(cuda) => cuda.zeros(param.shape(), precision.states()),
            None => Tensor::zeros(param.shape()).cast(precision.states()),
        };
        Ok(Self {
            exp_avg: zeros()?,
            exp_avg_sq: zeros()?,
            master: if precision.has_master() {
                Some(value.cast(DType::F32)?)
            } else {
                None
            },
        })
    }

    /// How a weight with these moments is updated.
    pub(super) fn kind(&self, param: &Param, weight: &Tensor) -> Result<Kind> {
        let all = [&self.exp_avg, &self.exp_avg_sq];
        for tensor in all.into_iter().chain(&self.master) {
            if tensor.shape() != param.shape() {
                return Err(Error::ShapeMismatch {
                    op: "adamw moments",
                    expected: format!("{:?} of `{}`", param.shape(), param.name()),
                    got: tensor.shape().to_vec(),
                });
            }
            if tensor.device() != weight.device() {
                return Err(Error::DeviceMismatch {
                    op: "adamw moments",
                    expected: weight.device().to_string(),
                    got: tensor.device().to_string(),
                });
            }
        }
        let [mean, square] = all.map(Tensor::dtype);
        let master = self.master.as_ref().map(Tensor::dtype);
        match (weight.dtype(), mean, square, master) {
            (DType::F32, DType::F32, DType::F32, None) => Ok(Kind::F32),
            (DType::BF16, DType::F32, DType::F32, Some(DType::F32)) => Ok(Kind::Master),
            (DType::BF16, DType::BF16, DType::BF16, None) => Ok(Kind::Pure),
            (weight, mean, square, master) => Err(Error::InvalidArgument {
                op: "adamw",
                reason: format!(
                    "`{}`: a weight of {weight} with moments of {mean} and {square} and {} is not supported",
                    param.name(),
                    master.map_or("no master".into(), |m| format!("a master of {m}"))
                ),
            }),
        }
    }
}

/// The three ways to update, one for each [`Precision`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    F32,
    Master,
    Pure,
}

/// Key of the random bits of one weight; the update is mixed in where it is known.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RoundingKey(pub(crate) u64);

impl AdamW {
    /// Updates `param` from its accumulated gradient; nothing happens where there is none, or where the
    /// norm of the step was not finite. On a GPU the update is queued.
    ///
    /// `m = b1 m + (1 - b1) g`, `v = b2 v + (1 - b2) g^2`,
    /// `p = p (1 - lr wd) - lr m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)`, where `g` is the gradient
    /// after clipping and `t` the number of this update, both from `state`. Arithmetic is in f32. With a
    /// master, `p` is the master and the weight its nearest bf16; without one, weight and second moment
    /// in bf16 are rounded stochastically.
    ///
    /// # Errors
    /// When the moments do not fit the weight, the step has not begun, or devices differ.
    pub fn update(
        &self,
        param: &Param,
        moments: &mut Moments,
        lr: f32,
        weight_decay: f32,
        state: &StepState,
    ) -> Result<()> {
        let mut updates = self.updates(state)?;
        updates.add(param, moments, lr, weight_decay)?;
        updates.finish()
    }

    pub(super) fn update_on_cpu(
        &self,
        kind: Kind,
        weight: &mut Tensor,
        grad: &Tensor,
        moments: &mut Moments,
        [lr, weight_decay]: [f32; 2],
        step: &CpuStep,
        key: RoundingKey,
    ) -> Result<()> {
        if step.skipped {
            return Ok(());
        }
        let factors = Factors {
            adam: *self,
            scale: step.scale,
            step_size: (f64::from(lr) / step.correction1) as f32,
            inv_root: (1.0 / step.correction2.sqrt()) as f32,
            keep: (1.0 - f64::from(lr) * f64::from(weight_decay)) as f32,
        };
        let g = grad.data::<f32>()?.par_chunks(CHUNK);
        if kind == Kind::Pure {
            let stream = rounding::stream(key.0, step.updates);
            let m = moments.exp_avg.data_mut::<bf16>()?.par_chunks_mut(CHUNK);
            let v = moments.exp_avg_sq.data_mut::<bf16>()?.par_chunks_mut(CHUNK);
            let p = weight.data_mut::<bf16>()?.par_chunks_mut(CHUNK);
            p.zip(g)
                .zip(m.zip(v))
                .enumerate()
                .for_each(|(i, ((p, g), (m, v)))| {
                    update_pure(factors, stream, i * CHUNK, p, g, m, v);
                });
            return Ok(());
        }
        let m = moments.exp_avg.data_mut::<f32>()?.par_chunks_mut(CHUNK);
        let v = moments.exp_avg_sq.data_mut::<f32>()?.par_chunks_mut(CHUNK);
        match &mut moments.master {
            None => {
                let p = weight.data_mut::<f32>()?.par_chunks_mut(CHUNK);
                p.zip(g).zip(m.zip(v)).for_each(|((p, g), (m, v))| {
                    update(factors, p, g, m, v);
                });
            }
            Some(master) => {
                let p = master.data_mut::<f32>()?.par_chunks_mut(CHUNK);
                let w = weight.data_mut::<bf16>()?.par_chunks_mut(CHUNK);
                p.zip(w)
                    .zip(g)
                    .zip(m.zip(v))
                    .for_each(|(((p, w), g), (m, v))| {
                        update(factors, p, g, m, v);
                        for (w, p) in w.iter_mut().zip(p) {
                            *w = bf16::from_f32(*p);
                        }
                    });
            }
        }
        Ok(())
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
        let AdamW { beta1, beta2, eps, .. } = f.adam;
        for i in 0..n {
            let g = g[i] * f.scale;
            m[i] = beta1.mul_add(m[i], (1.0 - beta1) * g);
            v[i] = beta2.mul_add(v[i], (1.0 - beta2) * g * g);
            p[i] = p[i] * f.keep - f.step_size * m[i] / (v[i].sqrt() * f.inv_root + eps);
        }
    }
}

/// As [`update`] on bf16, with stochastic rounding; `first` is the index of the first element.
fn update_pure(
    f: Factors,
    stream: u32,
    first: usize,
    p: &mut [bf16],
    g: &[f32],
    m: &mut [bf16],
    v: &mut [bf16],
) {
    let mut wide = [[0.0f32; BLOCK]; 3];
    let blocks = p.chunks_mut(BLOCK).zip(g.chunks(BLOCK));
    let states = m.chunks_mut(BLOCK).zip(v.chunks_mut(BLOCK));
    for (b, ((p, g), (m, v))) in blocks.zip(states).enumerate() {
        let n = p.len();
        let [wp, wm, wv] = &mut wide;
        for (wide, narrow) in [(&mut *wp, &*p), (&mut *wm, &*m), (&mut *wv, &*v)] {
            for (wide, narrow) in wide.iter_mut().zip(narrow) {
                *wide = narrow.to_f32();
            }
        }
        update(f, &mut wp[..n], g, &mut wm[..n], &mut wv[..n]);
        for i in 0..n {
            let random = rounding::bits(stream, (first + b * BLOCK + i) as u64);
            p[i] = rounding::stochastic(wp[i], random);
            m[i] = bf16::from_f32(wm[i]);
            v[i] = rounding::stochastic(wv[i], random >> 16);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Device,
        optim::testing::{self, PRECISIONS, set_grad},
    };

    #[test]
    fn updates_agree_with_the_formula_in_f64() {
        for precision in PRECISIONS {
            testing::updates_agree_with_the_formula(&Device::Cpu, precision);
        }
    }

    #[test]
    fn pure_bf16_is_unbiased_over_many_steps() {
        testing::pure_bf16_is_unbiased(&Device::Cpu);
    }

    #[test]
    fn moments_that_do_not_fit_are_refused() {
        let adamw = AdamW::default();
        let param = Param::new("p", Tensor::zeros(&[4]));
        assert!(Moments::new(&param, Precision::MixedBf16).is_err());
        set_grad(&param, &[1.0; 4]);
        let mut state = StepState::new(&Device::Cpu, 0, &adamw).unwrap();
        state.begin([&param], 0.0).unwrap();
        let good = Moments::new(&param, Precision::F32).unwrap();
        for (name, mut bad) in [
            (
                "shape",
                Moments {
                    exp_avg: Tensor::zeros(&[3]),
                    ..good.clone()
                },
            ),
            (
                "master",
                Moments {
                    master: Some(Tensor::zeros(&[4])),
                    ..good.clone()
                },
            ),
            (
                "type",
                Moments {
                    exp_avg: good.exp_avg.cast(DType::BF16).unwrap(),
                    ..good
                },
            ),
        ] {
            assert!(
                adamw.update(&param, &mut bad, 0.1, 0.0, &state).is_err(),
                "{name}"
            );
        }
        assert_eq!(param.value().to_f32_vec().unwrap(), [0.0; 4]);
    }
}
