//! The list of parameters that a configuration asks for: published names and shapes.
//!
//! # Source
//! The module tree of the published checkpoints: `model.` holds the language model, `model.mm_projector`
//! and `model.vision_tower`.

use super::{
    ClipConfig, ConvNextConfig, LlmConfig, LlmFamily, ModelConfig, ProjectorConfig, ProjectorKind,
    VisionTower,
};

/// One parameter of the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// Published name.
    pub name: String,
    /// Shape, outermost first; empty for a scalar.
    pub shape: Vec<usize>,
}

impl Parameter {
    /// Makes one.
    pub fn new(name: impl Into<String>, shape: impl Into<Vec<usize>>) -> Self {
        Self {
            name: name.into(),
            shape: shape.into(),
        }
    }

    /// Number of elements.
    pub fn numel(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Every parameter of the model that the forward pass uses, in module order.
///
/// `adapters` says whether the three adapters between the paths exist (stage 2 and published models) or
/// not (stage 1); it has no effect on a single tower. `lm_head.weight` is absent when tied. Tensors that
/// published files carry unused (the ConvNeXt head, CLIP's `post_layernorm`) are not listed.
pub fn parameters(config: &ModelConfig, adapters: bool) -> Vec<Parameter> {
    let mut list = List::default();
    language_model(&mut list, &config.llm);
    if let Some(vision) = &config.vision {
        match &vision.tower {
            VisionTower::Multipath {
                clip: fast,
                convnext,
                ..
            } => {
                clip(
                    &mut list,
                    "model.vision_tower.fast_vision_tower.vision_tower.",
                    fast,
                );
                convnext_tower(
                    &mut list,
                    "model.vision_tower.slow_vision_tower.vision_tower.",
                    convnext,
                );
                fusion(&mut list, fast.hidden_size, convnext.out_dim());
                if adapters {
                    for n in 0..3 {
                        adapter(&mut list, n, fast.hidden_size, convnext.out_dim());
                    }
                }
            }
            VisionTower::Clip(config, _) => {
                clip(&mut list, "model.vision_tower.vision_tower.", config)
            }
            VisionTower::ConvNext(config) => {
                convnext_tower(&mut list, "model.vision_tower.vision_tower.", config)
            }
        }
    }
    if let Some(config) = &config.projector {
        projector(&mut list, config);
    }
    list.0
}

/// The part of [`parameters`] that a stage-1 file (`mm_projector.bin`) holds: projector and fusion.
pub fn projector_parameters(config: &ModelConfig) -> Vec<Parameter> {
    parameters(config, false)
        .into_iter()
        .filter(|p| p.name.contains("mm_projector") || p.name.contains("align_stages"))
        .collect()
}

#[derive(Default)]
struct List(Vec<Parameter>);

impl List {
    fn add(&mut self, name: impl Into<String>, shape: &[usize]) {
        self.0.push(Parameter::new(name, shape));
    }

    /// `weight` of the given shape and a `bias` as long as its first dimension.
    fn pair(&mut self, prefix: impl AsRef<str>, shape: &[usize]) {
        let prefix = prefix.as_ref();
        self.add(format!("{prefix}.weight"), shape);
        self.add(format!("{prefix}.bias"), &shape[..1]);
    }
}

fn language_model(list: &mut List, llm: &LlmConfig) {
    let (d, q, kv, m) = (
        llm.hidden_size,
        llm.q_size(),
        llm.kv_size(),
        llm.intermediate_size,
    );
    list.add("model.embed_tokens.weight", &[llm.vocab_size, d]);
    for n in 0..llm.num_hidden_layers {
        let layer = format!("model.layers.{n}");
        match llm.family {
            LlmFamily::Llama => {
                list.add(format!("{layer}.self_attn.q_proj.weight"), &[q, d]);
                list.add(format!("{layer}.self_attn.k_proj.weight"), &[kv, d]);
                list.add(format!("{layer}.self_attn.v_proj.weight"), &[kv, d]);
                list.add(format!("{layer}.self_attn.o_proj.weight"), &[d, q]);
                list.add(format!("{layer}.mlp.gate_proj.weight"), &[m, d]);
                list.add(format!("{layer}.mlp.up_proj.weight"), &[m, d]);
            }
            LlmFamily::Phi3 => {
                list.add(
                    format!("{layer}.self_attn.qkv_proj.weight"),
                    &[q + 2 * kv, d],
                );
                list.add(format!("{layer}.self_attn.o_proj.weight"), &[d, q]);
                list.add(format!("{layer}.mlp.gate_up_proj.weight"), &[2 * m, d]);
            }
        }
        list.add(format!("{layer}.mlp.down_proj.weight"), &[d, m]);
        list.add(format!("{layer}.input_layernorm.weight"), &[d]);
        list.add(format!("{layer}.post_attention_layernorm.weight"), &[d]);
    }
    list.add("model.norm.weight", &[d]);
    if !llm.tie_word_embeddings {
        list.add("lm_head.weight", &[llm.vocab_size, d]);
    }
}

fn clip(list: &mut List, prefix: &str, clip: &ClipConfig) {
    let (d, m, p) = (clip.hidden_size, clip.intermediate_size, clip.patch_size);
    let prefix = format!("{prefix}vision_model");
    list.add(format!("{prefix}.embeddings.class_embedding"), &[d]);
    list.add(
        format!("{prefix}.embeddings.patch_embedding.weight"),
        &[d, 3, p, p],
    );
    list.add(
        format!("{prefix}.embeddings.position_embedding.weight"),
        &[clip.positions(), d],
    );
    list.pair(format!("{prefix}.pre_layrnorm"), &[d]);
    for n in 0..clip.num_hidden_layers {
        let layer = format!("{prefix}.encoder.layers.{n}");
        for name in ["q_proj", "k_proj", "v_proj", "out_proj"] {
            list.pair(format!("{layer}.self_attn.{name}"), &[d, d]);
        }
        list.pair(format!("{layer}.layer_norm1"), &[d]);
        list.pair(format!("{layer}.mlp.fc1"), &[m, d]);
        list.pair(format!("{layer}.mlp.fc2"), &[d, m]);
        list.pair(format!("{layer}.layer_norm2"), &[d]);
    }
}

fn convnext_tower(list: &mut List, prefix: &str, convnext: &ConvNextConfig) {
    let dims = convnext.dims;
    list.pair(format!("{prefix}stem.0"), &[dims[0], 3, 4, 4]);
    list.pair(format!("{prefix}stem.1"), &[dims[0]]);
    for (i, (&c, &depth)) in dims.iter().zip(&convnext.depths).enumerate() {
        let stage = format!("{prefix}stages.{i}");
        if i > 0 {
            list.pair(format!("{stage}.downsample.0"), &[dims[i - 1]]);
            list.pair(format!("{stage}.downsample.1"), &[c, dims[i - 1], 2, 2]);
        }
        for j in 0..depth {
            let block = format!("{stage}.blocks.{j}");
            list.add(format!("{block}.weight"), &[c]);
            list.pair(format!("{block}.conv_dw"), &[c, 1, 7, 7]);
            list.pair(format!("{block}.norm"), &[c]);
            list.pair(format!("{block}.mlp.fc1"), &[4 * c, c]);
            list.pair(format!("{block}.mlp.fc2"), &[c, 4 * c]);
        }
    }
}

fn fusion(list: &mut List, fast: usize, slow: usize) {
    list.pair("model.vision_tower.align_stages.0.fast_proj", &[fast, fast]);
    list.pair("model.vision_tower.align_stages.0.slow_proj", &[fast, slow]);
}

fn adapter(list: &mut List, n: usize, fast: usize, slow: usize) {
    let prefix = format!("model.vision_tower.align_stages_latent.{n}");
    list.pair(format!("{prefix}.slow_conv"), &[slow, slow, 1, 1]);
    list.pair(format!("{prefix}.slow_proj"), &[fast, slow, 1, 1]);
    list.pair(format!("{prefix}.fast_conv"), &[fast, 1, 7, 7]);
    list.pair(format!("{prefix}.fast_proj"), &[fast, fast, 1, 1]);
    list.pair(format!("{prefix}.gate.0"), &[fast / 2, 2 * fast]);
    list.pair(format!("{prefix}.gate.2"), &[1, fast / 2]);
}

fn projector(list: &mut List, config: &ProjectorConfig) {
    let (m, d) = (config.mm_hidden_size, config.hidden_size);
    match config.kind {
        ProjectorKind::Identity => {}
        ProjectorKind::Linear => list.pair("model.mm_projector", &[d, m]),
        ProjectorKind::Mlp { depth } => {
            // The GELUs between the layers take the odd numbers.
            for n in 0..depth {
                let width = if n == 0 { m } else { d };
                list.pair(format!("model.mm_projector.{}", 2 * n), &[d, width]);
            }
        }
    }
}
