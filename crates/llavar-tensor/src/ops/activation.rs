//! Element-wise activations.
//!
//! - `Gelu`: `x Phi(x)` with the exact normal distribution function (erf);
//!   `d = Phi(x) + x phi(x)`.
//! - `QuickGelu`: `x sigmoid(1.702 x)` (CLIP); `d = s + 1.702 x s (1 - s)`.
//!
//! Shapes: any. The input is saved, not the output.

use crate::{
    Result, Tape, Tensor, Var,
    cpu::{self, kernel},
    cuda,
    memory::Buffer,
};

/// Which function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// Exact (erf) GELU.
    Gelu,
    /// `x sigmoid(1.702 x)`.
    QuickGelu,
}

const QUICK: f32 = 1.702;
const FRAC_1_SQRT_2PI: f32 = 0.398_942_3;

#[inline(always)]
fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + cpu::erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

#[inline(always)]
fn gelu_slope(x: f32) -> f32 {
    let phi = FRAC_1_SQRT_2PI * cpu::exp(-0.5 * x * x);
    x.mul_add(
        phi,
        0.5 * (1.0 + cpu::erf(x * std::f32::consts::FRAC_1_SQRT_2)),
    )
}

#[inline(always)]
fn quick_gelu(x: f32) -> f32 {
    x * cpu::sigmoid(QUICK * x)
}

#[inline(always)]
fn quick_gelu_slope(x: f32) -> f32 {
    let s = cpu::sigmoid(QUICK * x);
    s * (QUICK * x).mul_add(1.0 - s, 1.0)
}

impl Tape {
    /// The activation of every element.
    ///
    /// # Errors
    /// When `x` is not f32 (or bf16 on a GPU).
    pub fn activation(&self, x: &Var, kind: Activation) -> Result<Var> {
        if let Some(cuda) = x.value().cuda() {
            return cuda::ops::activation(self, cuda, x, kind);
        }
        let mut out = Buffer::<f32>::unspecified(x.value().numel());
        {
            let x = x.value().data::<f32>()?;
            cpu::par_chunks(&mut out, |first, out| {
                forward(kind, &x[first..first + out.len()], out);
            });
        }
        let out = Tensor::from_buffer(out, x.shape());
        if !self.needs_grad(&[x], &[]) {
            return Ok(Var::constant(out));
        }
        let x = x.clone();
        Ok(self.record(out, move |mut dy, grads| {
            let input = x.value().data::<f32>()?;
            let g = dy.data_mut::<f32>()?;
            cpu::par_chunks(g, |first, g| {
                backward(kind, &input[first..first + g.len()], g)
            });
            grads.add(&x, dy)
        }))
    }
}

kernel! {
    /// The function of every element.
    fn forward(kind: Activation, x: &[f32], out: &mut [f32]) {
        let each = out.iter_mut().zip(x);
        match kind {
            Activation::Gelu => {
                for (out, x) in each {
                    *out = gelu(*x);
                }
            }
            Activation::QuickGelu => {
                for (out, x) in each {
                    *out = quick_gelu(*x);
                }
            }
        }
    }
}

kernel! {
    /// `g *= slope at x`.
    fn backward(kind: Activation, x: &[f32], g: &mut [f32]) {
        let each = g.iter_mut().zip(x);
        match kind {
            Activation::Gelu => {
                for (g, x) in each {
                    *g *= gelu_slope(*x);
                }
            }
            Activation::QuickGelu => {
                for (g, x) in each {
                    *g *= quick_gelu_slope(*x);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{Rng, check_gradients, close};

    #[test]
    fn known_values() {
        // GELU(1) = Phi(1) = 0.8413447; quick GELU(1) = 1 / (1 + e^-1.702) = 0.8457958.
        let x = Tensor::from_vec(vec![1.0f32, -1.0, 0.0, 40.0, -40.0], &[5]).unwrap();
        let y = Tape::inference()
            .activation(&x.clone().into(), Activation::Gelu)
            .unwrap();
        close(
            y.value().data().unwrap(),
            &[0.841_344_8, -0.158_655_25, 0.0, 40.0, 0.0],
            1e-6,
            "gelu",
        );
        let y = Tape::inference()
            .activation(&x.into(), Activation::QuickGelu)
            .unwrap();
        close(
            y.value().data().unwrap(),
            &[0.845_795_8, -0.154_204_2, 0.0, 40.0, 0.0],
            1e-6,
            "quick gelu",
        );
    }

    #[test]
    fn gradients_agree_with_finite_differences() {
        let mut rng = Rng::new(5);
        for kind in [Activation::Gelu, Activation::QuickGelu] {
            check_gradients(&[rng.tensor(&[3, 37])], &[], |tape, x| {
                tape.activation(&x[0], kind)
            });
        }
    }
}
