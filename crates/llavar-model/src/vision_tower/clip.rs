//! CLIP's vision transformer, the fast path, and the whole tower of plain LLaVA.
//!
//! Embeddings: patch convolution (no bias), class token in front, position embeddings (interpolated
//! where the grid is another than the one trained). Layer:
//! `x = x + attention(layer_norm1(x)); x = x + fc2(act(fc1(layer_norm2(x))))`.
//! `post_layernorm` is never applied. Activations are `[B, tokens, C]`.
//!
//! # Source
//! CLIP of transformers; dropping the class token before the layers is the two-path tower of LLaVA-HR.

use std::sync::Arc;

use llavar_tensor::{
    Param, Result as TensorResult, Segments, Tape, Var,
    ops::{Activation, AttentionSpec, Resample},
};

use super::Observer;
use crate::{
    Result,
    config::{ClipActivation, ClipConfig},
    layers::{Block, Halves, LayerNorm, Linear, Scope, run_halves, with_zero_gradient},
};

/// The transformer without its unused last norm.
#[derive(Debug)]
pub(crate) struct Clip {
    config: ClipConfig,
    class_embedding: Param,
    patch_embedding: Linear,
    position_embedding: Param,
    pre_layrnorm: LayerNorm,
    layers: Vec<Arc<ClipLayer>>,
    /// Position interpolation, where the input grid needs one.
    interpolate: Option<Arc<Resample>>,
    /// Patches along one side of the input.
    grid: usize,
}

#[derive(Debug)]
struct ClipLayer {
    layer_norm1: LayerNorm,
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    out_proj: Linear,
    layer_norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    heads: usize,
    activation: Activation,
}

impl Clip {
    /// `grid`: patches along one side of the pictures that will come.
    pub(crate) fn new(scope: &Scope<'_>, config: &ClipConfig, grid: usize) -> Result<Self> {
        let scope = scope.at("vision_model");
        let embeddings = scope.at("embeddings");
        let trained = config.position_grid();
        Ok(Self {
            class_embedding: embeddings.param("class_embedding")?,
            patch_embedding: embeddings.linear_no_bias("patch_embedding")?,
            position_embedding: embeddings.at("position_embedding").param("weight")?,
            pre_layrnorm: scope.layer_norm("pre_layrnorm", config.layer_norm_eps)?,
            layers: (0..config.num_hidden_layers)
                .map(|n| {
                    Ok(Arc::new(ClipLayer::new(
                        &scope.at("encoder").at("layers").at(n),
                        config,
                    )?))
                })
                .collect::<Result<_>>()?,
            interpolate: (grid != trained).then(|| {
                Arc::new(Resample::bicubic_antialias(
                    (trained, trained),
                    (grid, grid),
                ))
            }),
            grid,
            config: config.clone(),
        })
    }

    pub(crate) fn depth(&self) -> usize {
        self.layers.len()
    }

    /// `pixels [B, F, F, 3]` -> patch embeddings with positions, `[B, f * f, C]`, without class token.
    ///
    /// The class token takes no part in anything that follows, so its gradient is zero (not absent, as
    /// in the reference, whose optimizer therefore keeps a state for it).
    pub(crate) fn embed_patches(&self, tape: &Tape, pixels: &Var) -> TensorResult<Var> {
        let patches = self.patches(tape, pixels)?;
        let batch = pixels.shape().first().copied().unwrap_or(0);
        let (n, c) = (self.grid * self.grid, self.config.hidden_size);
        let patches = with_zero_gradient(tape, patches, &self.class_embedding);
        let patches = tape.reshape(&patches, &[batch, n, c])?;
        tape.add_broadcast(&patches, &self.grid_positions(tape)?)
    }

    /// `pixels [B, F, F, 3]` -> class token and patches with positions, `[B, 1 + f * f, C]`.
    pub(crate) fn embed_all(&self, tape: &Tape, pixels: &Var) -> TensorResult<Var> {
        let patches = self.patches(tape, pixels)?;
        let batch = pixels.shape().first().copied().unwrap_or(0);
        let (n, c) = (self.grid * self.grid, self.config.hidden_size);
        // Id 0 is the class token, the only row of its table; the others take the patches in order.
        let ids: Vec<i32> = (0..batch * (n + 1))
            .map(|t| if t % (n + 1) == 0 { 0 } else { -1 })
            .collect();
        let tokens = tape.embed_merge(&self.class_embedding, &ids, Some(&patches))?;
        let tokens = tape.reshape(&tokens, &[batch, n + 1, c])?;
        // Plain LLaVA takes pictures of the trained size only: nothing is interpolated.
        let positions = tape.param(&self.position_embedding)?;
        tape.add_broadcast(&tokens, &positions)
    }

    fn patches(&self, tape: &Tape, pixels: &Var) -> TensorResult<Var> {
        self.patch_embedding
            .forward(tape, &tape.patchify(pixels, self.config.patch_size)?)
    }

    /// Position embeddings of the grid, `[f * f, C]`.
    fn grid_positions(&self, tape: &Tape) -> TensorResult<Var> {
        let table = tape.param(&self.position_embedding)?;
        let (trained, c) = (self.config.position_grid(), self.config.hidden_size);
        let grid = tape.narrow(&table, 1, trained * trained)?;
        let Some(plan) = &self.interpolate else {
            return Ok(grid);
        };
        let grid = tape.reshape(&grid, &[1, trained, trained, c])?;
        let grid = tape.resample(&grid, plan)?;
        tape.reshape(&grid, &[self.grid * self.grid, c])
    }

