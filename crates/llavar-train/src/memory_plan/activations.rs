//! What the operations of each block keep for the backward pass, counted in elements.
//!
//! T tokens, P places of a map, C or D channels, F the width of an MLP.
//! - Decoder layer: the stream, two normed inputs, q, k, v, the attention's output, the stream after it:
//!   `6 D + 2 KV`; gate and up side by side and their product: `3 F`. Backward, at the MLP: `3 F + 2 D`. Its two
//!   halves are computed again one by one, so the stream between them is kept with its input; and so are the
//!   attention's output and an f32 for each of its heads, which is not computed again.
//! - With adapters of rank R, R more for each layer that has one; of a DoRA its output, too.
//! - CLIP layer: the stream twice, two normed inputs, q, k, v, the attention's output: `8 C`; before and
//!   after the activation `2 F`. Backward: `2 F + 2 C`. In halves, as a decoder layer.
//! - ConvNeXt block: input, convolution, norm: `3 C`; before and after the activation `2 * 4 C`. Backward:
//!   `10 C`.
//! - Adapter: four maps of the slow path's width on its grid, seven of CLIP's width on CLIP's grid.

use llavar_model::{
    LlavaModel, VisionTower as VisionTowerModule,
    config::{ClipConfig, ConvNextConfig, LlmConfig, ModelConfig, VisionConfig, VisionTower},
};
use llavar_tensor::Param;

/// Elements of 16 bits in an f32. Where activations are f32 themselves, statistics, a hundredth of what lies beside
/// them, are counted twice.
const F32: usize = 2;

/// One block that can be computed again; elements.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Block {
    /// Inputs of its parts that are computed again and what attention leaves, which are kept in any case.
    input: usize,
    /// Everything it keeps, these among it.
    kept: usize,
    /// What it keeps of one part beside those, at the most.
    part: usize,
    /// Gradients between its operations, at their most.
    backward: usize,
}

impl Block {
    /// One that is computed again as a whole.
    fn whole(input: usize, kept: usize, backward: usize) -> Self {
        Self {
            input,
            kept,
            part: kept - input,
            backward,
        }
    }
}

/// Which parts a gradient passes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Trained {
    pub(crate) slow: bool,
    pub(crate) fast: bool,
    pub(crate) language: bool,
}

impl Trained {
    /// From the names of the weights that train.
    pub(crate) fn of<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Self {
        let trains = |parts: &[&str]| {
            let mut names = names.clone();
            names.any(|name| parts.iter().any(|part| name.starts_with(part)))
        };
        Self {
            slow: trains(&[
                "model.vision_tower.slow_vision_tower",
                "model.vision_tower.vision_tower.stem",
                "model.vision_tower.vision_tower.stages",
            ]),
            fast: trains(&[
                "model.vision_tower.fast_vision_tower",
                "model.vision_tower.vision_tower.vision_model",
                "model.vision_tower.align_stages_latent",
            ]),
            // A gradient passes through it on its way to the projector.
            language: true,
        }
    }
}

/// Size of one micro-batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MicroBatch {
    /// Positions of the text, those of pictures among them.
    pub(crate) tokens: usize,
    pub(crate) images: usize,
}

/// Blocks in the order of the forward pass and what lies outside of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Activations {
    blocks: Vec<Block>,
    /// Kept whatever happens: fusion, projector, the ends of the language model.
    fixed: usize,
    /// The most that a part without gradient holds while it runs.
    passing: usize,
}

impl Activations {
    /// Counts a micro-batch of a model, as its weights train.
    pub(crate) fn of(model: &LlavaModel, batch: MicroBatch) -> Self {
        let params = model.params();
        let trained = params.iter().filter(|p| p.requires_grad());
        let trained = Trained::of(trained.map(Param::name));
        let tower = model.vision_tower.as_ref();
        let adapters = tower.is_some_and(VisionTowerModule::has_adapters);
        let shapes = params.iter().map(|p| (p.name(), p.shape()));
        Self::count(&model.config, adapters, trained, batch)
            .with_low_rank(&model.config, batch.tokens * low_rank_widths(shapes))
    }

