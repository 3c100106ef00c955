//! Runs that train adapters (LoRA, DoRA) on a frozen model.

use std::path::{Path, PathBuf};

use llavar_model::{LlavaModel, ModelError, lora::Adapter};

use super::Trainer;
use crate::{Recipe, TrainError, checkpoint::TrainState};

/// Puts the recipe's adapters on a model that has none.
pub(super) fn attach(model: LlavaModel, recipe: &Recipe) -> Result<LlavaModel, TrainError> {
    if !recipe.lora.lora_enable || model.has_lora() {
        return Ok(model);
    }
    let mut model = model;
    if let Some(quantization) = recipe.lora.quantization() {
        // One that was given in memory has all its bits still.
        model
            .quantize(quantization)
            .map_err(|e| TrainError::model(None, e))?;
    }
    let made = model.with_lora(&recipe.lora.config(), recipe.train.seed);
    made.map_err(|error| match error {
        ModelError::LoraTarget(target) => TrainError::Setting {
            key: "lora.lora_target_modules",
            reason: target.to_string(),
        },
        other => TrainError::model(None, other),
    })
}

/// The folder of a run's frozen weights.
///
/// # Errors
/// [`TrainError::Setting`] where the recipe names none.
pub(super) fn base_folder(recipe: &Recipe) -> Result<PathBuf, TrainError> {
    let Some(base) = &recipe.model.model_name_or_path else {
        return Err(TrainError::Setting {
            key: "model.model_name_or_path",
            reason: "not given; adapters are saved without the weights that they stand on, so their folder must \
                     be named"
                .into(),
        });
    };
    if Adapter::is_at(Path::new(base)) {
        return Err(TrainError::Setting {
            key: "model.model_name_or_path",
            reason: format!(
                "{base} is an adapter; merge it into its base first (`llavar model merge`), or resume its run"
            ),
        });
    }
    Ok(std::path::absolute(base).unwrap_or_else(|_| base.into()))
}

/// The model of a checkpoint: whole, or the adapters of one with the recipe's base.
pub(super) fn load_checkpoint(folder: &Path, recipe: &Recipe) -> Result<LlavaModel, TrainError> {
    let loaded = match Adapter::is_at(folder) {
        false => LlavaModel::load(folder),
        true => Adapter::open(folder).and_then(|adapter| {
            let base = match base_folder(recipe) {
                Ok(base) => base,
                Err(_) => adapter.base()?,
            };
            LlavaModel::load_unmerged(&base, &adapter)
        }),
    };
    loaded.map_err(|e| TrainError::model(Some(folder.to_owned()), e))
}

/// Compares the frozen weights with those that a checkpoint was made on; gives their fingerprint, empty for a
/// run that trains whole weights.
pub(super) fn check_base(
    model: &LlavaModel,
    state: Option<&TrainState>,
    recipe: &Recipe,
    warnings: &mut Vec<String>,
) -> Result<String, TrainError> {
    if !model.has_lora() {
        return Ok(String::new());
    }
    let now = model
        .base_fingerprint()
        .map_err(|e| TrainError::model(None, e))?;
    if let Some(state) = state.filter(|state| state.base != now) {
        let reason = format!(
            "its frozen weights (fingerprint {now}) are not those that the checkpoint's adapters were trained on \
             ({})",
            state.base
        );
        match recipe.train.allow_recipe_change {
            true => warnings.push(format!(
                "model.model_name_or_path: {reason}, unless train.trainable, train.freeze or train.stage say why"
            )),
            false => {
                return Err(TrainError::Setting {
                    key: "model.model_name_or_path",
                    reason,
                });
            }
        }
    }
    Ok(now)
}

impl Trainer {
    /// Seed of dropout in a micro-batch of the present step: it depends on its number in the step, not on the rank
    /// that computes it.
    pub(super) fn dropout_seed(&self, own_part: usize) -> u64 {
        let share = self.share();
        let part = own_part as u64 * share.ranks + share.rank;
        let step = self.state.step.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.recipe.train.seed ^ step.rotate_left(17) ^ part.wrapping_mul(0xd1b5_4a32_d192_ed03)
    }

    /// What trains beside projector and fusion, in words.
    pub(super) fn adapters(&self) -> Option<String> {
        let lora = &self.recipe.lora;
        let params = self.model.params();
        let layers = params
            .iter()
            .filter(|p| p.name().ends_with(".lora_A.weight"))
            .count();
        self.model.has_lora().then(|| {
            let (coded, bytes) = self.model.quantized();
            let base = match coded {
                0 => String::new(),
                _ => format!(
                    "; {:.1} M frozen weights in 4 bits, {:.3} GiB",
                    coded as f64 / 1e6,
                    bytes as f64 / (1u64 << 30) as f64
                ),
            };
            format!(
                "{}: rank {}, alpha {}, dropout {}, on {layers} layers{base}",
                if lora.use_dora { "DoRA" } else { "LoRA" },
                lora.lora_r,
                lora.lora_alpha,
                lora.lora_dropout
            )
        })
    }
}
