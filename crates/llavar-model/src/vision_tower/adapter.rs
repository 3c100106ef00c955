//! MR-Adapter (`align_stages_latent`): brings the slow path's features into the fast path between its
//! layer groups.
//!
//! With fast tokens `y [B, f, f, C]` and the slow map `z [B, s, s, Cs]`:
//! ```text
//! h = resample(slow_proj(gelu(slow_conv(z))))                      // 1x1 convolutions
//! u = y + fast_proj(gelu(fast_conv(y)))                            // 7x7 depthwise, then 1x1
//! g = tanh(gate.2(gelu(gate.0(mean over tokens of [u, h]))))       // one number a picture
//! out = u + g h
//! ```
//! All GELU are exact. The projections start at zero, so a fresh adapter is the identity.
//!
//! # Source
//! `S2FStitchAlignModuleV2` of LLaVA-HR.

use std::sync::Arc;

use llavar_tensor::{
    Param, Result as TensorResult, Tape, Var,
    ops::{Activation, Resample},
};

use crate::{
    Result,
    layers::{Block, Linear, Scope},
};

/// One of the three adapters.
#[derive(Debug)]
pub(crate) struct Adapter {
    slow_conv: Linear,
    slow_proj: Linear,
    fast_conv: Linear,
    fast_proj: Linear,
    gate_hidden: Linear,
    gate_out: Linear,
    /// Slow grid to fast grid, where they differ.
    resample: Option<Arc<Resample>>,
}

impl Adapter {
    pub(crate) fn new(scope: &Scope<'_>, resample: Option<Arc<Resample>>) -> Result<Self> {
        let gate = scope.at("gate");
        Ok(Self {
            slow_conv: scope.linear("slow_conv")?,
            slow_proj: scope.linear("slow_proj")?,
            fast_conv: scope.linear("fast_conv")?,
            fast_proj: scope.linear("fast_proj")?,
            gate_hidden: gate.linear("0")?,
            gate_out: gate.linear("2")?,
            resample,
        })
    }

    /// `fast [B, f * f, C]`, `slow [B, s, s, Cs]` -> `[B, f * f, C]`.
    pub(crate) fn forward(
        &self,
        tape: &Tape,
        fast: &Var,
        slow: &Var,
        grid: usize,
    ) -> TensorResult<Var> {
        let (batch, c) = (
            fast.shape().first().copied().unwrap_or(0),
            fast.value().last_dim(),
        );
        let h = self
            .slow_conv
            .forward_activation(tape, slow, Activation::Gelu)?;
        let mut h = self.slow_proj.forward(tape, &h)?;
        if let Some(plan) = &self.resample {
            h = tape.resample(&h, plan)?;
        }
        let h = tape.reshape(&h, &[batch, grid * grid, c])?;

        let map = tape.reshape(fast, &[batch, grid, grid, c])?;
        let u = tape.depthwise_conv(&map, &self.fast_conv.weight, self.fast_conv.bias.as_ref())?;
        let u = tape.activation(&u, Activation::Gelu)?;
        let u = self.fast_proj.forward_residual(tape, &u, &map)?;
        let u = tape.reshape(&u, &[batch, grid * grid, c])?;

        // The mean of the concatenation is the concatenation of the means.
        let means = tape.concat_last(&tape.mean_tokens(&u)?, &tape.mean_tokens(&h)?)?;
        let gate = self
            .gate_hidden
            .forward_activation(tape, &means, Activation::Gelu)?;
        tape.gated_add(&u, &h, &self.gate_out.forward(tape, &gate)?)
    }
}

impl Block for Adapter {
    fn params(&self) -> Vec<&Param> {
        [
            &self.slow_conv,
            &self.slow_proj,
            &self.fast_conv,
            &self.fast_proj,
            &self.gate_hidden,
            &self.gate_out,
        ]
        .into_iter()
        .flat_map(Linear::params)
        .collect()
    }
}