    /// With so many elements more in the layers of the language model together.
    pub(crate) fn with_low_rank(mut self, config: &ModelConfig, elements: usize) -> Self {
        let layers = config.llm.num_hidden_layers;
        let first = self.blocks.len().saturating_sub(layers);
        for block in &mut self.blocks[first..] {
            block.kept += elements / layers.max(1);
            block.part += elements / layers.max(1);
        }
        self
    }

    /// Counts a micro-batch; `adapters` says whether they are there.
    pub(crate) fn count(
        config: &ModelConfig,
        adapters: bool,
        trained: Trained,
        batch: MicroBatch,
    ) -> Self {
        let (mut blocks, mut passing) = (Vec::new(), 0);
        let mut add = |block: Block, trained: bool| {
            if trained {
                blocks.push(block);
            } else {
                passing = passing.max(block.kept);
                // The place stays, so that blocks are counted as the model counts them.
                blocks.push(Block::default());
            }
        };
        let d = config.llm.hidden_size;
        // Embeddings, and both sides of the final norm.
        let mut fixed = 3 * batch.tokens * d;
        if let Some(vision) = &config.vision {
            tower(vision, adapters, trained, batch.images, &mut add);
            let rows = batch.images * vision.image_tokens();
            if let VisionTower::Multipath { clip, convnext, .. } = &vision.tower {
                fixed += rows * (2 * clip.hidden_size + convnext.out_dim());
            }
            fixed += rows * (vision.feature_size() + 3 * d);
        }
        for _ in 0..config.llm.num_hidden_layers {
            add(decoder_layer(&config.llm, batch.tokens), trained.language);
        }
        Self {
            blocks,
            fixed,
            passing,
        }
    }

    /// Number of blocks.
    pub(crate) fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// Elements at the peak of forward and backward pass where the last `keep` blocks keep theirs.
    pub(crate) fn peak(&self, keep: usize) -> usize {
        let first_kept = self.blocks.len().saturating_sub(keep);
        let held = |(n, block): (usize, &Block)| {
            if n >= first_kept {
                block.kept
            } else {
                block.input
            }
        };
        let mut now: usize = self.fixed + self.blocks.iter().enumerate().map(held).sum::<usize>();
        let mut peak = now + self.passing;
        for (n, block) in self.blocks.iter().enumerate().rev() {
            let again = if n >= first_kept { 0 } else { block.part };
            peak = peak.max(now + again + block.backward);
            now -= held((n, block));
        }
        peak
    }

    /// The largest number of blocks that can keep theirs within `elements`.
    pub(crate) fn most_kept(&self, elements: usize) -> usize {
        (0..=self.blocks.len())
            .rev()
            .find(|keep| self.peak(*keep) <= elements)
            .unwrap_or(0)
    }
}

/// What a token keeps in the adapters of all decoder layers: of each the inner product, of a DoRA the output before
/// it is scaled, too.
pub(crate) fn low_rank_widths<'a>(params: impl Iterator<Item = (&'a str, &'a [usize])>) -> usize {
    params
        .filter(|(name, _)| name.starts_with("model.layers."))
        .filter(|(name, _)| {
            name.ends_with(".lora_A.weight") || name.ends_with(".lora_magnitude_vector")
        })
        .filter_map(|(_, shape)| shape.first())
        .sum()
}

fn decoder_layer(llm: &LlmConfig, tokens: usize) -> Block {
    let (d, q, kv, f) = (
        llm.hidden_size,
        llm.q_size(),
        llm.kv_size(),
        llm.intermediate_size,
    );
    let statistics = F32 * llm.num_attention_heads;
    Block {
        input: tokens * (2 * d + q + statistics),
        kept: tokens * (4 * d + 2 * q + 2 * kv + 3 * f + statistics),
        part: tokens * (d + 3 * f).max(d + q + 2 * kv),
        backward: tokens * (3 * f + 2 * d),
    }
}

