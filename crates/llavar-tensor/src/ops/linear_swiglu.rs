//! Gate and up of a decoder layer with SwiGLU behind them: `y = silu(x G^T) * (x U^T)`.
//!
//! Shapes and gradients: those of [`Tape::linear`] and [`Tape::swiglu`], one after the other. Hopper GPUs make
//! all in one kernel in bf16: SwiGLU then sees the sums in f32, not rounded to bf16.

use super::linear::output_shape;
use crate::{Param, Result, Tape, Var, cuda};

/// Weights of gate and up.
#[derive(Debug, Clone, Copy)]
pub enum GateUp<'a> {
    /// `[2 F, K]`, the gate first, as Phi-3 stores `gate_up_proj`.
    Fused(&'a Param),
    /// `[F, K]` each.
    Split {
        /// Weight of the gate.
        gate: &'a Param,
        /// Weight of the up projection.
        up: &'a Param,
    },
}

impl Tape {
    /// `silu(x gate^T) * (x up^T)`.
    ///
    /// # Shapes
    /// `x [.., K]` -> `[.., F]`.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn linear_swiglu(&self, x: &Var, weights: GateUp<'_>) -> Result<Var> {
        if let Some(cuda) = x.value().cuda() {
            let (params, parts) = match weights {
                GateUp::Fused(both) => (vec![both], 2),
                GateUp::Split { gate, up } => (vec![gate, up], 1),
            };
            let shapes = params
                .iter()
                .map(|param| output_shape(x, param, None, None));
            let mut shapes = shapes.collect::<Result<Vec<_>>>()?;
            let alike = shapes.iter().all(|shape| *shape == shapes[0]);
            let mut shape = shapes.swap_remove(0);
            // What does not fit is told by the operations one by one, below.
            if let Some(last) = shape
                .last_mut()
                .filter(|n| alike && n.is_multiple_of(parts))
            {
                *last /= parts;
                let made = cuda::ops::linear_swiglu(self, cuda, x, &params, &shape)?;
                if let Some(y) = made {
                    return Ok(y);
                }
            }
        }
        match weights {
            GateUp::Fused(both) => self.swiglu_fused(&self.linear(x, both, None)?),
            GateUp::Split { gate, up } => {
                self.swiglu(&self.linear(x, gate, None)?, &self.linear(x, up, None)?)
            }
        }
    }
}
