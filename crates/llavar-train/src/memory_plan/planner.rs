//! `Planner`: what a run will need on each of its GPUs, from shapes alone, before there is a model or a GPU.

use std::collections::HashSet;

use llavar_model::{
    config::{ModelConfig, Parameter, parameters},
    has_layer_scale,
    lora::adapter_parameters,
    takes_fp8,
};
use llavar_tensor::optim::Precision;

use super::{
    Activations, MemoryPlan, MicroBatch, USABLE, activations::Trained,
    activations::low_rank_widths, gpu_workspace, held,
};
use crate::{
    Recipe, TrainError,
    recipe::{GradientCheckpointing, PrecisionName, TrainSection},
    stage::is_trained,
    trainer::{fp8_bytes, makes_adapters},
};

/// How a run is spread and what one micro-batch of it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spread {
    /// GPUs.
    pub gpus: usize,
    /// ZeRO's stage, 0 to 3; without effect on one GPU.
    pub zero_stage: u8,
    /// Element types.
    pub precision: Precision,
    /// Bytes of one GPU.
    pub memory: usize,
}

/// The model of a recipe as shapes.
#[derive(Debug, Clone)]
pub struct Planner {
    config: ModelConfig,
    adapters: bool,
    trained: Trained,
    train: TrainSection,
    /// Elements: all weights, those that train, and the largest block, which ZeRO gathers whole.
    weights: usize,
    trainable: usize,
    largest: usize,
    /// Weights in 4 bits: elements, bytes, and elements of the largest.
    coded: usize,
    coded_bytes: usize,
    largest_coded: usize,
    /// Elements of the weights that multiply in FP8.
    fp8: usize,
    /// Elements of the weights of which there is a scaled copy.
    scaled: usize,
    /// Elements that a token keeps in the adapters of all layers.
    low_rank: usize,
    /// Whether adapters train.
    lora: bool,
}

impl Planner {
    /// For a model of this configuration, trained as the recipe says.
    ///
    /// # Errors
    /// [`TrainError::Model`] where the recipe's image size does not fit the configuration;
    /// [`TrainError::Setting`] where nothing is left to train.
    pub fn new(config: &ModelConfig, recipe: &Recipe) -> Result<Self, TrainError> {
        let mut config = config.clone();
        if let (Some(size), true) = (recipe.model.input_image_size, config.vision.is_some()) {
            config = config
                .with([("input_image_size".to_owned(), size.into())])
                .map_err(|e| TrainError::model(None, e))?;
        }
        let adapters = makes_adapters(recipe, &config);
        let list = parameters(&config, adapters);
        let low_rank = match recipe.lora.lora_enable {
            true => adapter_parameters(&recipe.lora.config(), &list).map_err(|e| {
                TrainError::Setting {
                    key: "lora.lora_target_modules",
                    reason: e.to_string(),
                }
            })?,
            false => Vec::new(),
        };
        // A weight with an adapter on it stays frozen.
        let under: HashSet<&str> = low_rank
            .iter()
            .filter_map(|p| p.name.strip_suffix(".lora_A.weight"))
            .collect();
        let lora = recipe.lora.lora_enable;
        let trains = |p: &&Parameter| {
            let module = p.name.strip_suffix(".weight");
            is_trained(&recipe.train, lora, &p.name) && !module.is_some_and(|m| under.contains(m))
        };
        let trained: Vec<&Parameter> = list.iter().chain(&low_rank).filter(trains).collect();
        let quantization = recipe.lora.quantization();
        let coded = |p: &Parameter| quantization.and_then(|q| q.bytes(p));
        let in_few_bits = list.iter().filter(|p| coded(p).is_some());
        if trained.is_empty() {
            return Err(TrainError::Setting {
                key: "train.stage",
                reason: "no weight is left to train; check train.stage and train.freeze".into(),
            });
        }
        let mut largest = 0;
        for block in list.chunk_by(|a, b| block_of(&a.name) == block_of(&b.name)) {
            largest = largest.max(block.iter().map(Parameter::numel).sum());
        }
        Ok(Self {
            trained: Trained::of(trained.iter().map(|p| p.name.as_str())),
            trainable: trained.iter().map(|p| p.numel()).sum(),
            weights: list.iter().chain(&low_rank).map(Parameter::numel).sum(),
            coded: in_few_bits.clone().map(Parameter::numel).sum(),
            coded_bytes: list.iter().filter_map(coded).sum(),
            largest_coded: in_few_bits.map(Parameter::numel).max().unwrap_or(0),
            fp8: match recipe.train.fp8 {
                true => list
                    .iter()
                    .filter(|p| takes_fp8(&p.name, &p.shape) && coded(p).is_none())
                    .map(Parameter::numel)
                    .sum(),
                false => 0,
            },
            scaled: list
                .iter()
                .filter(|p| has_layer_scale(&p.name))
                .map(Parameter::numel)
                .sum(),
            low_rank: low_rank_widths(
                low_rank
                    .iter()
                    .map(|p| (p.name.as_str(), p.shape.as_slice())),
            ),
            lora,
            largest,
            train: recipe.train.clone(),
            config,
            adapters,
        })
    }

