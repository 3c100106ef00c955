//! The language model's part of `config.json`: Llama-2, Llama-3.x and Phi-3 families.

use serde_json::{Map, Value};

use super::fields::{Fields, Problems};

/// How the decoder layers store their weights and which rotary scalings they know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LlmFamily {
    /// Separate `q_proj`, `k_proj`, `v_proj`, `gate_proj`, `up_proj` (Llama-2, Vicuna, Llama-3.x).
    Llama,
    /// Fused `qkv_proj` and `gate_up_proj` (Phi-3, Phi-3.5).
    Phi3,
}

/// Rotary position scaling.
///
/// # Source
/// `modeling_rope_utils` of transformers; formulas in [`RopeScaling::LongRope`] and
/// [`RopeScaling::Llama3`].
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// Plain rotary embedding.
    None,
    /// Llama-3.1: wavelengths above `original_max_position_embeddings / low_freq_factor` are slowed by
    /// `factor`, those below `.../high_freq_factor` are kept, in between they are blended.
    Llama3 {
        /// Slow-down of the long wavelengths.
        factor: f64,
        /// Below this many turns over the original window a frequency is fully scaled.
        low_freq_factor: f64,
        /// Above this many turns a frequency is kept.
        high_freq_factor: f64,
        /// Original window, tokens.
        original_max_position_embeddings: usize,
    },
    /// Phi-3 long context: `inv_freq_i = 1 / (factor_i * theta^(2i/head_dim))` with the short factors up
    /// to the original window and the long ones beyond.
    LongRope {
        /// `head_dim / 2` factors for lengths up to the original window.
        short_factor: Vec<f64>,
        /// `head_dim / 2` factors for longer ones.
        long_factor: Vec<f64>,
        /// Original window, tokens.
        original_max_position_embeddings: usize,
        /// cos and sin are both multiplied by this, whichever factors are used.
        attention_factor: f64,
    },
}

/// Shape and constants of the language model.
#[derive(Debug, Clone, PartialEq)]
pub struct LlmConfig {
    /// Which family.
    pub family: LlmFamily,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Number of decoder layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; divides the query heads.
    pub num_key_value_heads: usize,
    /// Width of one head; even.
    pub head_dim: usize,
    /// Width of the gated MLP.
    pub intermediate_size: usize,
    /// Rows of the embedding and of `lm_head` (may exceed the tokenizer's length).
    pub vocab_size: usize,
    /// Epsilon of every RMSNorm.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Rotary scaling.
    pub rope_scaling: RopeScaling,
    /// Longest sequence the positions are meant for, tokens.
    pub max_position_embeddings: usize,
    /// Attention window, tokens: query i sees keys from `i - window` on (Phi-3 only).
    pub sliding_window: Option<usize>,
    /// Whether `lm_head` is the embedding itself.
    pub tie_word_embeddings: bool,
    /// Id that begins a text.
    pub bos_token_id: Option<u32>,
    /// Ids that end a text.
    pub eos_token_ids: Vec<u32>,
    /// Id used for padding by other programs; nothing here depends on it.
    pub pad_token_id: Option<u32>,
}