fn tower(
    vision: &VisionConfig,
    adapters: bool,
    trained: Trained,
    images: usize,
    add: &mut impl FnMut(Block, bool),
) {
    match &vision.tower {
        VisionTower::Clip(clip, select) => {
            let rows = images * (vision.grid().pow(2) + 1);
            for _ in 0..select.layers.iter().copied().max().unwrap_or(0) {
                add(clip_layer(clip, rows), trained.fast);
            }
        }
        VisionTower::ConvNext(config) => {
            convnext(config, vision.input_image_size, images, |block| {
                add(block, trained.slow);
            });
        }
        VisionTower::Multipath {
            clip,
            convnext: slow,
            ..
        } => {
            convnext(slow, vision.input_image_size, images, |block| {
                add(block, trained.slow);
            });
            let c = clip.hidden_size;
            let rows = images * vision.grid().pow(2);
            let places = VisionConfig::slow_grid(vision.input_image_size).pow(2);
            let map = images * places * slow.out_dim();
            let group = (clip.num_hidden_layers / 4).max(1);
            for n in 1..=clip.num_hidden_layers {
                add(clip_layer(clip, rows), trained.fast);
                if adapters && n % group == 0 && n / group < 4 {
                    add(
                        Block::whole(rows * c, 4 * map + 7 * rows * c, 2 * map + 3 * rows * c),
                        trained.fast,
                    );
                }
            }
        }
    }
}

fn clip_layer(clip: &ClipConfig, rows: usize) -> Block {
    let (c, f) = (clip.hidden_size, clip.intermediate_size);
    let statistics = F32 * clip.num_attention_heads;
    Block {
        input: rows * (3 * c + statistics),
        kept: rows * (8 * c + 2 * f + statistics),
        part: rows * (c + 2 * f).max(4 * c),
        backward: rows * (2 * f + 2 * c),
    }
}

fn convnext(
    convnext: &ConvNextConfig,
    image_size: usize,
    images: usize,
    mut add: impl FnMut(Block),
) {
    let mut side = image_size / 4;
    for (i, (&dim, &depth)) in convnext.dims.iter().zip(&convnext.depths).enumerate() {
        if i > 0 {
            side /= 2;
        }
        let map = images * side * side * dim;
        // Stem: patches and their product; between stages: norm, patches and their product.
        let input = match i {
            0 => images * image_size.pow(2) * 3,
            _ => images * (2 * side).pow(2) * convnext.dims[i - 1],
        };
        add(Block::whole(input, 2 * input + map, input + map));
        for _ in 0..depth {
            add(Block::whole(map, 11 * map, 10 * map));
        }
    }
}

#[cfg(test)]
mod tests {
    use llavar_model::config::Pathways;

    use super::*;

    #[test]
    fn keeping_more_costs_more_and_budgets_are_kept() {
        let config = llavar_model::config::Preset::Nano.config(None).unwrap();
        let trained = Trained {
            slow: true,
            fast: true,
            language: true,
        };
        let batch = MicroBatch {
            tokens: 2000,
            images: 4,
        };
        let all = Activations::count(&config, true, trained, batch);
        let model = llavar_model::LlavaModel::init(
            config
                .with([("freeze_vision".to_owned(), false.into())])
                .unwrap(),
            0,
        )
        .unwrap();
        assert_eq!(all.blocks(), model.blocks());
        for pathways in Pathways::ALL {
            let config = model.config.with_pathways(pathways).unwrap();
            let model = llavar_model::LlavaModel::init(config, 0).unwrap();
            let params = model.params();
            // Every weight trains, so every block counts.
            params.iter().for_each(|p| p.set_requires_grad(true));
            let counted = Activations::of(&model, batch);
            assert_eq!(counted.blocks(), model.blocks(), "{}", pathways.name());
            assert!(counted.blocks.iter().all(|block| block.kept > 0));
        }
        let peaks: Vec<usize> = (0..=all.blocks()).map(|keep| all.peak(keep)).collect();
        assert!(peaks[all.blocks()] > 2 * peaks[0], "{peaks:?}");
        for (keep, peak) in peaks.iter().enumerate() {
            let most = all.most_kept(*peak);
            assert!(most >= keep && peaks[most] <= *peak, "{keep} {most}");
        }
        assert_eq!(all.most_kept(0), 0);
        let frozen = Trained {
            slow: false,
            fast: false,
            language: true,
        };
        let part = Activations::count(&config, true, frozen, batch);
        assert_eq!(part.blocks(), all.blocks());
        assert!(part.peak(part.blocks()) < peaks[all.blocks()]);
    }
}
