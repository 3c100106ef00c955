//! ConvNeXt, the slow path: the picture at full size, stride 32, last stage un-normalised.
//!
//! Stem: 4x4 convolution of stride 4 and LayerNorm over the channels. Stage i > 0 begins with LayerNorm
//! and a 2x2 convolution of stride 2. Block:
//! `x + gamma * fc2(gelu(fc1(norm(depthwise 7x7 of x))))`, exact GELU.
//! Activations are `[B, H, W, C]`, so that every norm and linear layer runs over the last axis.
//!
//! # Source
//! timm's plain ConvNeXt, as `convnext_large_mlp` and `convnext_xxlarge` are used by LLaVA-HR; the layer
//! scale is called `weight` in the published files.

use std::sync::Arc;

use llavar_tensor::{
    Param, Result as TensorResult, Tape, Var,
    ops::{Activation, ConvNextMlp},
};

use super::Observer;
use crate::{
    Checkpointing, Result,
    config::ConvNextConfig,
    layers::{Block, LayerNorm, Linear, Scope, run_simple},
};

/// Whether a weight of the model lies under a layer scale: a GPU keeps a copy of it that is scaled.
pub fn has_layer_scale(name: &str) -> bool {
    name.contains(".stages.") && name.ends_with(".mlp.fc2.weight")
}

/// The convolutional tower without its unused head.
#[derive(Debug)]
pub(crate) struct ConvNext {
    stem: Arc<Stem>,
    stages: Vec<Stage>,
}

#[derive(Debug)]
struct Stem {
    conv: Linear,
    norm: LayerNorm,
}

#[derive(Debug)]
struct Stage {
    downsample: Option<Arc<Downsample>>,
    blocks: Vec<Arc<ConvNextBlock>>,
}

#[derive(Debug)]
struct Downsample {
    norm: LayerNorm,
    conv: Linear,
}

#[derive(Debug)]
struct ConvNextBlock {
    conv_dw: Linear,
    norm: LayerNorm,
    fc1: Linear,
    fc2_weight: Param,
    fc2_bias: Param,
    gamma: Param,
}

const STEM_STRIDE: usize = 4;
const DOWNSAMPLE_STRIDE: usize = 2;

impl ConvNext {
    pub(crate) fn new(scope: &Scope<'_>, config: &ConvNextConfig) -> Result<Self> {
        let eps = config.layer_norm_eps;
        let stem = scope.at("stem");
        let stages = config
            .depths
            .iter()
            .enumerate()
            .map(|(i, depth)| {
                let stage = scope.at("stages").at(i);
                let down = stage.at("downsample");
                let downsample = if i > 0 {
                    let (norm, conv) = (down.layer_norm("0", eps)?, down.linear("1")?);
                    Some(Arc::new(Downsample { norm, conv }))
                } else {
                    None
                };
                let blocks = (0..*depth)
                    .map(|j| {
                        Ok(Arc::new(ConvNextBlock::new(
                            &stage.at("blocks").at(j),
                            eps,
                        )?))
                    })
                    .collect::<Result<_>>()?;
                Ok(Stage { downsample, blocks })
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            stem: Arc::new(Stem {
                conv: stem.linear("0")?,
                norm: stem.layer_norm("1", eps)?,
            }),
            stages,
        })
    }

    /// Stem, steps between the stages, and blocks.
    pub(crate) fn blocks(&self) -> usize {
        let stages = self.stages.iter();
        1 + stages
            .map(|s| s.blocks.len() + usize::from(s.downsample.is_some()))
            .sum::<usize>()
    }

