//! Named shapes from which an untrained model folder is made.

use serde_json::{Value, json};

use super::{ConfigError, ModelConfig};

/// The names that [`Preset::by_name`] knows.
pub const PRESETS: [Preset; 5] = [
    Preset::Nano,
    Preset::Nano768,
    Preset::Phi35Mini,
    Preset::Llama31Instruct,
    Preset::Vicuna15,
];

/// A named model shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preset {
    /// About 15 M parameters in the full architecture, for a laptop's CPU.
    Nano,
    /// About 35 M parameters at 768 px: the shape of llavar-nano, which reads on a laptop.
    Nano768,
    /// The 3.8B model on Phi-3.5-mini-instruct.
    Phi35Mini,
    /// The 8B model on Llama-3.1-8B-Instruct.
    Llama31Instruct,
    /// The 13B model on Vicuna-13B-v1.5.
    Vicuna15,
}

impl Preset {
    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nano => "nano",
            Self::Nano768 => "nano-768",
            Self::Phi35Mini => "phi3.5-3.8b",
            Self::Llama31Instruct => "llama3.1-8b",
            Self::Vicuna15 => "vicuna1.5-13b",
        }
    }

    /// One line for help texts.
    pub fn description(self) -> &'static str {
        match self {
            Self::Nano => "same architecture, about 15 M parameters, 256 px, trains on a CPU",
            Self::Nano768 => {
                "same architecture, about 35 M parameters, 768 px: the shape of llavar-nano"
            }
            Self::Phi35Mini => "LLaVAR-2 3.8B shape: Phi-3.5-mini-instruct, 768 px",
            Self::Llama31Instruct => "LLaVAR-2 8B shape: Llama-3.1-8B-Instruct, 768 px",
            Self::Vicuna15 => "LLaVAR-2 13B shape: Vicuna-13B-v1.5, 768 px",
        }
    }

    /// Finds a preset.
    ///
    /// # Errors
    /// [`ConfigError::UnknownPreset`] with all names.
    pub fn by_name(name: &str) -> Result<Self, ConfigError> {
        PRESETS
            .into_iter()
            .find(|p| p.name() == name)
            .ok_or_else(|| ConfigError::UnknownPreset {
                name: name.to_owned(),
                known: PRESETS.iter().map(|p| p.name()).collect(),
            })
    }

    /// Whether the shape is our own: its vocabulary is the tokenizer's, whatever its length.
    pub fn is_own(self) -> bool {
        matches!(self, Self::Nano | Self::Nano768)
    }

    /// The configuration, checked.
    ///
    /// `vocab_size` replaces the preset's number of embedding rows, for a tokenizer of another length;
    /// ids of special tokens can be changed with [`ModelConfig::with`].
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] when `vocab_size` is impossible.
    pub fn config(self, vocab_size: Option<usize>) -> Result<ModelConfig, ConfigError> {
        let mut value = match self {
            Self::Nano => nano(&NANO),
            Self::Nano768 => nano(&NANO_768),
            Self::Phi35Mini => phi35_mini(),
            Self::Llama31Instruct => llama31_instruct(),
            Self::Vicuna15 => vicuna15(),
        };
        let (size, width, length) = match self {
            Self::Nano => (256, 192, 1024),
            Self::Nano768 => (768, 256, 2048),
            _ => (768, 1024, 4096),
        };
        let vision = vision_keys(size, width, length);
        if let (Some(map), Value::Object(vision)) = (value.as_object_mut(), vision) {
            map.extend(vision);
            if let Some(rows) = vocab_size {
                map.insert("vocab_size".to_owned(), rows.into());
            }
        }
        ModelConfig::from_json(self.name(), &value.to_string())
    }
}

/// What the reference's training script adds to the language model's configuration: for pictures of `size` pixels,
/// features of `width` and texts of `length` tokens.
pub(crate) fn vision_keys(size: usize, width: usize, length: usize) -> Value {
    json!({
        "mm_vision_tower": "openai/clip-vit-large-patch14-336",
        "vision_tower_slow": "convnext_large_mlp.clip_laion2b_ft_320",
        "is_multipath_encoder": true,
        "input_image_size": size,
        "freeze_vision": false,
        "delay_load": false,
        "use_mm_proj": true,
        "mm_projector_type": "mlp2x_gelu",
        "mm_hidden_size": width,
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "mm_patch_merge_type": "flat",
        "mm_use_im_start_end": false,
        "mm_use_im_patch_token": false,
        "mm_projector_lr": null,
        "tune_mm_mlp_adapter": false,
        "freeze_mm_mlp_adapter": false,
        "image_aspect_ratio": "pad",
        "image_grid_pinpoints": null,
        "tokenizer_padding_side": "right",
        "tokenizer_model_max_length": length,
    })
}

