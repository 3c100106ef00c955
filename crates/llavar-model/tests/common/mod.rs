//! A model with every part of the architecture on tiny random weights, its pictures and its loss.

// The permission for tests does not reach the helpers beside them.
#![allow(clippy::unwrap_used)]

use llavar_model::{LlavaModel, config::ModelConfig, expand_image_tokens};
use llavar_tensor::{Segments, Tape, Tensor, Var};
use serde_json::{Value, json};

pub(crate) const PATCH: usize = 14;

/// A model with every part of the architecture; keys of `changes` replace its keys.
pub(crate) fn config(changes: Value) -> ModelConfig {
    let mut config = json!({
        "model_type": "llava", "vocab_size": 50, "hidden_size": 32, "intermediate_size": 48,
        "num_hidden_layers": 1, "num_attention_heads": 4, "max_position_embeddings": 4096,
        "mm_vision_tower": "openai/clip-vit-large-patch14-336",
        "vision_tower_slow": "convnext_large_mlp", "is_multipath_encoder": true,
        "input_image_size": 256, "freeze_vision": false,
        "mm_projector_type": "mlp2x_gelu", "mm_hidden_size": 16, "image_aspect_ratio": "pad",
        "clip_vision_config": {
            "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2,
            "intermediate_size": 24, "patch_size": PATCH, "image_size": 8 * PATCH
        },
        "convnext_config": {
            "dims": [4, 6, 8, 12], "depths": [1, 1, 1, 1], "layer_scale_init_value": 0.5
        },
        "a_key_of_someone_else": [1, {"b": null}]
    });
    config
        .as_object_mut()
        .unwrap()
        .extend(changes.as_object().unwrap().clone());
    ModelConfig::from_json("test", &config.to_string()).unwrap()
}

pub(crate) fn single(changes: Value) -> ModelConfig {
    let mut all = json!({
        "is_multipath_encoder": false, "input_image_size": null, "mm_vision_select_layer": -2
    });
    all.as_object_mut()
        .unwrap()
        .extend(changes.as_object().unwrap().clone());
    config(all)
}

/// A smooth picture with some detail in every channel.
pub(crate) fn pixels(batch: usize, size: usize) -> Tensor {
    let data = (0..batch * size * size * 3).map(|i| {
        let (c, x, y) = (i % 3, i / 3 % size, i / 3 / size);
        ((x as f32 * 0.07 + c as f32).sin() + (y as f32 * 0.05).cos()) * 0.8
    });
    Tensor::from_vec(data.collect(), &[batch, size, size, 3]).unwrap()
}

pub(crate) fn features(model: &LlavaModel, pixels: &Tensor) -> Vec<f32> {
    let features = model
        .encode_images(&Tape::inference(), pixels, false)
        .unwrap();
    features.value().to_f32_vec().unwrap()
}

pub(crate) fn loss(
    model: &LlavaModel,
    tape: &Tape,
    pixels: &Tensor,
    checkpoint: bool,
) -> (Var, usize) {
    let n = model.tokens_per_image().unwrap();
    let text = [1, -200, 7, 8, 9, 4];
    let rows = pixels.shape()[0];
    let one = expand_image_tokens(&text, n);
    let ids: Vec<i32> = one.iter().copied().cycle().take(rows * one.len()).collect();
    let labels: Vec<i32> = ids
        .iter()
        .map(|id| if *id < 0 { -100 } else { *id })
        .collect();
    let segments = Segments::from_lengths(vec![one.len(); rows]);
    let loss = model
        .loss(tape, &ids, &labels, &segments, Some(pixels), checkpoint)
        .unwrap();
    (loss.sum, loss.count)
}
