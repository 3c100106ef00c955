//! Low-rank adapters (LoRA, DoRA) on the linear layers of a model, and their files.
//!
//! - `targets`: which layers carry one, by name or pattern.
//! - `attach`: adapters put on a built model.
//! - `quantization`: frozen weights in 4 bits.
//! - `peft`: `adapter_config.json`, the names of the tensors, reading and writing an adapter folder.
//! - `load`, `save`: base and adapter folder read together; what trains written as one set.
//! - `merge`: adapters added into the weights that they stand on.
//!
//! # Source
//! Names, files and initial values are those of PEFT; defaults those of LLaVA (spec 2).

mod attach;
mod load;
mod merge;
mod peft;
mod quantization;
mod save;
mod targets;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use llavar_tensor::LoraAdapter;

pub use attach::adapter_parameters;
pub(crate) use merge::{Deltas, merged};
pub use merge::{MergeReport, merge_folder};
pub use peft::Adapter;
pub use quantization::Quantization;
pub(crate) use quantization::{KEY as QUANTIZATION_KEY, unquantized};
pub use targets::{ALL_LINEAR, TargetError, linear_modules, select_targets};

/// How adapters are made: the keys of `adapter_config.json` that decide what they compute.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraConfig {
    /// Rank.
    pub r: usize,
    /// The low-rank product is multiplied with `lora_alpha / r`.
    pub lora_alpha: f64,
    /// Share of an adapter's inputs that are dropped in training.
    pub lora_dropout: f64,
    /// Whether each row has a magnitude of its own (DoRA).
    pub use_dora: bool,
    /// Whether the factor is `lora_alpha / sqrt(r)` instead.
    pub use_rslora: bool,
    /// Names or patterns of the layers, see [`select_targets`].
    pub target_modules: Vec<String>,
}

impl Default for LoraConfig {
    /// LLaVA's: rank 64, alpha 16, dropout 0.05, every linear layer of the language model.
    fn default() -> Self {
        Self {
            r: 64,
            lora_alpha: 16.0,
            lora_dropout: 0.05,
            use_dora: false,
            use_rslora: false,
            target_modules: vec![ALL_LINEAR.to_owned()],
        }
    }
}

impl LoraConfig {
    /// Factor of the low-rank product for an adapter of this rank and alpha.
    pub(crate) fn scaling(&self, rank: usize, alpha: f64) -> f32 {
        let rank = rank.max(1) as f64;
        let by = if self.use_rslora { rank.sqrt() } else { rank };
        (alpha / by) as f32
    }
}

/// The adapters of a model.
#[derive(Debug, Clone)]
pub(crate) struct Adapters {
    pub(crate) config: LoraConfig,
    /// By the name of their layer, that of its weight without `.weight`.
    pub(crate) by_module: HashMap<String, LoraAdapter>,
    /// The names in the order of the model's parameters.
    pub(crate) modules: Vec<String>,
}

/// Whether a parameter belongs to an adapter.
pub fn is_adapter(name: &str) -> bool {
    name.contains(".lora_")
}

/// The layer of a weight.
pub(crate) fn module_of(weight: &str) -> Option<&str> {
    weight.strip_suffix(".weight")
}

/// Names of an adapter's parameters: A, B, magnitude.
pub(crate) fn names(module: &str) -> [String; 3] {
    [
        format!("{module}.lora_A.weight"),
        format!("{module}.lora_B.weight"),
        format!("{module}.lora_magnitude_vector"),
    ]
}