    /// `pixels [B, S, S, 3]` -> `[B, S/32, S/32, dims[3]]`. Stages seen: `slow.stem`, `slow.stage0` to
    /// `slow.stage3`.
    pub(crate) fn forward(
        &self,
        tape: &Tape,
        pixels: &Var,
        checkpoint: Checkpointing,
        observe: &mut Observer<'_>,
    ) -> TensorResult<Var> {
        let mut left = self.blocks();
        let mut again = || {
            left -= 1;
            checkpoint.recomputes(left + 1)
        };
        let mut x = run_simple(tape, &self.stem, pixels, again(), Stem::forward)?;
        observe("slow.stem", &x);
        for (i, stage) in self.stages.iter().enumerate() {
            if let Some(downsample) = &stage.downsample {
                x = run_simple(tape, downsample, &x, again(), Downsample::forward)?;
            }
            for block in &stage.blocks {
                x = run_simple(tape, block, &x, again(), ConvNextBlock::forward)?;
            }
            observe(&format!("slow.stage{i}"), &x);
        }
        Ok(x)
    }
}

impl Stem {
    fn forward(&self, tape: &Tape, pixels: &Var) -> TensorResult<Var> {
        let patches = tape.patchify(pixels, STEM_STRIDE)?;
        self.norm.forward(tape, &self.conv.forward(tape, &patches)?)
    }
}

impl Downsample {
    fn forward(&self, tape: &Tape, x: &Var) -> TensorResult<Var> {
        let x = self.norm.forward(tape, x)?;
        let patches = tape.patchify(&x, DOWNSAMPLE_STRIDE)?;
        tape.closing(|tape| self.conv.forward(tape, &patches))
    }
}

impl ConvNextBlock {
    fn new(scope: &Scope<'_>, eps: f64) -> Result<Self> {
        let mlp = scope.at("mlp");
        Ok(Self {
            conv_dw: scope.linear("conv_dw")?,
            norm: scope.layer_norm("norm", eps)?,
            fc1: mlp.linear("fc1")?,
            fc2_weight: mlp.at("fc2").param("weight")?,
            fc2_bias: mlp.at("fc2").param("bias")?,
            gamma: scope.param("weight")?,
        })
    }

    fn forward(&self, tape: &Tape, x: &Var) -> TensorResult<Var> {
        let y = tape.depthwise_conv(x, &self.conv_dw.weight, self.conv_dw.bias.as_ref())?;
        let width = self.fc1.weight.shape().first().copied().unwrap_or(0);
        tape.by_rows(&[x.clone(), y], width, |tape, rows| {
            if let Some(y) = self.mlp_in_one(tape, &rows[0], &rows[1])? {
                return Ok(y);
            }
            let y = self.norm.forward(tape, &rows[1])?;
            let y = self.fc1.forward_activation(tape, &y, Activation::Gelu)?;
            tape.closing(|tape| {
                tape.linear_layer_scale(&rows[0], &y, &self.fc2_weight, &self.fc2_bias, &self.gamma)
            })
        })
    }
}

impl ConvNextBlock {
    /// What follows the convolution, where there is one kernel for it.
    fn mlp_in_one(&self, tape: &Tape, x: &Var, v: &Var) -> TensorResult<Option<Var>> {
        let (None, Some(bias)) = (&self.fc1.lora, &self.fc1.bias) else {
            return Ok(None);
        };
        let (norm, eps) = self.norm.weights();
        let mlp = ConvNextMlp {
            layers: [
                norm,
                [&self.fc1.weight, bias],
                [&self.fc2_weight, &self.fc2_bias],
            ],
            gamma: &self.gamma,
            eps,
        };
        tape.convnext_mlp(x, v, &mlp)
    }
}

impl Block for Stem {
    fn params(&self) -> Vec<&Param> {
        self.conv.params().chain(self.norm.params()).collect()
    }
}

impl Block for Downsample {
    fn params(&self) -> Vec<&Param> {
        self.norm.params().chain(self.conv.params()).collect()
    }
}

impl Block for ConvNextBlock {
    fn params(&self) -> Vec<&Param> {
        self.conv_dw
            .params()
            .chain(self.norm.params())
            .chain(self.fc1.params())
            .chain([&self.fc2_weight, &self.fc2_bias, &self.gamma])
            .collect()
    }
}
