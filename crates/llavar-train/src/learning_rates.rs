//! The highest learning rate of every weight: by module, by pattern, by depth.

use std::collections::BTreeMap;

use crate::{TrainError, recipe::TrainSection, stage::glob};

/// Highest learning rates of a model's weights.
///
/// A weight has the rate of the longest pattern of `train.learning_rates` that fits it, as it stands there.
/// Otherwise it has that of its module (`mm_projector_lr`, `mm_vision_tower_lr`, else `learning_rate`), times
/// `decay^(n + 1 - i)` for block `i` (from 1) of the `n` of its stack: `llm_layer_decay` in the language model,
/// `vision_layer_decay` in each tower. Embeddings and stem count as block 0; what stands behind the last block,
/// and adapters, fusion and projector, keep the rate of their module.
///
/// # Source
/// The layer ids of BEiT's and timm's layer-wise decay.
#[derive(Debug, Clone)]
pub(crate) struct LearningRates {
    default: f64,
    projector: f64,
    tower: f64,
    /// The longest first.
    patterns: Vec<(String, f64)>,
    llm_decay: f64,
    vision_decay: f64,
    /// Blocks of each stack, by the prefix of its names.
    depths: BTreeMap<String, usize>,
    /// Of ConvNeXt's stages, by the prefix of the tower: blocks of each.
    stages: BTreeMap<String, Vec<usize>>,
}

