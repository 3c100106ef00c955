//! The language model: Llama-2 (Vicuna), Llama-3.x and Phi-3 / Phi-3.5 in one set of modules.
//!
//! Samples lie one behind the other in one stream of tokens ([`Segments`]); attention stays within a
//! sample and positions restart with each.

mod decoder_layer;
mod kv_cache;
mod rope;
mod shared_prefix;
mod targets;

use std::sync::Arc;

use llavar_tensor::{
    Param, Result as TensorResult, Segments, Tape, Tensor, Var,
    decode::{DecodeShape, DecodeWeights, Decoder},
    ops::{AttentionSpec, TokenLoss},
};

pub use kv_cache::KvCache;
pub use shared_prefix::SharedPrefixes;

use crate::{
    Checkpointing, ModelError, Result,
    config::LlmConfig,
    layers::{ParamSet, run_halves},
};
use decoder_layer::{Attention, CacheStep, DecoderLayer, Read, RmsNorm, StreamPlan};
use rope::Rope;
pub(crate) use targets::Targets;

/// The language model.
#[derive(Debug)]
pub struct LanguageModel {
    config: LlmConfig,
    embed_tokens: Param,
    layers: Vec<Arc<DecoderLayer>>,
    norm: RmsNorm,
    lm_head: Param,
    rope: Rope,
}

impl LanguageModel {
    pub(crate) fn new(set: &ParamSet, config: &LlmConfig) -> Result<Self> {
        let scope = set.scope("model");
        let embed_tokens = scope.at("embed_tokens").param("weight")?;
        let lm_head = if config.tie_word_embeddings {
            embed_tokens.clone()
        } else {
            set.get("lm_head.weight")?
        };
        Ok(Self {
            layers: (0..config.num_hidden_layers)
                .map(|n| {
                    Ok(Arc::new(DecoderLayer::new(
                        &scope.at("layers").at(n),
                        config,
                    )?))
                })
                .collect::<Result<_>>()?,
            norm: RmsNorm::new(scope.at("norm").param("weight")?, config.rms_norm_eps),
            rope: Rope::new(config),
            embed_tokens,
            lm_head,
            config: config.clone(),
        })
    }

    /// Its configuration.
    pub fn config(&self) -> &LlmConfig {
        &self.config
    }

    /// Number of layers.
    pub(crate) fn depth(&self) -> usize {
        self.layers.len()
    }

    /// The embedding table, `[V, D]`.
    pub fn embed_tokens(&self) -> &Param {
        &self.embed_tokens
    }

    /// The output matrix, `[V, D]`; the embedding table itself where they are tied.
    pub fn lm_head(&self) -> &Param {
        &self.lm_head
    }

    /// Embeddings of `ids`, image features at the negative ones.
    ///
    /// # Shapes
    /// `ids [T]`, `features [M, D]` with M negative ids -> `[T, D]`.
    ///
    /// # Errors
    /// When an id is outside the vocabulary or the number of negative ids is not M.
    pub fn embed(&self, tape: &Tape, ids: &[i32], features: Option<&Var>) -> TensorResult<Var> {
        tape.embed_merge(&self.embed_tokens, ids, features)
    }