/// What differs between the shapes of our own.
struct Small {
    hidden: usize,
    intermediate: usize,
    layers: usize,
    heads: usize,
    positions: usize,
    clip_image: usize,
    clip_hidden: usize,
    clip_heads: usize,
    depths: [usize; 4],
    dims: [usize; 4],
}

/// Small in every dimension, each part of the architecture present: 8 x 8 patches on both paths at 256
/// px, so that a picture takes 64 positions and a training step a fraction of a second on two cores.
const NANO: Small = Small {
    hidden: 256,
    intermediate: 704,
    layers: 6,
    heads: 4,
    positions: 2048,
    clip_image: 112,
    clip_hidden: 192,
    clip_heads: 3,
    depths: [2, 2, 6, 2],
    dims: [48, 96, 192, 384],
};

/// 24 x 24 patches at 768 px, as in the published models. Most of the work is in the slow path, which
/// alone sees letters of ten pixels, and little of it at the full width of the picture, where a layer
/// costs memory traffic more than it learns; the sizes keep the first word on two cores near one
/// second and the weights in 8 bit below 40 MB.
const NANO_768: Small = Small {
    hidden: 384,
    intermediate: 1024,
    layers: 8,
    heads: 6,
    positions: 4096,
    clip_image: 336,
    clip_hidden: 256,
    clip_heads: 4,
    depths: [1, 2, 6, 2],
    dims: [48, 128, 256, 512],
};

fn nano(small: &Small) -> Value {
    json!({
        "architectures": ["LlavaLlamaForCausalLM"],
        "model_type": "llava",
        "vocab_size": 2048,
        "hidden_size": small.hidden,
        "intermediate_size": small.intermediate,
        "num_hidden_layers": small.layers,
        "num_attention_heads": small.heads,
        "num_key_value_heads": small.heads,
        "hidden_act": "silu",
        "max_position_embeddings": small.positions,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "rope_scaling": null,
        "tie_word_embeddings": false,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "torch_dtype": "float32",
        "clip_vision_config": {
            "hidden_act": "quick_gelu",
            "hidden_size": small.clip_hidden,
            "image_size": small.clip_image,
            "intermediate_size": 4 * small.clip_hidden,
            "layer_norm_eps": 1e-5,
            "num_attention_heads": small.clip_heads,
            "num_hidden_layers": 8,
            "patch_size": 14
        },
        "convnext_config": {
            "depths": small.depths,
            "dims": small.dims,
            // The published 1e-6 suits weights that are loaded; from scratch the blocks must count.
            "layer_scale_init_value": 0.1,
            "initializer": "fan_in"
        }
    })
}

fn phi35_mini() -> Value {
    json!({
        "architectures": ["LlavaPhiForCausalLM"],
        "model_type": "llava_phi",
        "attention_bias": false,
        "attention_dropout": 0.0,
        "bos_token_id": 1,
        "embd_pdrop": 0.0,
        "eos_token_id": 32000,
        "hidden_act": "silu",
        "hidden_size": 3072,
        "initializer_range": 0.02,
        "intermediate_size": 8192,
        "max_position_embeddings": 131072,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 32,
        "original_max_position_embeddings": 4096,
        "pad_token_id": 32000,
        "resid_pdrop": 0.0,
        "rms_norm_eps": 1e-5,
        "rope_scaling": {
            "long_factor": PHI35_LONG_FACTOR.as_slice(),
            "short_factor": PHI35_SHORT_FACTOR.as_slice(),
            "type": "longrope"
        },
        "rope_theta": 10000.0,
        "sliding_window": 262144,
        "tie_word_embeddings": false,
        "torch_dtype": "bfloat16",
        "use_cache": true,
        "vocab_size": 32064
    })
}

