//! One decoder layer of every family: pre-norm, rotary grouped-query attention, gated MLP.
//!
//! `x = x + o_proj(attention(rope(q), rope(k), v)); x = x + down_proj(silu(gate) * up)`, both branches of
//! the RMS-normed input. Whether projections are stored one by one (Llama) or fused (Phi-3) is data.

use std::sync::Arc;

use llavar_tensor::{
    DType, Param, Result as TensorResult, Tape, Var,
    decode::DecodeLayer,
    ops::{AttentionSpec, GateUp, PathSpec},
};

use super::{kv_cache::KvCache, rope::Rotation};
use crate::{
    Result,
    config::{LlmConfig, LlmFamily},
    layers::{Block, Halves, Linear, Scope},
};

/// One decoder layer.
#[derive(Debug)]
pub(crate) struct DecoderLayer {
    input_layernorm: RmsNorm,
    qkv: QkvProjection,
    o_proj: Linear,
    post_attention_layernorm: RmsNorm,
    gate_up: GateUpProjection,
    down_proj: Linear,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
}

/// What all layers need to know about the tokens of one pass.
#[derive(Debug)]
pub(crate) struct StreamPlan {
    pub(crate) rotations: Vec<Rotation>,
    pub(crate) attention: Attention,
}

/// Who attends to whom in one pass.
#[derive(Debug)]
pub(crate) enum Attention {
    /// Every segment to itself, or to its keys in a cache.
    Segments(AttentionSpec),
    /// Every stretch to its path; without gradients and cache.
    Paths(PathSpec),
}

impl Attention {
    fn run(&self, tape: &Tape, q: &Var, k: &Var, v: &Var) -> TensorResult<Var> {
        match self {
            Self::Segments(spec) => tape.attention(q, k, v, spec),
            Self::Paths(spec) => tape.path_attention(q, k, v, spec),
        }
    }
}

/// The rows of a pass whose outputs are read. The last layer goes on with these alone once their attention is
/// known: nothing behind it looks at another row.
#[derive(Debug)]
pub(crate) struct Read {
    /// Their numbers, all different where a gradient is wanted.
    pub(crate) rows: Arc<[usize]>,
    /// Whom they attend to, where the queries of the others are not wanted either.
    pub(crate) attention: Option<Attention>,
}

/// The cache of one pass: which layer's part, how many tokens of each sequence are new, and where they go.
pub(crate) struct CacheStep<'a> {
    pub(crate) cache: &'a mut KvCache,
    pub(crate) layer: usize,
    pub(crate) new: &'a [usize],
    pub(crate) rows: &'a [usize],
    /// Whether the new tokens attend to each other alone.
    pub(crate) fresh: bool,
}

#[derive(Debug)]
enum QkvProjection {
    Split {
        q_proj: Linear,
        k_proj: Linear,
        v_proj: Linear,
    },
    Fused(Linear),
}

#[derive(Debug)]
enum GateUpProjection {
    Split { gate_proj: Linear, up_proj: Linear },
    Fused(Linear),
}

impl GateUpProjection {
    /// `silu(gate) * up` of `x [T, D]`.
    fn forward(&self, tape: &Tape, x: &Var) -> TensorResult<Var> {
        match self {
            Self::Split { gate_proj, up_proj } => match (&gate_proj.lora, &up_proj.lora) {
                (None, None) => {
                    let (gate, up) = (&gate_proj.weight, &up_proj.weight);
                    tape.linear_swiglu(x, GateUp::Split { gate, up })
                }
                _ => tape.swiglu(&gate_proj.forward(tape, x)?, &up_proj.forward(tape, x)?),
            },
            Self::Fused(gate_up_proj) => match &gate_up_proj.lora {
                None => tape.linear_swiglu(x, GateUp::Fused(&gate_up_proj.weight)),
                Some(_) => tape.swiglu_fused(&gate_up_proj.forward(tape, x)?),
            },
        }
    }
}

/// RMS norm with a weight.
#[derive(Debug, Clone)]
pub(crate) struct RmsNorm {
    weight: Param,
    eps: f32,
}

impl RmsNorm {
    pub(crate) fn new(weight: Param, eps: f64) -> Self {
        Self {
            weight,
            eps: eps as f32,
        }
    }

    pub(crate) fn weight(&self) -> &Param {
        &self.weight
    }

    pub(crate) fn forward(&self, tape: &Tape, x: &Var) -> TensorResult<Var> {
        tape.rms_norm(x, &self.weight, self.eps)
    }
}