/// Where a weight stands in a stack of blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place<'a> {
    /// Block `n` of a stack with this prefix.
    Block { stack: &'a str, n: usize },
    /// Block `n` of stage `stage` of a ConvNeXt with this prefix.
    Stage {
        stack: &'a str,
        stage: usize,
        n: usize,
    },
    /// Before the first block of the stack with this prefix.
    Entrance { stack: &'a str },
    /// In no stack, or behind its last block.
    Elsewhere,
}

const LANGUAGE_MODEL: &str = "model.layers.";

impl LearningRates {
    /// The rates of a recipe for a model whose weights have these names.
    ///
    /// # Errors
    /// [`TrainError::Setting`] when a pattern fits no weight.
    pub(crate) fn new<'a>(
        train: &TrainSection,
        names: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, TrainError> {
        let mut patterns: Vec<(String, f64)> = train.learning_rates.clone().into_iter().collect();
        patterns.sort_by_key(|(pattern, _)| std::cmp::Reverse(pattern.len()));
        let mut unused: Vec<&str> = patterns.iter().map(|(p, _)| p.as_str()).collect();
        let (mut depths, mut stages) = (BTreeMap::new(), BTreeMap::<String, Vec<usize>>::new());
        for name in names {
            unused.retain(|pattern| !glob(pattern, name));
            match place(name) {
                Place::Block { stack, n } => {
                    let depth = depths.entry(stack.to_owned()).or_insert(0usize);
                    *depth = (*depth).max(n + 1);
                }
                Place::Stage { stack, stage, n } => {
                    let blocks = stages.entry(stack.to_owned()).or_default();
                    blocks.resize(blocks.len().max(stage + 1), 0);
                    blocks[stage] = blocks[stage].max(n + 1);
                }
                Place::Entrance { .. } | Place::Elsewhere => {}
            }
        }
        if let Some(pattern) = unused.first() {
            return Err(TrainError::Setting {
                key: "train.learning_rates",
                reason: format!("pattern `{pattern}` fits no weight of the model"),
            });
        }
        for (stack, blocks) in &stages {
            depths.insert(stack.clone(), blocks.iter().sum());
        }
        let default = train.learning_rate;
        Ok(Self {
            default,
            projector: train.mm_projector_lr.unwrap_or(default),
            tower: train.mm_vision_tower_lr.unwrap_or(default),
            patterns,
            llm_decay: train.llm_layer_decay,
            vision_decay: train.vision_layer_decay,
            depths,
            stages,
        })
    }

    /// Highest learning rate of the weight `name`.
    pub(crate) fn of(&self, name: &str) -> f64 {
        let fitting = self.patterns.iter().find(|(p, _)| glob(p, name));
        if let Some((_, rate)) = fitting {
            return *rate;
        }
        let module = if name.contains("mm_projector") {
            self.projector
        } else if name.contains("vision_tower") {
            self.tower
        } else {
            self.default
        };
        let (stack, id) = match place(name) {
            Place::Block { stack, n } => (stack, n + 1),
            Place::Stage { stack, stage, n } => {
                let before = self.stages.get(stack).map_or(&[][..], Vec::as_slice);
                let before: usize = before.iter().take(stage).sum();
                (stack, before + n + 1)
            }
            Place::Entrance { stack } => (stack, 0),
            Place::Elsewhere => return module,
        };
        let decay = match stack {
            LANGUAGE_MODEL => self.llm_decay,
            _ => self.vision_decay,
        };
        let depth = self.depths.get(stack).copied().unwrap_or(0);
        let above = (depth + 1).saturating_sub(id);
        // Without decay the rate must be the module's to the last bit.
        if decay == 1.0 {
            return module;
        }
        module * decay.powi(above as i32)
    }
}

/// The number after `prefix`, which ends where a dot follows.
fn number(rest: &str) -> Option<usize> {
    rest.split('.').next()?.parse().ok()
}

fn place(name: &str) -> Place<'_> {
    /// Before and after `mark`, the mark itself going to the first.
    fn cut<'a>(name: &'a str, mark: &str) -> Option<(&'a str, &'a str)> {
        let end = name.find(mark)? + mark.len();
        Some(name.split_at(end))
    }
    if name.starts_with("model.embed_tokens.") {
        return Place::Entrance {
            stack: LANGUAGE_MODEL,
        };
    }
    for mark in [LANGUAGE_MODEL, "vision_model."] {
        let Some((stack, rest)) = cut(name, mark) else {
            continue;
        };
        let block = match mark {
            LANGUAGE_MODEL => Some(rest),
            _ => rest.strip_prefix("encoder.layers."),
        };
        return match block.map(number) {
            Some(Some(n)) => Place::Block { stack, n },
            _ if rest.starts_with("embeddings.") || rest.starts_with("pre_layrnorm.") => {
                Place::Entrance { stack }
            }
            _ => Place::Elsewhere,
        };
    }
    // What is left of a tower is a ConvNeXt, beside a CLIP or alone.
    let convnext = [
        "slow_vision_tower.vision_tower.",
        "model.vision_tower.vision_tower.",
    ];
    let Some((stack, rest)) = convnext.iter().find_map(|mark| cut(name, mark)) else {
        return Place::Elsewhere;
    };
    if rest.starts_with("stem.") {
        return Place::Entrance { stack };
    }
    let stage = rest
        .strip_prefix("stages.")
        .and_then(|rest| rest.split_once('.'));
    let Some((Ok(stage), rest)) = stage.map(|(stage, rest)| (stage.parse(), rest)) else {
        return Place::Elsewhere;
    };
    // What leads into a stage goes with its first block.
    let n = rest.strip_prefix("blocks.").and_then(number).unwrap_or(0);
    Place::Stage { stack, stage, n }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    use llavar_model::config::{ModelConfig, Pathways, Preset, parameters};

    fn rates(sets: impl FnOnce(&mut TrainSection)) -> Result<LearningRates, TrainError> {
        let mut train = TrainSection {
            learning_rate: 1e-3,
            ..TrainSection::default()
        };
        sets(&mut train);
        let config = Preset::Llama31Instruct.config(None).unwrap();
        let all = parameters(&config, true);
        LearningRates::new(&train, all.iter().map(|p| p.name.as_str()))
    }

    const CLIP: &str = "model.vision_tower.fast_vision_tower.vision_tower.vision_model.";
    const CONVNEXT: &str = "model.vision_tower.slow_vision_tower.vision_tower.";

    fn near(got: f64, want: f64) {
        assert!((got / want - 1.0).abs() < 1e-12, "{got:e} {want:e}");
    }

    #[test]
    fn modules_and_patterns_have_rates_of_their_own() {
        let plain = rates(|_| {}).unwrap();
        for name in ["lm_head.weight", "model.mm_projector.0.weight"] {
            assert_eq!(plain.of(name).to_bits(), 1e-3f64.to_bits(), "{name}");
        }
        let rates = rates(|train| {
            train.mm_projector_lr = Some(2e-3);
            train.mm_vision_tower_lr = Some(2e-6);
            train.learning_rates = BTreeMap::from([
                ("*.gate.*".into(), 5e-4),
                ("*.align_stages_latent.1.gate.*".into(), 7e-4),
                ("model.layers.3.*".into(), 0.0),
            ]);
        })
        .unwrap();
        for (name, want) in [
            ("model.layers.2.mlp.up_proj.weight", 1e-3),
            ("model.layers.3.mlp.up_proj.weight", 0.0),
            ("model.layers.30.mlp.up_proj.weight", 1e-3),
            ("model.mm_projector.2.bias", 2e-3),
            ("model.vision_tower.align_stages.0.fast_proj.weight", 2e-6),
            (
                "model.vision_tower.align_stages_latent.0.gate.0.weight",
                5e-4,
            ),
            ("model.vision_tower.align_stages_latent.1.gate.0.bias", 7e-4),
        ] {
            assert_eq!(rates.of(name), want, "{name}");
        }
    }

    #[test]
    fn a_pattern_that_fits_nothing_is_named() {
        let error = rates(|train| {
            train.learning_rates = BTreeMap::from([("model.layer.*".into(), 1e-4)]);
        });
        let error = error.unwrap_err().to_string();
        assert!(error.contains("`model.layer.*`"), "{error}");
    }

    #[test]
    fn a_tower_alone_is_the_stack_that_it_is_beside_another() {
        let train = TrainSection {
            learning_rate: 1e-3,
            vision_layer_decay: 0.8,
            ..TrainSection::default()
        };
        let both = Preset::Llama31Instruct.config(None).unwrap();
        let of = |config: &ModelConfig| {
            let all = parameters(config, true);
            LearningRates::new(&train, all.iter().map(|p| p.name.as_str())).unwrap()
        };
        let beside = of(&both);
        for pathways in [Pathways::Fast, Pathways::Slow] {
            let alone = both.with_pathways(pathways).unwrap();
            let rates = of(&alone);
            let mut seen = BTreeSet::new();
            for parameter in parameters(&alone, false) {
                let Some(rest) = parameter.name.strip_prefix("model.vision_tower.") else {
                    continue;
                };
                let path = pathways.name();
                let name = format!("model.vision_tower.{path}_vision_tower.{rest}");
                let rate = rates.of(&parameter.name);
                assert_eq!(rate, beside.of(&name), "{name}");
                seen.insert(rate.to_bits());
            }
            assert!(seen.len() > 20, "{}", seen.len());
        }
    }

    #[test]
    fn rates_fall_with_the_distance_from_the_end_of_the_stack() {
        let rates = rates(|train| {
            train.mm_vision_tower_lr = Some(1e-4);
            train.llm_layer_decay = 0.9;
            train.vision_layer_decay = 0.8;
        })
        .unwrap();
        // 32 layers, 24 layers, 3 + 3 + 27 + 3 blocks.
        for (name, base, decay, power) in [
            ("model.embed_tokens.weight", 1e-3, 0.9, 33),
            ("model.layers.0.mlp.up_proj.weight", 1e-3, 0.9, 32),
            ("model.layers.31.input_layernorm.weight", 1e-3, 0.9, 1),
            ("model.norm.weight", 1e-3, 0.9, 0),
            ("lm_head.weight", 1e-3, 0.9, 0),
            ("model.mm_projector.0.weight", 1e-3, 0.9, 0),
            (&format!("{CLIP}embeddings.class_embedding"), 1e-4, 0.8, 25),
            (&format!("{CLIP}pre_layrnorm.bias"), 1e-4, 0.8, 25),
            (
                &format!("{CLIP}encoder.layers.0.mlp.fc1.bias"),
                1e-4,
                0.8,
                24,
            ),
            (
                &format!("{CLIP}encoder.layers.23.mlp.fc1.bias"),
                1e-4,
                0.8,
                1,
            ),
            (&format!("{CONVNEXT}stem.0.weight"), 1e-4, 0.8, 37),
            (
                &format!("{CONVNEXT}stages.0.blocks.0.weight"),
                1e-4,
                0.8,
                36,
            ),
            (
                &format!("{CONVNEXT}stages.2.downsample.1.weight"),
                1e-4,
                0.8,
                30,
            ),
            (
                &format!("{CONVNEXT}stages.2.blocks.0.weight"),
                1e-4,
                0.8,
                30,
            ),
            (&format!("{CONVNEXT}stages.3.blocks.2.weight"), 1e-4, 0.8, 1),
            (
                "model.vision_tower.align_stages.0.fast_proj.weight",
                1e-4,
                0.8,
                0,
            ),
        ] {
            near(rates.of(name), base * f64::powi(decay, power));
        }
    }
}
