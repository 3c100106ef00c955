//! Published names of tensors, and the other names under which the same tensors circulate.

use crate::config::Parameter;

pub(crate) const LM_HEAD: &str = "lm_head.weight";
const SLOW: &str = "model.vision_tower.slow_vision_tower.vision_tower.";
const FAST: &str = "model.vision_tower.fast_vision_tower.vision_tower.";
const SINGLE: &str = "model.vision_tower.vision_tower.";

/// What stands before the names of the towers' tensors.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TowerPrefixes {
    /// Those of CLIP.
    pub(crate) clip: &'static str,
    /// Those of the ConvNeXt.
    pub(crate) convnext: &'static str,
}

impl TowerPrefixes {
    /// Of a model with these parameters: its towers stand side by side, or one of them alone.
    pub(crate) fn of(parameters: &[Parameter]) -> Self {
        if parameters.iter().any(|p| p.name.starts_with(SINGLE)) {
            Self {
                clip: SINGLE,
                convnext: SINGLE,
            }
        } else {
            Self {
                clip: FAST,
                convnext: SLOW,
            }
        }
    }
}

/// The published name of a tensor of a whole model.
///
/// Accepts names with or without `model.`, a data-parallel `module.`, PEFT's `base_model.model.`, and the layer scale as `gamma`.
pub(crate) fn of_model(name: &str) -> String {
    let name = name.strip_prefix("module.").unwrap_or(name);
    let name = name.strip_prefix("base_model.model.").unwrap_or(name);
    let name = match name.strip_prefix("model.") {
        Some(rest) if rest.starts_with("model.") || rest.starts_with("lm_head.") => rest.to_owned(),
        Some(_) => name.to_owned(),
        None if name.starts_with("lm_head.") => name.to_owned(),
        None => format!("model.{name}"),
    };
    layer_scale(name)
}

/// The published name of a tensor of a ConvNeXt file: timm's names, or open_clip's with
/// `visual.trunk.`. `None` for what belongs to other parts (the text tower, open_clip's own head).
pub(crate) fn of_convnext(name: &str, prefix: &str) -> Option<String> {
    let rest = name.strip_prefix("module.").unwrap_or(name);
    let rest = rest.strip_prefix("visual.trunk.").unwrap_or(rest);
    let ours = ["stem.", "stages.", "head.", "norm_pre."]
        .iter()
        .any(|part| rest.starts_with(part));
    ours.then(|| layer_scale(format!("{prefix}{rest}")))
}

/// The published name of a tensor of a CLIP file of transformers. `None` for the text tower and the
/// projections into the common space. A vision model alone has no `vision_model.` from transformers 5 on.
pub(crate) fn of_clip(name: &str, prefix: &str) -> Option<String> {
    let bare = [
        "embeddings.",
        "pre_layrnorm.",
        "encoder.layers.",
        "post_layernorm.",
    ];
    if bare.iter().any(|start| name.starts_with(start)) {
        return Some(format!("{prefix}vision_model.{name}"));
    }
    let at = name.find("vision_model.")?;
    Some(format!("{prefix}{}", &name[at..]))
}

/// The published name of a tensor of a stage-1 file.
///
/// # Source
/// The reference takes the part after `mm_projector.`, and of `vision_tower` keys the part after the
/// first `vision_tower.`; that is only right for `align_stages`, so other tower keys are `None`.
pub(crate) fn of_projector(name: &str) -> Option<String> {
    if let Some((_, rest)) = name.split_once("mm_projector.") {
        return Some(format!("model.mm_projector.{rest}"));
    }
    let at = name.find("align_stages")?;
    Some(format!("model.vision_tower.{}", &name[at..]))
}

/// Tensors that published files carry and nothing uses: kept, so that a saved folder has them too.
pub(crate) fn is_unused(name: &str) -> bool {
    let tower = name.starts_with("model.vision_tower.");
    let parts = [
        ".vision_tower.head.",
        ".vision_tower.norm_pre.",
        ".post_layernorm.",
    ];
    tower && parts.iter().any(|part| name.contains(part))
        || name.ends_with("position_ids")
        || name.ends_with(".rotary_emb.inv_freq")
}

/// timm calls the layer scale `gamma`, published folders `weight`.
fn layer_scale(name: String) -> String {
    match name.strip_suffix(".gamma") {
        Some(block) if name.contains(".blocks.") => format!("{block}.weight"),
        _ => name,
    }
}