impl DecoderLayer {
    pub(crate) fn new(scope: &Scope<'_>, config: &LlmConfig) -> Result<Self> {
        let (attention, mlp) = (scope.at("self_attn"), scope.at("mlp"));
        let norm = |name: &str| -> Result<RmsNorm> {
            Ok(RmsNorm::new(
                scope.at(name).param("weight")?,
                config.rms_norm_eps,
            ))
        };
        let (qkv, gate_up) = match config.family {
            LlmFamily::Llama => (
                QkvProjection::Split {
                    q_proj: attention.linear_no_bias("q_proj")?,
                    k_proj: attention.linear_no_bias("k_proj")?,
                    v_proj: attention.linear_no_bias("v_proj")?,
                },
                GateUpProjection::Split {
                    gate_proj: mlp.linear_no_bias("gate_proj")?,
                    up_proj: mlp.linear_no_bias("up_proj")?,
                },
            ),
            LlmFamily::Phi3 => (
                QkvProjection::Fused(attention.linear_no_bias("qkv_proj")?),
                GateUpProjection::Fused(mlp.linear_no_bias("gate_up_proj")?),
            ),
        };
        Ok(Self {
            input_layernorm: norm("input_layernorm")?,
            qkv,
            o_proj: attention.linear_no_bias("o_proj")?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
            gate_up,
            down_proj: mlp.linear_no_bias("down_proj")?,
            heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
        })
    }

    /// Whether its weights are all that it computes with, as a GPU's decoding step needs it.
    pub(crate) fn is_plain(&self) -> bool {
        let mut params = self.params().into_iter();
        !params.any(|p| crate::lora::is_adapter(p.name()) || p.dtype() == DType::Nf4)
    }

    /// Its weights as a GPU's decoding step takes them.
    pub(crate) fn decode_weights(&self) -> DecodeLayer {
        let all = |linears: &[&Linear]| linears.iter().map(|l| l.weight.clone()).collect();
        DecodeLayer {
            input_norm: self.input_layernorm.weight.clone(),
            qkv: match &self.qkv {
                QkvProjection::Split {
                    q_proj,
                    k_proj,
                    v_proj,
                } => all(&[q_proj, k_proj, v_proj]),
                QkvProjection::Fused(qkv_proj) => all(&[qkv_proj]),
            },
            o: self.o_proj.weight.clone(),
            post_norm: self.post_attention_layernorm.weight.clone(),
            gate_up: match &self.gate_up {
                GateUpProjection::Split { gate_proj, up_proj } => all(&[gate_proj, up_proj]),
                GateUpProjection::Fused(gate_up_proj) => all(&[gate_up_proj]),
            },
            down: self.down_proj.weight.clone(),
        }
    }

    /// `x [T, D]` -> `[T, D]`, or of the rows that are read alone. With a cache, attention is over what it holds
    /// and the new tokens.
    pub(crate) fn forward(
        &self,
        tape: &Tape,
        x: &Var,
        plan: &StreamPlan,
        cache: Option<CacheStep<'_>>,
        read: Option<&Read>,
    ) -> TensorResult<Var> {
        let x = self.attention_half(tape, x, plan, cache, read)?;
        self.mlp_half(tape, &x)
    }

    /// `x + o_proj(attention)`. Both halves may be checkpointed, each by itself.
    pub(crate) fn attention_half(
        &self,
        tape: &Tape,
        x: &Var,
        plan: &StreamPlan,
        cache: Option<CacheStep<'_>>,
        read: Option<&Read>,
    ) -> TensorResult<Var> {
        let y = self.input_layernorm.forward(tape, x)?;
        let only = read.and_then(|read| Some((&read.rows, read.attention.as_ref()?)));
        let y = self.attend(tape, &y, plan, cache, only)?;
        let width = self.heads * self.head_dim;
        let y = tape.reshape(&y, &[y.value().numel() / width, width])?;
        let (x, y) = match read {
            None => (x.clone(), y),
            Some(read) => {
                let y = match only {
                    None => tape.gather_rows(&y, &read.rows)?,
                    Some(_) => y,
                };
                (tape.gather_rows(x, &read.rows)?, y)
            }
        };
        tape.closing(|tape| self.o_proj.forward_residual(tape, &y, &x))
    }

