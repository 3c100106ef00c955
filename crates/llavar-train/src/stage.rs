//! Which weights train in a stage, and in which group of the optimizer each of them is (spec 6.1, 6.3).

use std::collections::HashSet;

pub(crate) use llavar_model::glob;
use llavar_model::lora::is_adapter;
use llavar_tensor::{DType, Param};

use crate::{
    TrainError,
    recipe::{Stage, TrainSection},
};

/// Whether the stage itself trains the weight `name`.
///
/// `pretrain`: every weight with `mm_projector` or `align_stages` in its name. The reference has no
/// `align_stages_latent` modules in that stage; where a model has them, its rule "`align_stages` in the
/// name" covers them too. `sft`: everything.
pub fn trains(stage: Stage, name: &str) -> bool {
    match stage {
        Stage::Pretrain => name.contains("mm_projector") || name.contains("align_stages"),
        Stage::Sft => true,
    }
}

/// Whether a recipe trains the weight `name`: by its stage and its patterns, or, in a model with `adapters`, those,
/// the weights of stage 1 and what the patterns name.
pub(crate) fn is_trained(train: &TrainSection, adapters: bool, name: &str) -> bool {
    let any = |patterns: &[String]| patterns.iter().any(|p| glob(p, name));
    let stage = match adapters {
        true => is_adapter(name) || trains(Stage::Pretrain, name),
        false => trains(train.stage, name),
    };
    (stage || any(&train.trainable)) && !any(&train.freeze)
}

/// Sets `requires_grad` of every weight from the stage and the recipe's patterns. In a model with adapters those
/// train, and of the other weights those of stage 1; a weight with an adapter on it stays frozen.
///
/// # Errors
/// [`TrainError::Setting`] when a pattern fits no weight, or none that can train, a weight in 4 bits would train, or
/// nothing is left to train.
pub fn select_trainable(params: &[Param], train: &TrainSection) -> Result<(), TrainError> {
    let under_adapters: HashSet<&str> = params
        .iter()
        .filter_map(|p| p.name().strip_suffix(".lora_A.weight"))
        .collect();
    let carries = |name: &str| {
        name.strip_suffix(".weight")
            .is_some_and(|m| under_adapters.contains(m))
    };
    for (key, patterns) in [
        ("train.trainable", &train.trainable),
        ("train.freeze", &train.freeze),
    ] {
        for pattern in patterns {
            if !params.iter().any(|p| glob(pattern, p.name())) {
                let example = params.last().map_or("", Param::name);
                return Err(TrainError::Setting {
                    key,
                    reason: format!(
                        "pattern `{pattern}` fits no weight; names look like `{example}`"
                    ),
                });
            }
            let mut fit = params.iter().filter(|p| glob(pattern, p.name()));
            if key == "train.trainable" && fit.all(|p| carries(p.name())) {
                return Err(TrainError::Setting {
                    key,
                    reason: format!(
                        "pattern `{pattern}` fits weights with adapters alone, and those stay frozen; take them out of \
                         lora.lora_target_modules to train them whole"
                    ),
                });
            }
        }
    }
    let adapters = !under_adapters.is_empty();
    let mut count = 0usize;
    for param in params {
        let name = param.name();
        let on = is_trained(train, adapters, name) && !carries(name);
        if on && param.dtype() == DType::Nf4 {
            return Err(TrainError::Setting {
                key: "train.trainable",
                reason: format!(
                    "`{name}` is kept in 4 bits and cannot train whole; give it an adapter (lora.lora_target_modules), \
                     or keep all bits (lora.bits=16)"
                ),
            });
        }
        param.set_requires_grad(on);
        count += usize::from(on);
    }
    if count == 0 {
        return Err(TrainError::Setting {
            key: "train.stage",
            reason: "no weight is left to train; check train.stage and train.freeze".into(),
        });
    }
    Ok(())
}

/// Group of a weight in the optimizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group {
    /// Whether weight decay acts on it.
    pub decay: bool,
}