    /// All layers and the final norm, of the rows in `read` alone where it is given: the last layer computes no
    /// other, which changes neither a value nor a gradient of a loss that reads these, but for rounding. (Scales of
    /// FP8 and places of dropout are those of the rows that are read.)
    ///
    /// # Shapes
    /// `x [T, D]` -> `[T, D]`, with `read [n]`, numbers that are all different, `[n, D]`; `segments` covers T
    /// tokens.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn forward(
        &self,
        tape: &Tape,
        x: &Var,
        segments: &Segments,
        checkpoint: impl Into<Checkpointing>,
        read: Option<Arc<[usize]>>,
    ) -> TensorResult<Var> {
        let checkpoint = checkpoint.into();
        let texts: Vec<_> = segments.ranges().map(|r| (0..r.len(), r.len())).collect();
        let plan = Arc::new(StreamPlan {
            rotations: self.rope.rotations(&texts),
            attention: Attention::Segments(self.attention(segments.clone(), segments.clone())),
        });
        let mut read = read.map(|rows| {
            let attention = None;
            Read { rows, attention }
        });
        let mut x = x.clone();
        for (n, layer) in self.layers.iter().enumerate() {
            let plan = plan.clone();
            let left = self.layers.len() - n;
            let again = checkpoint.recomputes(left);
            let read = read.take_if(|_| left == 1);
            let attention = move |layer: &DecoderLayer, tape: &Tape, x: &Var| {
                layer.attention_half(tape, x, &plan, None, read.as_ref())
            };
            x = run_halves(tape, layer, &x, again, attention, DecoderLayer::mlp_half)?;
        }
        self.norm.forward(tape, &x)
    }

    /// As [`LanguageModel::forward`] for new tokens of cached sequences, `new[i]` of them for sequence
    /// `i`, without gradients. The last token of each is read.
    ///
    /// # Shapes
    /// `x [T, D]` with T the sum of `new` -> `[n, D]` with n the sequences that have new tokens.
    ///
    /// # Errors
    /// When the cache has no room or the shapes do not fit.
    pub fn forward_cached(&self, x: &Var, cache: &mut KvCache, new: &[usize]) -> TensorResult<Var> {
        if !cache.fits(new) {
            return Err(llavar_tensor::Error::InvalidArgument {
                op: "kv cache",
                reason: format!(
                    "{new:?} new tokens do not fit behind {:?} with room for {}",
                    cache.lengths(),
                    cache.capacity()
                ),
            });
        }
        let tape = Tape::inference();
        let texts: Vec<_> = cache
            .lengths()
            .iter()
            .zip(new)
            .map(|(held, new)| (*held..held + new, held + new))
            .collect();
        let fresh = cache.is_fresh(new);
        let rows = cache.rows_of(new);
        let (queries, keys) = match fresh {
            true => {
                let new = Segments::from_lengths(new.iter().copied());
                (new.clone(), new)
            }
            false => cache.segments(new),
        };
        let last: Arc<[usize]> = queries
            .ranges()
            .filter(|r| !r.is_empty())
            .map(|r| r.end - 1)
            .collect();
        let mut read = (last.len() < queries.total()).then(|| {
            let ones = Segments::from_lengths(queries.ranges().map(|r| r.len().min(1)));
            Read {
                rows: last,
                attention: Some(Attention::Segments(self.attention(ones, keys.clone()))),
            }
        });
        let plan = StreamPlan {
            rotations: self.rope.rotations(&texts),
            attention: Attention::Segments(self.attention(queries, keys)),
        };
        let mut x = x.clone();
        for (n, layer) in self.layers.iter().enumerate() {
            let read = read.take_if(|_| n + 1 == self.layers.len());
            let step = CacheStep {
                cache,
                layer: n,
                new,
                rows: &rows,
                fresh,
            };
            x = layer.forward(&tape, &x, &plan, Some(step), read.as_ref())?;
        }
        cache.advance(new);
        self.norm.forward(&tape, &x)
    }

    /// Decoding steps on the GPU that the weights are on, for up to `rows` sequences in a cache of
    /// `capacity` tokens each; `None` where there are no kernels for this model, as on the CPU or with unmerged
    /// adapters. Ids from
    /// `vocab_limit` on are never picked.
    ///
    /// # Errors
    /// When the device has no room.
    pub fn decoder(
        &self,
        rows: usize,
        capacity: usize,
        vocab_limit: Option<usize>,
    ) -> TensorResult<Option<Decoder>> {
        let config = &self.config;
        let shape = DecodeShape {
            hidden: config.hidden_size,
            heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            intermediate: config.intermediate_size,
            vocab: config.vocab_size,
            eps: config.rms_norm_eps as f32,
            window: config.sliding_window,
            scale: self.attention_scale(),
        };
        let table = self.embed_tokens.value();
        let device = table.device();
        let plain = self.layers.iter().all(|layer| layer.is_plain());
        if !plain || !Decoder::supports(&shape, &device, table.dtype()) {
            return Ok(None);
        }
        let weights = DecodeWeights {
            embed: self.embed_tokens.clone(),
            layers: self.layers.iter().map(|l| l.decode_weights()).collect(),
            norm: self.norm.weight().clone(),
            lm_head: self.lm_head.clone(),
        };
        let rope = self.rope.decode_tables(capacity);
        Decoder::new(&device, shape, weights, rope, rows, capacity, vocab_limit).map(Some)
    }

    /// Logits of every row; for decoding and tests, since a loss never needs them whole.
    ///
    /// # Shapes
    /// `hidden [T, D]` -> `[T, V]`.
    ///
    /// # Errors
    /// When the width is another.
    pub fn logits(&self, tape: &Tape, hidden: &Var) -> TensorResult<Var> {
        tape.linear(hidden, &self.lm_head, None)
    }

    /// Cross-entropy of the next token within each segment.
    ///
    /// # Shapes
    /// `hidden [T, D]`, `labels [T]` unshifted: row t predicts `labels[t + 1]` where t + 1 is in the same
    /// segment.
    ///
    /// # Errors
    /// When the lengths differ or a label is outside the vocabulary.
    pub fn loss(
        &self,
        tape: &Tape,
        hidden: &Var,
        labels: &[i32],
        segments: &Segments,
    ) -> Result<TokenLoss> {
        let targets = Targets::new(labels, segments)?;
        Ok(tape.linear_cross_entropy(hidden, &self.lm_head, &targets.labels)?)
    }

    /// As [`LanguageModel::loss`] of the rows alone that [`Targets::read`] names.
    pub(crate) fn loss_of_read(
        &self,
        tape: &Tape,
        hidden: &Var,
        targets: &Targets,
        rows: &[usize],
    ) -> TensorResult<TokenLoss> {
        let labels: Vec<i32> = rows.iter().map(|row| targets.labels[*row]).collect();
        let mut loss = tape.linear_cross_entropy(hidden, &self.lm_head, &labels)?;
        let of_read = &loss.per_token;
        let total = [targets.labels.len()];
        let mut per_token = Tensor::zeros_on(&total, of_read.dtype(), &of_read.device())?;
        per_token.scatter_rows(rows, of_read)?;
        loss.per_token = per_token;
        Ok(loss)
    }

    /// Whether a text of `length` tokens is rotated otherwise than a shorter one (longrope beyond its
    /// original window), so that cached keys of the shorter text are of no use.
    pub fn is_long(&self, length: usize) -> bool {
        self.rope.is_long(length)
    }

    fn attention(&self, q_segments: Segments, k_segments: Segments) -> AttentionSpec {
        AttentionSpec {
            q_segments,
            k_segments,
            causal: true,
            window: self.config.sliding_window,
            scale: self.attention_scale(),
        }
    }

    fn attention_scale(&self) -> f32 {
        (self.config.head_dim as f32).sqrt().recip()
    }
}

pub(crate) fn check_count(what: &'static str, expected: usize, got: usize) -> Result<()> {
    if expected == got {
        Ok(())
    } else {
        Err(ModelError::TokenCount {
            what,
            expected,
            got,
        })
    }
}