    /// `x + down_proj(silu(gate) * up)`.
    pub(crate) fn mlp_half(&self, tape: &Tape, x: &Var) -> TensorResult<Var> {
        let y = self.post_attention_layernorm.forward(tape, x)?;
        let y = self.gate_up.forward(tape, &y)?;
        tape.closing(|tape| self.down_proj.forward_residual(tape, &y, x))
    }

    /// Attention `[T, Hq, D]` of the normed input, or of some rows `only`, with their own way to attend.
    fn attend(
        &self,
        tape: &Tape,
        y: &Var,
        plan: &StreamPlan,
        cache: Option<CacheStep<'_>>,
        only: Option<(&Arc<[usize]>, &Attention)>,
    ) -> TensorResult<Var> {
        // Where nobody else wants keys and values, heads stay in the row that the projection gives.
        if let (
            (None, None),
            QkvProjection::Fused(qkv_proj),
            [(table, positions)],
            Attention::Segments(spec),
        ) = (
            (&cache, only),
            &self.qkv,
            plan.rotations.as_slice(),
            &plan.attention,
        ) {
            let qkv = qkv_proj.forward(tape, y)?;
            let heads = [self.heads, self.kv_heads];
            return tape.rope_attention(qkv, heads, (table, positions), spec);
        }
        let (q, k, v) = self.qkv_rotated(tape, y, plan)?;
        let (k, v) = match cache {
            None => (k, v),
            Some(step) => {
                step.cache.write(step.layer, step.rows, &k, &v)?;
                match step.fresh {
                    true => (k, v),
                    false => step.cache.view(step.layer, step.new)?,
                }
            }
        };
        match only {
            None => plan.attention.run(tape, &q, &k, &v),
            Some((rows, attention)) => attention.run(tape, &tape.gather_rows(&q, rows)?, &k, &v),
        }
    }

    /// Queries `[T, Hq, D]`, keys and values `[T, Hkv, D]`, with queries and keys turned.
    fn qkv_rotated(
        &self,
        tape: &Tape,
        y: &Var,
        plan: &StreamPlan,
    ) -> TensorResult<(Var, Var, Var)> {
        let rows = y.value().rows();
        let mut rotations = plan.rotations.as_slice();
        let (mut q, mut k, v) = match (&self.qkv, rotations) {
            (
                QkvProjection::Split {
                    q_proj,
                    k_proj,
                    v_proj,
                },
                _,
            ) => {
                let project = |proj: &Linear, heads: usize| {
                    tape.reshape(&proj.forward(tape, y)?, &[rows, heads, self.head_dim])
                };
                (
                    project(q_proj, self.heads)?,
                    project(k_proj, self.kv_heads)?,
                    project(v_proj, self.kv_heads)?,
                )
            }
            (QkvProjection::Fused(qkv_proj), [(table, positions), rest @ ..]) => {
                rotations = rest;
                let qkv = qkv_proj.forward(tape, y)?;
                tape.split_qkv_rope(&qkv, self.heads, self.kv_heads, table, positions)?
            }
            (QkvProjection::Fused(_), []) => {
                return Err(llavar_tensor::Error::InvalidArgument {
                    op: "decoder layer",
                    reason: "a pass needs at least one rotation".to_owned(),
                });
            }
        };
        for (table, positions) in rotations {
            q = tape.rope(&q, table, positions)?;
            k = tape.rope(&k, table, positions)?;
        }
        Ok((q, k, v))
    }
}

impl Block for DecoderLayer {
    fn params(&self) -> Vec<&Param> {
        [self.attention_params(), self.mlp_params()].concat()
    }
}

impl Halves for DecoderLayer {
    fn attention_params(&self) -> Vec<&Param> {
        let mut linears = vec![&self.o_proj];
        match &self.qkv {
            QkvProjection::Split {
                q_proj,
                k_proj,
                v_proj,
            } => linears.extend([q_proj, k_proj, v_proj]),
            QkvProjection::Fused(qkv_proj) => linears.push(qkv_proj),
        }
        let linears = linears.into_iter().flat_map(Linear::params);
        linears.chain([&self.input_layernorm.weight]).collect()
    }

    fn mlp_params(&self) -> Vec<&Param> {
        let mut linears = vec![&self.down_proj];
        match &self.gate_up {
            GateUpProjection::Split { gate_proj, up_proj } => linears.extend([gate_proj, up_proj]),
            GateUpProjection::Fused(gate_up_proj) => linears.push(gate_up_proj),
        }
        let linears = linears.into_iter().flat_map(Linear::params);
        let norm = &self.post_attention_layernorm.weight;
        linears.chain([norm]).collect()
    }
}
