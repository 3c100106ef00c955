//! Loading the model that a recipe names.

use std::path::Path;

use llavar_model::{
    LlavaModel, Parts,
    config::{ModelConfig, VisionConfig},
    weights::{Role, Source, WeightFiles, adapters_present},
};

use super::adapters;
use crate::{Recipe, TrainError, recipe::Stage};

/// Reads the model of a recipe: its folder, the image size it asks for, the stage-1 weights over it, and
/// fresh adapters where stage 2 needs them.
pub(super) fn load(recipe: &Recipe, folder: &Path) -> Result<LlavaModel, TrainError> {
    fn at<E: std::error::Error + Send + Sync + 'static>(
        folder: &Path,
    ) -> impl FnOnce(E) -> TrainError {
        let folder = folder.to_owned();
        move |e| TrainError::model(Some(folder), e)
    }
    adapters::base_folder(recipe)?;
    let stage1 = match &recipe.model.pretrain_mm_mlp_adapter {
        Some(path) => Some(stage1_weights(Path::new(path))?),
        None => None,
    };
    if let Some(parts) = parts(recipe, folder)? {
        let adapters = makes_adapters(recipe, parts.config());
        let mut sources = parts.sources();
        sources.extend(stage1.as_ref().map(|files| Source {
            files,
            role: Role::Projector,
        }));
        let adapters = adapters || stage1.as_ref().is_some_and(adapters_present);
        let (config, seed) = (parts.config().clone(), recipe.train.seed);
        let read = LlavaModel::from_sources(config, adapters, &sources, Parts::is_new, seed);
        return read.map_err(at(folder));
    }
    let mut config = ModelConfig::read(folder).map_err(at(folder))?;
    if let (Some(size), true) = (recipe.model.input_image_size, config.vision.is_some()) {
        config = config
            .with([("input_image_size".to_owned(), size.into())])
            .map_err(at(folder))?;
    }
    let files = WeightFiles::open(folder).map_err(at(folder))?;
    let mut sources = vec![Source {
        files: &files,
        role: Role::Model,
    }];
    sources.extend(stage1.as_ref().map(|files| Source {
        files,
        role: Role::Projector,
    }));
    let stage1_adapters = stage1.as_ref().is_some_and(adapters_present);
    let adapters = adapters_present(&files) || stage1_adapters || makes_adapters(recipe, &config);
    // Fresh adapters change nothing until they are trained; every other weight must be in the files.
    let fresh = |name: &str| name.contains("align_stages_latent");
    let seed = recipe.train.seed;
    let read = match recipe.lora.quantization() {
        None => LlavaModel::from_sources(config, adapters, &sources, fresh, seed),
        Some(quantization) => LlavaModel::from_sources_quantized(
            config,
            adapters,
            &sources,
            fresh,
            seed,
            quantization,
        ),
    };
    read.map_err(at(folder))
}

/// A language model with the towers that the recipe names beside it.
fn parts(recipe: &Recipe, folder: &Path) -> Result<Option<Parts>, TrainError> {
    let Some(tower) = &recipe.model.vision_tower else {
        return Ok(None);
    };
    let slow = recipe.model.vision_tower_slow.as_ref().map(Path::new);
    let opened = Parts::open(
        folder,
        Path::new(tower),
        slow,
        recipe.model.input_image_size,
    );
    // The error names the part itself.
    opened.map(Some).map_err(|e| TrainError::model(None, e))
}

/// Writes into the model's configuration what inference must do as training did, under the reference's
/// keys.
pub(super) fn with_run_settings(
    mut model: LlavaModel,
    recipe: &Recipe,
) -> Result<LlavaModel, TrainError> {
    let mut changes = vec![(
        "tokenizer_model_max_length".to_owned(),
        recipe.train.model_max_length.into(),
    )];
    if model.config.vision.is_some() {
        let pretrain = recipe.train.stage == Stage::Pretrain;
        changes.push((
            "image_aspect_ratio".into(),
            recipe.data.image_aspect_ratio.as_str().into(),
        ));
        changes.push(("tune_mm_mlp_adapter".into(), pretrain.into()));
        changes.push((
            "mm_projector_lr".into(),
            recipe.train.mm_projector_lr.into(),
        ));
    }
    model.config = model
        .config
        .with(changes)
        .map_err(|e| TrainError::model(None, e))?;
    Ok(model)
}

/// Whether the recipe's stage trains with adapters, as the reference builds them: `freeze_vision False`
/// on the tower of two paths.
pub(crate) fn makes_adapters(recipe: &Recipe, config: &ModelConfig) -> bool {
    let vision = config.vision.as_ref();
    let multipath = vision.is_some_and(VisionConfig::is_multipath);
    multipath && recipe.train.stage == Stage::Sft && !recipe.model.freeze_vision
}

/// The stage-1 file itself, or the one of a run folder.
fn stage1_weights(path: &Path) -> Result<WeightFiles, TrainError> {
    let found = WeightFiles::open_projector(path)
        .map_err(|e| TrainError::model(Some(path.to_owned()), e))?;
    found.ok_or_else(|| TrainError::Setting {
        key: "model.pretrain_mm_mlp_adapter",
        reason: format!(
            "{} holds no mm_projector.safetensors or mm_projector.bin",
            path.display()
        ),
    })
}
