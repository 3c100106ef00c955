//! The projector (`mm_projector`) from the tower's width to the language model's.
//!
//! `linear`; `mlpNx_gelu`: N linear layers with exact GELU between them; `identity`.

use llavar_tensor::{Result as TensorResult, Tape, Var, ops::Activation};

use crate::{
    Result,
    config::{ProjectorConfig, ProjectorKind},
    layers::{Linear, ParamSet},
};

/// Linear layers with GELU between them; none for `identity`.
#[derive(Debug)]
pub struct MmProjector {
    layers: Vec<Linear>,
}

impl MmProjector {
    pub(crate) fn new(set: &ParamSet, config: &ProjectorConfig) -> Result<Self> {
        let layers = match config.kind {
            ProjectorKind::Identity => Vec::new(),
            ProjectorKind::Linear => vec![set.scope("model").linear("mm_projector")?],
            ProjectorKind::Mlp { depth } => {
                let scope = set.scope("model.mm_projector");
                // The GELUs between the layers take the odd numbers.
                (0..depth)
                    .map(|n| scope.linear(&(2 * n).to_string()))
                    .collect::<Result<_>>()?
            }
        };
        Ok(Self { layers })
    }

    /// `x [.., mm_hidden_size]` -> `[.., hidden_size]`.
    ///
    /// # Errors
    /// When the width is another.
    pub fn forward(&self, tape: &Tape, x: &Var) -> TensorResult<Var> {
        let mut x = x.clone();
        for (n, layer) in self.layers.iter().enumerate() {
            x = match n + 1 < self.layers.len() {
                true => layer.forward_activation(tape, &x, Activation::Gelu)?,
                false => layer.forward(tape, &x)?,
            };
        }
        Ok(x)
    }
}