    /// The configuration, with the recipe's image size.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Weights, and those of them that train, elements.
    pub fn parameters(&self) -> (usize, usize) {
        (self.weights, self.trainable)
    }

    /// Which parts a gradient reaches: any of the vision tower, and the language model's own weights.
    pub fn trains(&self) -> (bool, bool) {
        let weights = parameters(&self.config, self.adapters);
        let language = weights.iter().any(|p| {
            p.name.starts_with("model.layers.") && is_trained(&self.train, self.lora, &p.name)
        });
        (self.trained.slow || self.trained.fast, language)
    }

    /// The recipe's element types; those of a GPU by default.
    pub fn precision(&self) -> Precision {
        self.train.precision.unwrap_or(PrecisionName::Bf16).into()
    }

    /// Tokens and pictures of one full micro-batch of the recipe, as the run itself plans for them.
    pub fn micro_batch(&self) -> (usize, usize) {
        let image_tokens = self.config.image_tokens().unwrap_or(0);
        let batch = super::micro_batch(image_tokens, &self.train, usize::MAX);
        (batch.tokens, batch.images)
    }

    /// Pictures in so many tokens where each takes its positions and nothing else is said.
    pub fn most_images(&self, tokens: usize) -> usize {
        let image_tokens = self.config.image_tokens().unwrap_or(0);
        tokens.checked_div(image_tokens).unwrap_or(0)
    }

    /// What one GPU holds for a micro-batch of so many tokens, those of its pictures among them. `keep`
    /// replaces the recipe's `gradient_checkpointing`.
    pub fn plan(
        &self,
        spread: &Spread,
        (tokens, images): (usize, usize),
        keep: Option<GradientCheckpointing>,
    ) -> MemoryPlan {
        let stage = if spread.gpus > 1 {
            spread.zero_stage
        } else {
            0
        };
        let precision = spread.precision;
        let batch = MicroBatch { tokens, images };
        let activations = Activations::count(&self.config, self.adapters, self.trained, batch)
            .with_low_rank(&self.config, tokens * self.low_rank);
        let size = precision.weights().size();
        let (weights, gradients) = held(
            stage,
            spread.gpus,
            self.weights - self.coded,
            self.trainable,
            self.largest,
        );
        let states = match stage {
            0 => self.trainable,
            _ => self.trainable.div_ceil(spread.gpus),
        };
        let mut plan = MemoryPlan {
            device: "gpu".into(),
            precision,
            capacity: Some(spread.memory),
            weights: size * weights + self.coded_bytes + fp8_bytes(self.fp8.min(weights)),
            gradients: precision.grads().size() * gradients,
            optimizer_states: (super::state_bytes(precision) + self.train.average_bytes()) * states,
            activations: 0,
            workspace: gpu_workspace(&self.config.llm, size)
                + size * (self.largest_coded + self.scaled),
            data: 0,
            kept_blocks: 0,
            blocks: activations.blocks(),
        };
        plan.kept_blocks = match keep.unwrap_or(self.train.gradient_checkpointing) {
            _ if stage == 3 => 0,
            GradientCheckpointing::Switch(on) => {
                if on {
                    0
                } else {
                    plan.blocks
                }
            }
            GradientCheckpointing::Keep(count) => count.min(plan.blocks),
            GradientCheckpointing::Auto => {
                let left = usable(spread.memory).saturating_sub(plan.on_device());
                activations.most_kept(left / size)
            }
        };
        plan.activations = size * activations.peak(plan.kept_blocks);
        plan
    }