    pub(crate) fn pre_norm(&self, tape: &Tape, x: &Var) -> TensorResult<Var> {
        self.pre_layrnorm.forward(tape, x)
    }

    /// Layer `n` on tokens `[B, N, C]`. Stages seen: `fast.layer{n}`.
    pub(crate) fn layer(
        &self,
        tape: &Tape,
        n: usize,
        x: &Var,
        checkpoint: bool,
        observe: &mut Observer<'_>,
    ) -> TensorResult<Var> {
        let Some(layer) = self.layers.get(n) else {
            return Ok(x.clone());
        };
        let (attention, mlp) = (ClipLayer::attention_half, ClipLayer::mlp_half);
        let y = run_halves(tape, layer, x, checkpoint, attention, mlp)?;
        observe(&format!("fast.layer{n}"), &y);
        Ok(y)
    }
}

impl ClipLayer {
    fn new(scope: &Scope<'_>, config: &ClipConfig) -> Result<Self> {
        let (attention, mlp) = (scope.at("self_attn"), scope.at("mlp"));
        let eps = config.layer_norm_eps;
        Ok(Self {
            layer_norm1: scope.layer_norm("layer_norm1", eps)?,
            q_proj: attention.linear("q_proj")?,
            k_proj: attention.linear("k_proj")?,
            v_proj: attention.linear("v_proj")?,
            out_proj: attention.linear("out_proj")?,
            layer_norm2: scope.layer_norm("layer_norm2", eps)?,
            fc1: mlp.linear("fc1")?,
            fc2: mlp.linear("fc2")?,
            heads: config.num_attention_heads,
            activation: match config.activation {
                ClipActivation::QuickGelu => Activation::QuickGelu,
                ClipActivation::Gelu => Activation::Gelu,
            },
        })
    }

    /// `x + out_proj(attention)`. Both halves may be checkpointed, each by itself.
    fn attention_half(&self, tape: &Tape, x: &Var) -> TensorResult<Var> {
        let (batch, c) = (
            x.shape().first().copied().unwrap_or(0),
            x.value().last_dim(),
        );
        let rows = x.value().rows();
        let tokens = rows / batch.max(1);
        let head_dim = c / self.heads;
        let y = self.layer_norm1.forward(tape, x)?;
        let split = |y: Var| tape.reshape(&y, &[rows, self.heads, head_dim]);
        let segments = Segments::from_lengths(vec![tokens; batch]);
        let spec = AttentionSpec {
            q_segments: segments.clone(),
            k_segments: segments,
            causal: false,
            window: None,
            scale: (head_dim as f32).sqrt().recip(),
        };
        let [q, k, v] = self.project(tape, &y)?;
        let y = tape.attention(&split(q)?, &split(k)?, &split(v)?, &spec)?;
        let y = tape.reshape(&y, x.shape())?;
        tape.closing(|tape| self.out_proj.forward_residual(tape, &y, x))
    }

    /// `x + fc2(act(fc1))`.
    fn mlp_half(&self, tape: &Tape, x: &Var) -> TensorResult<Var> {
        let y = self.layer_norm2.forward(tape, x)?;
        let y = self.fc1.forward_activation(tape, &y, self.activation)?;
        tape.closing(|tape| self.fc2.forward_residual(tape, &y, x))
    }
}

impl ClipLayer {
    /// Queries, keys and values.
    ///
    /// A bias of the keys adds the same to all scores of a query, which the softmax takes out again: its
    /// gradient is zero. Computed, it would be rounding noise, and Adam, which divides by the gradient's
    /// size, would make real steps of it.
    fn project(&self, tape: &Tape, y: &Var) -> TensorResult<[Var; 3]> {
        let bias_k = self.k_proj.bias.as_ref();
        let fixed = bias_k.map(|bias| Param::new(bias.name(), bias.value()));
        let layers = [
            (&self.q_proj, self.q_proj.bias.as_ref()),
            (&self.k_proj, fixed.as_ref()),
            (&self.v_proj, self.v_proj.bias.as_ref()),
        ];
        let [q, k, v] = Linear::three(tape, y, layers)?;
        let k = match bias_k {
            Some(bias) => with_zero_gradient(tape, k, bias),
            None => k,
        };
        Ok([q, k, v])
    }
}

impl Block for ClipLayer {
    fn params(&self) -> Vec<&Param> {
        [self.attention_params(), self.mlp_params()].concat()
    }
}

impl Halves for ClipLayer {
    fn attention_params(&self) -> Vec<&Param> {
        let linears = [&self.q_proj, &self.k_proj, &self.v_proj, &self.out_proj];
        let linears = linears.into_iter().flat_map(Linear::params);
        linears.chain(self.layer_norm1.params()).collect()
    }

    fn mlp_params(&self) -> Vec<&Param> {
        let linears = [&self.fc1, &self.fc2].into_iter().flat_map(Linear::params);
        linears.chain(self.layer_norm2.params()).collect()
    }
}
