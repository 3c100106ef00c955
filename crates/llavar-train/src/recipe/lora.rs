//! `[lora]`: adapters in place of training all weights, and the frozen weights in few bits. Names are
//! LLaVA's flags and PEFT's keys.

use llavar_model::lora::{LoraConfig, Quantization};
use serde::{Deserialize, Serialize};

use super::Problem;

/// `[lora]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoraSection {
    /// Whether low-rank adapters train in place of the weights that they stand on. Projector, fusion and
    /// adapters of the vision tower then train whole; everything else stays frozen, unless `train.trainable`
    /// names it.
    pub lora_enable: bool,
    /// Rank.
    pub lora_r: usize,
    /// The low-rank product is multiplied with `lora_alpha / lora_r`.
    pub lora_alpha: f64,
    /// Share of an adapter's inputs that are dropped in training.
    pub lora_dropout: f64,
    /// Layers: `all-linear` (of the language model), names (`q_proj`, `qkv_proj`) or patterns
    /// (`*.vision_model.*.fc1`).
    pub lora_target_modules: Vec<String>,
    /// Weight-decomposed adapters: each row has a magnitude of its own.
    pub use_dora: bool,
    /// Multiplies with `lora_alpha / sqrt(lora_r)` instead.
    pub use_rslora: bool,
    /// 4: the language model's frozen linear layers are kept in 4 bits (QLoRA) and widened where they are used; 16:
    /// as `train.precision` has them.
    pub bits: u8,
    /// Code of the 4 bits: `nf4`.
    pub quant_type: String,
    /// Whether the scales of the 4 bits are coded too, in 8 bits.
    pub double_quant: bool,
}

impl Default for LoraSection {
    fn default() -> Self {
        let config = LoraConfig::default();
        Self {
            lora_enable: false,
            lora_r: config.r,
            lora_alpha: config.lora_alpha,
            lora_dropout: config.lora_dropout,
            lora_target_modules: config.target_modules,
            use_dora: false,
            use_rslora: false,
            bits: 16,
            quant_type: "nf4".into(),
            double_quant: true,
        }
    }
}

impl LoraSection {
    /// How the frozen weights are kept.
    pub(crate) fn quantization(&self) -> Option<Quantization> {
        (self.bits == 4).then_some(Quantization {
            double: self.double_quant,
        })
    }

    /// As the model takes it.
    pub(crate) fn config(&self) -> LoraConfig {
        LoraConfig {
            r: self.lora_r,
            lora_alpha: self.lora_alpha,
            lora_dropout: self.lora_dropout,
            use_dora: self.use_dora,
            use_rslora: self.use_rslora,
            target_modules: self.lora_target_modules.clone(),
        }
    }

    /// Values out of their range.
    pub(super) fn validate(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut check = |ok: bool, key: &str, value: &dyn std::fmt::Display, allowed: &str| {
            if !ok {
                problems.push(Problem::new(key, value, allowed));
            }
        };
        check(
            (1..=1 << 16).contains(&self.lora_r),
            "lora.lora_r",
            &self.lora_r,
            "1 to 65536",
        );
        check(
            self.lora_alpha.is_finite() && self.lora_alpha > 0.0,
            "lora.lora_alpha",
            &self.lora_alpha,
            "a finite number above 0",
        );
        check(
            (0.0..1.0).contains(&self.lora_dropout),
            "lora.lora_dropout",
            &self.lora_dropout,
            "0 to below 1",
        );
        check(
            !self.lora_target_modules.is_empty(),
            "lora.lora_target_modules",
            &"[]",
            "at least one name or pattern, or \"all-linear\"",
        );
        check(
            matches!(self.bits, 4 | 16),
            "lora.bits",
            &self.bits,
            "4 or 16",
        );
        check(
            self.bits == 16 || self.lora_enable,
            "lora.bits",
            &self.bits,
            "16 without lora_enable: weights of 4 bits cannot train",
        );
        check(
            self.quant_type == "nf4",
            "lora.quant_type",
            &self.quant_type,
            "nf4",
        );
        problems
    }
}