fn llama31_instruct() -> Value {
    json!({
        "architectures": ["LlavaLlamaForCausalLM"],
        "model_type": "llava_llama",
        "attention_bias": false,
        "attention_dropout": 0.0,
        "bos_token_id": 128000,
        "eos_token_id": [128001, 128008, 128009],
        "hidden_act": "silu",
        "hidden_size": 4096,
        "initializer_range": 0.02,
        "intermediate_size": 14336,
        "max_position_embeddings": 131072,
        "mlp_bias": false,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "pad_token_id": 128256,
        "rms_norm_eps": 1e-5,
        "rope_scaling": {
            "factor": 8.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3"
        },
        "rope_theta": 500000.0,
        "tie_word_embeddings": false,
        "torch_dtype": "bfloat16",
        "use_cache": true,
        // 128256 and the added `<pad>`.
        "vocab_size": 128257
    })
}

fn vicuna15() -> Value {
    json!({
        "architectures": ["LlavaLlamaForCausalLM"],
        "model_type": "llava",
        "attention_bias": false,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": 5120,
        "initializer_range": 0.02,
        "intermediate_size": 13824,
        "max_position_embeddings": 4096,
        "num_attention_heads": 40,
        "num_hidden_layers": 40,
        "num_key_value_heads": 40,
        "pad_token_id": 0,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-5,
        "rope_scaling": null,
        "rope_theta": 10000.0,
        "tie_word_embeddings": false,
        "torch_dtype": "bfloat16",
        "use_cache": true,
        "vocab_size": 32000
    })
}

/// Rotary factors of Phi-3.5-mini-instruct for texts within the original window of 4096 tokens; single
/// precision numbers written out, as in its published configuration.
const PHI35_SHORT_FACTOR: [f64; 48] = [
    1.0,
    1.0199999809265137,
    1.0299999713897705,
    1.0299999713897705,
    1.0499999523162842,
    1.0499999523162842,
    1.0499999523162842,
    1.0499999523162842,
    1.0499999523162842,
    1.0699999332427979,
    1.0999999046325684,
    1.1099998950958252,
    1.1599998474121094,
    1.1599998474121094,
    1.1699998378753662,
    1.2899998426437378,
    1.339999794960022,
    1.679999828338623,
    1.7899998426437378,
    1.8199998140335083,
    1.8499997854232788,
    1.8799997568130493,
    1.9099997282028198,
    1.9399996995925903,
    1.9899996519088745,
    2.0199997425079346,
    2.0199997425079346,
    2.0199997425079346,
    2.0199997425079346,
    2.0199997425079346,
    2.0199997425079346,
    2.0299997329711914,
    2.0299997329711914,
    2.0299997329711914,
    2.0299997329711914,
    2.0299997329711914,
    2.0299997329711914,
    2.0299997329711914,
    2.0299997329711914,
    2.0299997329711914,
    2.0799996852874756,
    2.0899996757507324,
    2.189999580383301,
    2.2199995517730713,
    2.5899994373321533,
    2.729999542236328,
    2.749999523162842,
    2.8399994373321533,
];

/// The same for longer texts.
const PHI35_LONG_FACTOR: [f64; 48] = [
    1.0800000429153442,
    1.1100000143051147,
    1.1399999856948853,
    1.340000033378601,
    1.5899999141693115,
    1.600000023841858,
    1.6200000047683716,
    2.620000123977661,
    3.2300000190734863,
    3.2300000190734863,
    4.789999961853027,
    7.400000095367432,
    7.700000286102295,
    9.09000015258789,
    12.199999809265137,
    17.670000076293945,
    24.46000099182129,
    28.57000160217285,
    30.420001983642578,
    30.840002059936523,
    32.590003967285156,
    32.93000411987305,
    42.320003509521484,
    44.96000289916992,
    50.340003967285156,
    50.45000457763672,
    57.55000305175781,
    57.93000411987305,
    58.21000289916992,
    60.1400032043457,
    62.61000442504883,
    62.62000274658203,
    62.71000289916992,
    63.1400032043457,
    63.1400032043457,
    63.77000427246094,
    63.93000411987305,
    63.96000289916992,
    63.970001220703125,
    64.02999877929688,
    64.06999969482422,
    64.08000183105469,
    64.12000274658203,
    64.41000366210938,
    64.4800033569336,
    64.51000213623047,
    64.52999877929688,
    64.83999633789062,
];
