//! Linear layer with an activation behind it: `y = f(x W^T + b)`.
//!
//! Shapes and gradients: those of [`Tape::linear`] and [`Tape::activation`], one after the other. Hopper
//! GPUs make both in one kernel in bf16: the activation then sees the sum in f32, not rounded to bf16.

use super::linear::output_shape;
use crate::{Param, Result, Tape, Var, cuda, ops::Activation};

impl Tape {
    /// The activation of `x W^T + b`.
    ///
    /// # Shapes
    /// `x [.., K]`, `weight [N, K]`, `bias [N]` -> `[.., N]`.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn linear_activation(
        &self,
        x: &Var,
        weight: &Param,
        bias: Option<&Param>,
        kind: Activation,
    ) -> Result<Var> {
        if let Some(cuda) = x.value().cuda() {
            let shape = output_shape(x, weight, bias, None)?;
            let made = cuda::ops::linear_activation(self, cuda, x, weight, bias, kind, &shape)?;
            if let Some(y) = made {
                return Ok(y);
            }
        }
        self.activation(&self.linear(x, weight, bias)?, kind)
    }
}