    /// The most tokens that a micro-batch may have so that a GPU holds it, in steps of 64; `images_of` says how
    /// many pictures are among so many tokens. `None` where not even 64 fit.
    pub fn largest_budget(
        &self,
        spread: &Spread,
        keep: GradientCheckpointing,
        images_of: &dyn Fn(usize) -> usize,
    ) -> Option<usize> {
        /// Beyond this nobody packs, and a count of bytes stays in its type.
        const MOST: usize = (1 << 22) / 64;
        let fits = |steps: usize| {
            let tokens = 64 * steps;
            let plan = self.plan(spread, (tokens, images_of(tokens)), Some(keep));
            fits(&plan)
        };
        let (mut low, mut high) = (0, MOST);
        while low < high {
            let middle = (low + high).div_ceil(2);
            match fits(middle) {
                true => low = middle,
                false => high = middle - 1,
            }
        }
        (low > 0).then_some(64 * low)
    }
}

/// Whether a plan leaves the GPU what it needs beside it: contexts, libraries, fragments.
pub(crate) fn fits(plan: &MemoryPlan) -> bool {
    plan.capacity
        .is_none_or(|all| plan.on_device() <= usable(all))
}

impl MemoryPlan {
    /// As [`MemoryPlan::fits`] with the share of the GPU left free that a run needs for contexts, libraries and
    /// what is not counted.
    pub fn fits_safely(&self) -> bool {
        fits(self)
    }
}

fn usable(memory: usize) -> usize {
    (memory as f64 * USABLE) as usize
}

/// What ZeRO gathers at once: a layer, or a module that stands outside of layers.
fn block_of(name: &str) -> &str {
    for marker in [".blocks.", ".layers.", ".stages.", ".align_stages_latent."] {
        if let Some(at) = name.find(marker) {
            let number = name.get(at + marker.len()..).unwrap_or_default();
            let digits = number.bytes().take_while(u8::is_ascii_digit).count();
            return name.get(..at + marker.len() + digits).unwrap_or(name);
        }
    }
    name.rsplit_once('.').map_or(name, |(module, _)| module)
}

#[cfg(test)]
mod tests {
    use super::*;
    use llavar_model::config::Preset;

    const GIB: usize = 1 << 30;

    fn planner(recipe: &str, sets: &[&str], preset: Preset) -> Planner {
        let sets: Vec<String> = sets.iter().map(|s| (*s).to_owned()).collect();
        let recipe = Recipe::resolve(recipe, &sets).unwrap();
        Planner::new(&preset.config(None).unwrap(), &recipe).unwrap()
    }

    fn spread(gpus: usize, zero_stage: u8, precision: Precision) -> Spread {
        Spread {
            gpus,
            zero_stage,
            precision,
            memory: 80 * GIB,
        }
    }

    fn own(plan: &MemoryPlan) -> usize {
        plan.weights + plan.gradients + plan.optimizer_states
    }