impl Group {
    /// The group of a weight. Without decay: biases, and the weights of the norms that the reference
    /// finds by type (`nn.LayerNorm` with its subclasses, `LlamaRMSNorm`; Phi-3's norms are of a type of
    /// their own, so they do decay, as do layer scales and position embeddings).
    pub fn of(name: &str, phi3: bool) -> Self {
        let language = !name.contains("vision_tower") && !name.contains("mm_projector");
        let norm = if language {
            !phi3 && (name.ends_with("layernorm.weight") || name.ends_with("norm.weight"))
        } else {
            let layer_norm = [
                "pre_layrnorm",
                "post_layernorm",
                "layer_norm1",
                "layer_norm2",
            ];
            layer_norm.iter().any(|n| name.contains(n))
                || name.ends_with(".norm.weight")
                || name.ends_with(".stem.1.weight")
                || (name.contains(".downsample.0."))
        };
        Self {
            decay: !norm && !name.contains("bias"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use llavar_tensor::Tensor;

    fn params(names: &[&str]) -> Vec<Param> {
        names
            .iter()
            .map(|n| Param::new(*n, Tensor::zeros(&[1])))
            .collect()
    }

    fn training(params: &[Param]) -> Vec<&str> {
        let on = params.iter().filter(|p| p.requires_grad());
        on.map(Param::name).collect()
    }

    const NAMES: [&str; 4] = [
        "model.layers.0.mlp.down_proj.weight",
        "model.vision_tower.align_stages.0.fast_proj.weight",
        "model.vision_tower.align_stages_latent.0.gate.0.bias",
        "model.mm_projector.0.weight",
    ];

    #[test]
    fn stages_and_patterns_select_weights() {
        let all = params(&NAMES);
        let mut section = TrainSection {
            stage: Stage::Pretrain,
            ..TrainSection::default()
        };
        select_trainable(&all, &section).unwrap();
        assert_eq!(training(&all), NAMES[1..]);
        section.trainable = vec!["model.layers.*".into()];
        section.freeze = vec!["*latent.?.*".into()];
        select_trainable(&all, &section).unwrap();
        assert_eq!(training(&all), [NAMES[0], NAMES[1], NAMES[3]]);
        section.stage = Stage::Sft;
        section.freeze = vec!["*".into()];
        assert!(select_trainable(&all, &section).is_err());
        section.freeze = vec!["no.such".into()];
        let error = select_trainable(&all, &section).unwrap_err().to_string();
        assert!(error.contains("no.such"), "{error}");
    }

    #[test]
    fn decay_groups_are_those_of_the_reference() {
        let decays = |name: &str, phi3| Group::of(name, phi3).decay;
        for name in ["model.norm.weight", "model.layers.3.input_layernorm.weight"] {
            assert!(!decays(name, false) && decays(name, true), "{name}");
        }
        let clip = "model.vision_tower.fast_vision_tower.vision_tower.vision_model.";
        let slow = "model.vision_tower.slow_vision_tower.vision_tower.";
        for tail in [
            "pre_layrnorm.weight",
            "encoder.layers.0.layer_norm2.weight",
            "x.bias",
        ] {
            assert!(!decays(&format!("{clip}{tail}"), false), "{tail}");
        }
        for tail in [
            "stem.1.weight",
            "stages.1.downsample.0.weight",
            "stages.0.blocks.0.norm.weight",
        ] {
            assert!(!decays(&format!("{slow}{tail}"), false), "{tail}");
        }
        for tail in [
            "stem.0.weight",
            "stages.1.downsample.1.weight",
            "stages.0.blocks.0.weight",
        ] {
            assert!(decays(&format!("{slow}{tail}"), false), "{tail}");
        }
        assert!(decays(
            &format!("{clip}embeddings.position_embedding.weight"),
            false
        ));
        assert!(decays("model.mm_projector.0.weight", false));
        assert!(!decays("model.mm_projector.0.bias", false));
    }

    /// The rule by names against one by shapes, over every weight of the published models: a weight of one
    /// dimension beside a bias is a `LayerNorm`'s, one without bias in the language model an RMS norm's.
    #[test]
    fn decay_groups_are_those_of_the_module_types() {
        use llavar_model::config::{LlmFamily, PRESETS, parameters};
        for preset in PRESETS {
            let config = preset.config(Some(300)).unwrap();
            let phi3 = config.llm.family == LlmFamily::Phi3;
            let all = parameters(&config, true);
            let names: std::collections::BTreeSet<&str> =
                all.iter().map(|p| p.name.as_str()).collect();
            let mut counts = [0, 0];
            for parameter in &all {
                let name = parameter.name.as_str();
                let stem = name.strip_suffix(".weight");
                let flat = stem.filter(|_| parameter.shape.len() == 1);
                let with_bias = |stem: &str| names.contains(format!("{stem}.bias").as_str());
                let layer_norm = flat.is_some_and(with_bias);
                let language = !name.contains("vision_tower") && !name.contains("mm_projector");
                let rms_norm = flat.is_some() && language && !phi3;
                let want = !(layer_norm || rms_norm || name.ends_with("bias"));
                assert_eq!(
                    Group::of(name, phi3).decay,
                    want,
                    "{} {name}",
                    preset.name()
                );
                counts[usize::from(want)] += 1;
            }
            assert!(counts[0] > 100 && counts[1] > 100, "{counts:?}");
        }
    }

    #[test]
    fn with_adapters_only_they_and_stage_one_train() {
        let layer = "model.layers.0.mlp.down_proj";
        let mut names = NAMES.map(str::to_owned).to_vec();
        names.push("model.layers.0.input_layernorm.weight".into());
        names.extend(
            ["lora_A.weight", "lora_B.weight", "lora_magnitude_vector"]
                .map(|n| format!("{layer}.{n}")),
        );
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let all = params(&names);
        let mut section = TrainSection::default();
        select_trainable(&all, &section).unwrap();
        assert_eq!(training(&all), [&names[1..4], &names[5..]].concat());
        // A pattern may add others, but not the weight under an adapter.
        section.trainable = vec!["model.layers.*".into()];
        select_trainable(&all, &section).unwrap();
        assert_eq!(training(&all), names[1..]);
        section.trainable = vec![NAMES[0].into()];
        let error = select_trainable(&all, &section).unwrap_err().to_string();
        assert!(error.contains("lora_target_modules"), "{error}");
    }
}