impl LlmConfig {
    /// Width of all query heads together.
    pub fn q_size(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Width of all key (or value) heads together.
    pub fn kv_size(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }

    /// Reads the view; every problem is noted and the result is then only good for further checks.
    pub(crate) fn read(
        family: LlmFamily,
        map: &Map<String, Value>,
        problems: &mut Problems,
    ) -> Self {
        let fields = Fields::new(map, "");
        let hidden_size = fields.size("hidden_size", None, problems);
        let num_attention_heads = fields.size_below("num_attention_heads", None, 1024, problems);
        let num_key_value_heads = fields.size_below(
            "num_key_value_heads",
            Some(num_attention_heads),
            1024,
            problems,
        );
        if !num_attention_heads.is_multiple_of(num_key_value_heads) {
            problems.add(
                "num_key_value_heads",
                num_key_value_heads,
                format!("a divisor of num_attention_heads = {num_attention_heads}"),
            );
        }
        let head_dim = if fields.get("head_dim").is_some() {
            fields.size_below("head_dim", None, 4096, problems)
        } else {
            if !hidden_size.is_multiple_of(num_attention_heads) {
                problems.add(
                    "num_attention_heads",
                    num_attention_heads,
                    format!("a divisor of hidden_size = {hidden_size} while head_dim is not given"),
                );
            }
            (hidden_size / num_attention_heads).max(1)
        };
        if family == LlmFamily::Phi3 && num_attention_heads * head_dim != hidden_size {
            problems.add(
                "head_dim",
                head_dim,
                format!(
                    "hidden_size / num_attention_heads = {hidden_size} / {num_attention_heads}"
                ),
            );
        }
        if !head_dim.is_multiple_of(2) {
            problems.add(
                "head_dim",
                head_dim,
                "even, because rotary positions turn pairs",
            );
        }
        let default_positions = if family == LlmFamily::Phi3 {
            4096
        } else {
            2048
        };
        let max_position_embeddings = fields.size_below(
            "max_position_embeddings",
            Some(default_positions),
            1 << 24,
            problems,
        );
        let sliding_window = if family == LlmFamily::Phi3 && fields.get("sliding_window").is_some()
        {
            Some(fields.size_below("sliding_window", None, 1 << 30, problems))
        } else {
            None
        };
        refuse_other_shapes(&fields, problems);
        Self {
            family,
            hidden_size,
            num_hidden_layers: fields.size_below("num_hidden_layers", None, 4096, problems),
            num_attention_heads,
            num_key_value_heads,
            head_dim,
            intermediate_size: fields.size("intermediate_size", None, problems),
            vocab_size: fields.size("vocab_size", None, problems),
            rms_norm_eps: fields.positive(
                "rms_norm_eps",
                Some(if family == LlmFamily::Phi3 {
                    1e-5
                } else {
                    1e-6
                }),
                problems,
            ),
            rope_theta: fields.positive("rope_theta", Some(10_000.0), problems),
            rope_scaling: read_rope_scaling(
                family,
                &fields,
                head_dim,
                max_position_embeddings,
                problems,
            ),
            max_position_embeddings,
            sliding_window,
            tie_word_embeddings: fields.boolean("tie_word_embeddings", false, problems),
            bos_token_id: fields.token_id("bos_token_id", problems),
            eos_token_ids: fields.token_ids("eos_token_id", problems),
            pad_token_id: fields.token_id("pad_token_id", problems),
        }
    }
}

/// Options of the same model types that would need other formulas; ignoring them would give wrong
/// numbers without a word.
fn refuse_other_shapes(fields: &Fields<'_>, problems: &mut Problems) {
    for key in ["attention_bias", "mlp_bias"] {
        if fields.boolean(key, false, problems) {
            problems.add(
                key,
                true,
                "false: biases in the language model are not supported",
            );
        }
    }
    if let Some(act) = fields.string("hidden_act", problems)
        && act != "silu"
        && act != "swish"
    {
        problems.add("hidden_act", format!("\"{act}\""), "\"silu\"");
    }
    if fields.positive("partial_rotary_factor", Some(1.0), problems) != 1.0 {
        problems.add(
            "partial_rotary_factor",
            fields
                .get("partial_rotary_factor")
                .map(Value::to_string)
                .unwrap_or_default(),
            "1: the rotary embedding covers whole heads",
        );
    }
}

fn read_rope_scaling(
    family: LlmFamily,
    fields: &Fields<'_>,
    head_dim: usize,
    max_positions: usize,
    problems: &mut Problems,
) -> RopeScaling {
    let Some(map) = fields.object("rope_scaling", problems) else {
        return RopeScaling::None;
    };
    let scaling = Fields::new(map, "rope_scaling");
    // `rope_type` is the newer key; files of either age carry one or both.
    let key = if scaling.get("rope_type").is_some() {
        "rope_type"
    } else {
        "type"
    };
    let kind = scaling.string(key, problems).unwrap_or("missing");
    match (family, kind) {
        (_, "default") => RopeScaling::None,
        (LlmFamily::Llama, "llama3") => {
            let low = scaling.positive("low_freq_factor", None, problems);
            let high = scaling.positive("high_freq_factor", None, problems);
            if high <= low && problems.0.is_empty() {
                problems.add(
                    "rope_scaling.high_freq_factor",
                    high,
                    format!("above rope_scaling.low_freq_factor = {low}"),
                );
            }
            RopeScaling::Llama3 {
                factor: scaling.positive("factor", None, problems),
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_position_embeddings: scaling.size_below(
                    "original_max_position_embeddings",
                    None,
                    1 << 24,
                    problems,
                ),
            }
        }
        // "su" and "yarn" are what early Phi-3 files call the same thing.
        (LlmFamily::Phi3, "longrope" | "su" | "yarn") => {
            let short_factor = scaling.numbers("short_factor", problems);
            let long_factor = scaling.numbers("long_factor", problems);
            for (key, list) in [
                ("short_factor", &short_factor),
                ("long_factor", &long_factor),
            ] {
                if scaling.get(key).is_some_and(Value::is_array) && list.len() != head_dim / 2 {
                    problems.add(
                        scaling.path(key),
                        format!("a list of {} usable numbers", list.len()),
                        format!("a list of head_dim / 2 = {} numbers above 0", head_dim / 2),
                    );
                }
            }
            let key = "original_max_position_embeddings";
            let original = if scaling.get(key).is_some() {
                scaling.size_below(key, None, 1 << 24, problems)
            } else {
                fields.size_below(key, Some(4096), 1 << 24, problems)
            };
            let scale = max_positions as f64 / original as f64;
            let computed = if scale <= 1.0 || original < 2 {
                1.0
            } else {
                (1.0 + scale.ln() / (original as f64).ln()).sqrt()
            };
            RopeScaling::LongRope {
                short_factor,
                long_factor,
                original_max_position_embeddings: original,
                attention_factor: scaling.positive("attention_factor", Some(computed), problems),
            }
        }
        (family, kind) => {
            let allowed = match family {
                LlmFamily::Llama => "\"llama3\" or \"default\" for a Llama model",
                LlmFamily::Phi3 => {
                    "\"longrope\", \"su\", \"yarn\" or \"default\" for a Phi-3 model"
                }
            };
            problems.add(scaling.path(key), format!("\"{kind}\""), allowed);
            RopeScaling::None
        }
    }
}
