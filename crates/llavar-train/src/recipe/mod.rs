//! `Recipe`: everything that decides what a run computes, in one TOML file.

mod launch;
mod lora;
mod named;
mod overrides;
mod sections;
mod validate;

use std::path::Path;

use serde::{Deserialize, Serialize};

pub use launch::{Launch, Note};
pub use lora::LoraSection;
pub use named::{NAMED_RECIPES, NamedRecipe};
pub use sections::{
    DataSection, GradientCheckpointing, Layout, LogSection, LossWeighting, LrSchedulerType,
    ModelSection, OnBadSample, OnSaveError, OnSpike, Paths, PrecisionName, SaveDtype, Stage,
    TrainSection,
};
pub use validate::Problem;
pub(crate) use validate::recipe_list;

use crate::TrainError;

/// A resolved recipe. The defaults are those of the sections.
///
/// # Example
/// ```
/// use llavar_train::Recipe;
///
/// let recipe = Recipe::resolve("phi3-readme-sft", &["train.learning_rate=1e-5".into()])?;
/// assert_eq!(recipe.train.num_train_epochs, 3);
/// # Ok::<(), llavar_train::TrainError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Recipe {
    /// `[model]`.
    pub model: ModelSection,
    /// `[data]`.
    pub data: DataSection,
    /// `[train]`.
    pub train: TrainSection,
    /// `[lora]`.
    pub lora: LoraSection,
    /// `[log]`.
    pub log: LogSection,
}

impl Recipe {
    /// Takes the name of a built-in recipe or the path of a TOML file, then applies `key=value`
    /// overrides (`train.learning_rate=2e-5`; the section may be left away where the key is unique).
    /// A file may name the recipe that it changes: `extends = "phi3-readme-sft"`.
    ///
    /// # Errors
    /// [`TrainError::Recipe`] with all problems, [`TrainError::UnknownRecipe`], [`TrainError::Io`].
    pub fn resolve(name_or_path: &str, sets: &[String]) -> Result<Self, TrainError> {
        if let Some(named) = NamedRecipe::find(name_or_path) {
            return Self::from_toml(named.name, named.toml, sets);
        }
        let path = Path::new(name_or_path);
        if path.extension().is_none() && !path.exists() {
            return Err(NamedRecipe::unknown(name_or_path));
        }
        let text = std::fs::read_to_string(path).map_err(|source| TrainError::Io {
            path: path.to_owned(),
            source,
        })?;
        Self::from_toml(name_or_path, &text, sets)
    }

    /// Takes the text of a TOML file; `origin` names it in messages.
    ///
    /// # Errors
    /// As [`Recipe::resolve`].
    pub fn from_toml(origin: &str, text: &str, sets: &[String]) -> Result<Self, TrainError> {
        let table = overrides::resolve_table(origin, text, sets)?;
        let recipe: Self =
            toml::Value::Table(table)
                .try_into()
                .map_err(|source| TrainError::RecipeType {
                    origin: origin.to_owned(),
                    source,
                })?;
        let problems = recipe.validate();
        if problems.is_empty() {
            Ok(recipe)
        } else {
            Err(TrainError::Recipe {
                origin: origin.to_owned(),
                problems,
            })
        }
    }

    /// ZeRO stage that the run has on several ranks: 2 where the recipe says 3 and the frozen weights are in 4 bits,
    /// which are not cut into parts. What is computed is the same.
    pub fn zero_stage(&self) -> u8 {
        match self.lora.quantization() {
            Some(_) => self.train.zero_stage.min(2),
            None => self.train.zero_stage,
        }
    }

    /// The recipe as TOML, every value written out.
    ///
    /// # Errors
    /// [`TrainError::RecipeWrite`]; does not happen for a recipe that was read.
    pub fn to_toml(&self) -> Result<String, TrainError> {
        toml::to_string(self).map_err(|source| TrainError::RecipeWrite { source })
    }

    /// All keys with their values as `section.key`, values that are not given as JSON null.
    pub(crate) fn keys(&self) -> Vec<(String, serde_json::Value)> {
        let value = serde_json::to_value(self).unwrap_or_default();
        let mut keys = Vec::new();
        for (section, value) in value.as_object().into_iter().flatten() {
            for (key, value) in value.as_object().into_iter().flatten() {
                keys.push((format!("{section}.{key}"), value.clone()));
            }
        }
        // Left out of the serialized form where they are not given.
        for key in ["data.data_path", "data.image_folder"] {
            if !keys.iter().any(|(k, _)| k == key) {
                keys.push((key.into(), serde_json::Value::Null));
            }
        }
        keys
    }

    /// Keys that decide the weights and differ between two recipes. Paths count only by what they
    /// hold, which the checkpoint checks itself.
    pub(crate) fn changed_keys(&self, other: &Self) -> Vec<String> {
        /// Keys that do not change what is computed.
        const FREE: [&str; 28] = [
            "model.model_name_or_path",
            "model.vision_tower",
            "model.vision_tower_slow",
            "model.pretrain_mm_mlp_adapter",
            "data.data_path",
            "data.image_folder",
            "data.dataloader_num_workers",
            "data.prefetch_bytes",
            "data.image_cache_bytes",
            "data.vision_features_cache",
            // What has been done until now met no other rule.
            "data.on_bad_sample",
            "data.max_bad_samples",
            "data.max_consecutive_bad_samples",
            "train.device",
            "train.zero_stage",
            "train.save_steps",
            "train.save_total_limit",
            "train.max_shard_bytes",
            "train.save_dtype",
            "train.metric_for_best_model",
            "train.greater_is_better",
            "train.on_save_error",
            "train.allow_recipe_change",
            "log.logging_steps",
            "log.trace_step",
            "log.tensorboard",
            "log.worst_samples",
            "log.peak_tflops",
        ];
        // A compact save rounds the state, so when it happens decides the weights.
        let rounds = self.train.compact_checkpoints || other.train.compact_checkpoints;
        let free = |key: &str| FREE.contains(&key) && !(rounds && key == "train.save_steps");
        let other = other.keys();
        self.keys()
            .into_iter()
            .filter(|pair| !free(&pair.0) && !other.contains(pair))
            .map(|(key, _)| key)
            .collect()
    }
}

#[cfg(test)]
mod tests;
