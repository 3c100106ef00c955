//! Final fusion (`align_stages.0`): `fast_proj(y) + slow_proj(resample(z))`, both with bias.
//!
//! # Source
//! `MultiPathAlignModule` of LLaVA-HR.

use std::sync::Arc;

use llavar_tensor::{Result as TensorResult, Tape, Var, ops::Resample};

use super::places_as_rows;
use crate::{
    Result,
    layers::{Linear, Scope},
};

/// The sum of two projections that leaves the tower.
#[derive(Debug)]
pub(crate) struct Fusion {
    fast_proj: Linear,
    slow_proj: Linear,
    /// Slow grid to fast grid, where they differ.
    resample: Option<Arc<Resample>>,
}

impl Fusion {
    pub(crate) fn new(scope: &Scope<'_>, resample: Option<Arc<Resample>>) -> Result<Self> {
        Ok(Self {
            fast_proj: scope.linear("fast_proj")?,
            slow_proj: scope.linear("slow_proj")?,
            resample,
        })
    }

    /// `fast [B, f * f, C]`, `slow [B, s, s, Cs]` -> `[B, f * f, C]`.
    pub(crate) fn forward(&self, tape: &Tape, fast: &Var, slow: &Var) -> TensorResult<Var> {
        let slow = match &self.resample {
            Some(plan) => tape.resample(slow, plan)?,
            None => slow.clone(),
        };
        let slow = places_as_rows(tape, &slow)?;
        let fast = self.fast_proj.forward(tape, fast)?;
        self.slow_proj.forward_residual(tape, &slow, &fast)
    }
}