    #[test]
    fn fp8_copies_are_two_bytes_an_element_of_the_layers() {
        let spread = |gpus, stage| spread(gpus, stage, Precision::PureBf16);
        let weights = |sets: &[&str], at: Spread| {
            let planner = planner("phi3-readme-sft", sets, Preset::Phi35Mini);
            planner.plan(&at, (6400, 8), None).weights
        };
        let more = |sets: &[&str], at: Spread| {
            weights(&[sets, &["fp8=true"]].concat(), at) - weights(sets, at)
        };
        let layer = 3072 * (9216 + 3072 + 16_384 + 8192);
        assert_eq!(more(&[], spread(1, 0)), 2 * 32 * layer);
        assert_eq!(more(&[], spread(8, 2)), 2 * 32 * layer);
        // Of what ZeRO 3 has not gathered there are no copies.
        let sharded = more(&[], spread(8, 3));
        assert!(sharded > 0 && sharded < 2 * 8 * layer, "{sharded}");
        // Adapters change nothing; weights of 4 bits have none.
        let lora = ["lora_enable=true", "lora_r=64"];
        assert_eq!(more(&lora, spread(1, 0)), 2 * 32 * layer);
        assert_eq!(more(&[&lora[..], &["bits=4"]].concat(), spread(1, 0)), 0);
    }

    #[test]
    fn adapters_have_the_states_and_four_bits_the_weights() {
        let sets = ["lora_enable=true", "lora_r=64"];
        let full = planner("phi3-readme-sft", &[], Preset::Phi35Mini);
        let lora = planner("phi3-readme-sft", &sets, Preset::Phi35Mini);
        let coded = planner(
            "phi3-readme-sft",
            &[&sets[..], &["bits=4"]].concat(),
            Preset::Phi35Mini,
        );
        let (all, trained) = lora.parameters();
        // Of each of the 32 layers: qkv, o, gate_up and down, 64 times their inputs and outputs.
        let low_rank = 32 * 64 * ((3072 + 9216) + (3072 + 3072) + (3072 + 16384) + (8192 + 3072));
        assert_eq!(all, full.parameters().0 + low_rank);
        assert!(trained > low_rank && trained < low_rank + full.parameters().0 / 20);
        let spread = spread(1, 0, Precision::MixedBf16);
        let of = |p: &Planner| p.plan(&spread, (4096, 4), None);
        assert_eq!(of(&lora).optimizer_states, 12 * trained);
        assert!(of(&lora).activations > of(&full).activations / 2);
        let covered: usize = 32 * (3072 * 9216 + 3072 * 3072 + 3072 * 16384 + 8192 * 3072);
        let saved = of(&lora).weights - of(&coded).weights;
        // 16 bits against 4.127.
        let want = covered as f64 * (16.0 - 4.127) / 8.0;
        assert!((saved as f64 / want - 1.0).abs() < 1e-3, "{saved} {want}");
    }

    #[test]
    fn bytes_a_parameter_are_those_of_the_types() {
        let planner = planner("phi3-readme-sft", &[], Preset::Phi35Mini);
        let (all, trained) = planner.parameters();
        assert_eq!(all, trained);
        // 3.82e9 of the language model, 0.3e9 of CLIP, 0.2e9 of ConvNeXt, adapters and projector.
        assert!((4.3e9..4.45e9).contains(&(all as f64)), "{all}");
        for (precision, bytes) in [
            (Precision::F32, 16),
            (Precision::MixedBf16, 18),
            (Precision::PureBf16, 8),
        ] {
            let plan = planner.plan(&spread(1, 3, precision), (1000, 1), None);
            assert_eq!(own(&plan), bytes * all, "{precision}");
        }
        // ZeRO 1 shards moments and masters (12 bytes), 2 gradients too (4), 3 weights too (2).
        let at =
            |stage| own(&planner.plan(&spread(8, stage, Precision::MixedBf16), (1000, 1), None));
        let share = |bytes: usize| (bytes as f64 / all as f64 * 8.0).round() as usize;
        assert_eq!(share(at(0)), 8 * 18);
        // A piece of weights and gradients of its own: 6 bytes a parameter of a rank.
        assert_eq!(share(at(1)), 8 * 6 + 12 + 6);
        assert!(at(0) > at(1) && at(1) > at(2) && at(2) > at(3));
        assert!(at(3) < all * 18 / 8 * 12 / 10, "{}", at(3));
    }

