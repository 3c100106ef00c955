//! What a language model hands over to be decoded.

use std::sync::Arc;

use super::invalid;
use crate::{DType, Device, Error, Param, Result, RopeTable};

/// Sizes and constants of a pre-norm decoder with rotary grouped-query attention and a gated MLP.
#[derive(Debug, Clone, PartialEq)]
pub struct DecodeShape {
    /// Width D of the residual stream.
    pub hidden: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads, a divisor of the query heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Width F of the gated MLP.
    pub intermediate: usize,
    /// Rows V of the embedding and of the output matrix.
    pub vocab: usize,
    /// Epsilon of the RMS norms.
    pub eps: f32,
    /// Sliding window `w`: position `p` sees keys from `p - w` on.
    pub window: Option<usize>,
    /// Factor of the scores, usually `1 / sqrt(head_dim)`.
    pub scale: f32,
}

/// Weights of one layer.
#[derive(Debug, Clone)]
pub struct DecodeLayer {
    /// Weight of the norm before attention, `[D]`.
    pub input_norm: Param,
    /// Queries, keys and values: three matrices, or one with their rows in this order.
    pub qkv: Vec<Param>,
    /// Output projection of attention, `[D, heads * head_dim]`.
    pub o: Param,
    /// Weight of the norm before the MLP, `[D]`.
    pub post_norm: Param,
    /// Gate and up projections, `[F, D]` each, or one matrix with their rows in this order.
    pub gate_up: Vec<Param>,
    /// Down projection, `[D, F]`.
    pub down: Param,
}

/// All weights.
#[derive(Debug, Clone)]
pub struct DecodeWeights {
    /// Embedding table, `[V, D]`.
    pub embed: Param,
    /// The layers, first to last.
    pub layers: Vec<DecodeLayer>,
    /// Weight of the final norm, `[D]`.
    pub norm: Param,
    /// Output matrix, `[V, D]`.
    pub lm_head: Param,
}

/// Rotary tables.
#[derive(Debug, Clone)]
pub struct DecodeRope {
    /// Of texts of up to `switch_at` tokens.
    pub short: Arc<RopeTable>,
    /// Of longer ones; the same table where there is no difference.
    pub long: Arc<RopeTable>,
    /// Longest text with the first table; `None`: every text.
    pub switch_at: Option<usize>,
}

impl DecodeShape {
    pub(super) fn q_width(&self) -> usize {
        self.heads * self.head_dim
    }

    pub(super) fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }
}

impl DecodeWeights {
    /// Shapes, element type and place of every weight.
    pub(super) fn check(&self, shape: &DecodeShape, device: &Device) -> Result<()> {
        let (d, f) = (shape.hidden, shape.intermediate);
        let dtype = self.embed.value().dtype();
        let mut all: Vec<(&[Param], Vec<usize>, usize)> = Vec::new();
        let one = std::slice::from_ref;
        all.push((one(&self.embed), vec![shape.vocab], d));
        all.push((one(&self.lm_head), vec![shape.vocab], d));
        all.push((one(&self.norm), vec![d], 1));
        for layer in &self.layers {
            let (q, kv) = (shape.q_width(), shape.kv_width());
            let qkv = match layer.qkv.len() {
                1 => vec![q + 2 * kv],
                _ => vec![q, kv, kv],
            };
            let gate_up = match layer.gate_up.len() {
                1 => vec![2 * f],
                _ => vec![f, f],
            };
            all.extend([
                (one(&layer.input_norm), vec![d], 1),
                (layer.qkv.as_slice(), qkv, d),
                (one(&layer.o), vec![d], q),
                (one(&layer.post_norm), vec![d], 1),
                (layer.gate_up.as_slice(), gate_up, d),
                (one(&layer.down), vec![d], f),
            ]);
        }
        for (params, rows, k) in all {
            if params.len() != rows.len() {
                return Err(invalid(format!(
                    "{} matrices where {} belong",
                    params.len(),
                    rows.len()
                )));
            }
            for (param, n) in params.iter().zip(rows) {
                let value = param.value();
                if param.shape().first() != Some(&n) || param.numel() != n * k {
                    return Err(Error::ShapeMismatch {
                        op: "decoder",
                        expected: format!("[{n}, {k}] of `{}`", param.name()),
                        got: param.shape().to_vec(),
                    });
                }
                if value.dtype() != dtype {
                    return Err(Error::DTypeMismatch {
                        op: "decoder",
                        expected: dtype,
                        got: value.dtype(),
                    });
                }
                if value.device() != *device || value.cuda_address()? % 16 != 0 {
                    return Err(Error::DeviceMismatch {
                        op: "decoder",
                        expected: format!("{device}, aligned to 16 bytes"),
                        got: value.device().to_string(),
                    });
                }
            }
        }
        Ok(())
    }

    /// Element type of weights and activations.
    pub(super) fn dtype(&self) -> DType {
        self.embed.value().dtype()
    }
}