    #[test]
    fn stage_one_trains_projector_and_fusion_alone() {
        let planner = planner("phi3-readme-pretrain", &[], Preset::Phi35Mini);
        let (all, trained) = planner.parameters();
        let plan = planner.plan(&spread(1, 0, Precision::MixedBf16), (1000, 1), None);
        assert_eq!(own(&plan), 2 * all + 16 * trained);
        // 1024 x 3072 + 3072 x 3072 with biases, and the fusion.
        assert!((12.5e6..17e6).contains(&(trained as f64)), "{trained}");
        assert_eq!(planner.trains(), (false, false));
    }

    #[test]
    fn more_costs_more_and_budgets_are_what_fits() {
        let planner = planner(
            "phi3-readme-sft",
            &["group_by_modality_length=false", "pack_tokens=8192"],
            Preset::Phi35Mini,
        );
        let (on, off) = (
            GradientCheckpointing::Switch(true),
            GradientCheckpointing::Switch(false),
        );
        let budget = |gpus, stage, memory, keep| {
            let spread = Spread {
                memory: memory * GIB,
                ..spread(gpus, stage, Precision::MixedBf16)
            };
            planner.largest_budget(&spread, keep, &|tokens| planner.most_images(tokens))
        };
        // 18 bytes of 4.35e9 parameters are 73 GiB; of 76 GiB 70 can be planned with.
        assert_eq!(budget(1, 0, 76, on), None);
        let mut before = 0;
        for gpus in [2, 4, 8, 16] {
            let now = budget(gpus, 3, 80, on).unwrap();
            assert!(now >= before, "{gpus}");
            before = now;
        }
        assert!(budget(8, 2, 80, off).unwrap() < budget(8, 2, 80, on).unwrap());
        assert!(budget(8, 2, 40, on) < budget(8, 2, 80, on));
        let tokens = budget(8, 2, 80, on).unwrap();
        let spread = spread(8, 2, Precision::MixedBf16);
        let of = |tokens| planner.plan(&spread, (tokens, planner.most_images(tokens)), Some(on));
        assert!(of(tokens).fits_safely() && !of(tokens + 64).fits_safely());
        let peaks: Vec<usize> = (1..20).map(|n| of(512 * n).on_device()).collect();
        assert!(peaks.is_sorted());
        let auto = planner.plan(&spread, (4096, 7), Some(GradientCheckpointing::Auto));
        assert!(auto.fits_safely() && auto.kept_blocks > 0);
    }

    #[test]
    fn measured_peaks_are_met_within_a_tenth() {
        // BENCHMARKS.md, one H100 and (the last) one H200: 8 samples of 800 tokens, 576 of them a picture.
        let planner = planner("phi3-readme-sft", &[], Preset::Phi35Mini);
        let at = |precision, recompute| {
            let keep = Some(GradientCheckpointing::Switch(recompute));
            let plan = planner.plan(&spread(1, 0, precision), (6400, 8), keep);
            plan.on_device() as f64 / GIB as f64
        };
        for (precision, recompute, measured) in [
            (Precision::PureBf16, true, 39.8),
            (Precision::PureBf16, false, 69.2),
            (Precision::MixedBf16, true, 80.4),
        ] {
            let planned = at(precision, recompute);
            let ratio = planned / measured;
            eprintln!(
                "{precision}, recompute {recompute}: planned {planned:.1} GiB, measured {measured}, {ratio:.3}"
            );
            assert!((0.9..1.1).contains(&ratio), "{planned} {measured}");
        }
    }

    #[test]
    fn blocks_are_layers_or_parts() {
        for (name, block) in [
            ("model.layers.3.mlp.down_proj.weight", "model.layers.3"),
            ("model.embed_tokens.weight", "model.embed_tokens"),
            ("lm_head.weight", "lm_head"),
            ("a.stages.2.blocks.5.weight", "a.stages.2.blocks.5"),
            ("a.stages.2.downsample.0.weight", "a.stages.2"),
            ("a.encoder.layers.7.layer_norm1.bias", "a.encoder.layers.7"),
        ] {
            assert_eq!(block_of(name), block);
        }
    }
}
