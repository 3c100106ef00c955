//! Floating-point operations of a model's forward pass, counted from its configuration.
//!
//! A multiply-add counts two. Norms, activations and softmax are left out: they are bound by memory and
//! run on other units. A backward pass takes twice the forward pass, a recomputation once more.

use crate::config::{ModelConfig, VisionConfig, VisionTower};

/// Language model without [`read_rows`]: all layers over samples of these lengths, attention causal.
pub fn language_model(config: &ModelConfig, lengths: &[usize]) -> f64 {
    let llm = &config.llm;
    let (q, kv) = (llm.q_size(), llm.kv_size());
    let tokens: usize = lengths.iter().sum();
    let weights = llm.hidden_size * (q + 2 * kv) * llm.num_hidden_layers
        + behind_attention(config) * (llm.num_hidden_layers - 1);
    // Scores and values: two products over n (n + 1) / 2 pairs.
    let pairs: f64 = lengths.iter().map(|n| (n * (n + 1)) as f64 / 2.0).sum();
    2.0 * (weights * tokens) as f64 + 4.0 * (llm.num_hidden_layers * q) as f64 * pairs
}

/// What is done for `rows` rows alone, those whose outputs are read: all behind the last layer's attention, and the
/// output layer.
pub fn read_rows(config: &ModelConfig, rows: usize) -> f64 {
    let head = config.llm.hidden_size * config.llm.vocab_size;
    2.0 * (rows * (behind_attention(config) + head)) as f64
}

/// Weights of a layer behind its attention.
fn behind_attention(config: &ModelConfig) -> usize {
    let llm = &config.llm;
    llm.hidden_size * (llm.q_size() + 3 * llm.intermediate_size)
}

/// Vision tower with adapters and projector, one picture. Zero without a tower.
pub fn vision(config: &ModelConfig) -> f64 {
    let Some(vision) = &config.vision else {
        return 0.0;
    };
    let towers = clip(vision) + convnext(vision) + joints(vision);
    2.0 * (towers + projector(config, vision))
}

/// Multiply-adds of CLIP.
fn clip(vision: &VisionConfig) -> f64 {
    let Some(clip) = vision.clip() else {
        return 0.0;
    };
    let (c, n) = (clip.hidden_size, vision.grid() * vision.grid());
    let patch = n * 3 * clip.patch_size * clip.patch_size * c;
    let layer = n * (4 * c * c + 2 * c * clip.intermediate_size) + 2 * n * n * c;
    (patch + clip.num_hidden_layers * layer) as f64
}

/// Multiply-adds of the ConvNeXt.
fn convnext(vision: &VisionConfig) -> f64 {
    let Some(convnext) = vision.convnext() else {
        return 0.0;
    };
    let mut side = vision.input_image_size / 4;
    let mut total = side * side * 48 * convnext.dims[0];
    for (stage, (c, depth)) in convnext.dims.iter().zip(&convnext.depths).enumerate() {
        if stage > 0 {
            side /= 2;
            total += side * side * 4 * convnext.dims[stage - 1] * c;
        }
        total += depth * side * side * (49 * c + 8 * c * c);
    }
    total as f64
}

/// Multiply-adds of the adapters and the fusion between two paths.
fn joints(vision: &VisionConfig) -> f64 {
    let VisionTower::Multipath { clip, convnext, .. } = &vision.tower else {
        return 0.0;
    };
    let slow = VisionConfig::slow_grid(vision.input_image_size).pow(2);
    let fast = vision.grid().pow(2);
    let (cs, c) = (convnext.out_dim(), clip.hidden_size);
    let adapters = 3 * (slow * (cs * cs + cs * c) + fast * (49 * c + c * c));
    (adapters + fast * (c * c + cs * c)) as f64
}

/// Multiply-adds of a two-layer projector.
fn projector(config: &ModelConfig, vision: &VisionConfig) -> f64 {
    let (from, to) = (vision.feature_size(), config.llm.hidden_size);
    (vision.image_tokens() * (from * to + to * to)) as f64
}

/// Weights that one decoding step reads, elements: all layers and the head.
pub fn decode_weights(config: &ModelConfig) -> usize {
    let llm = &config.llm;
    let (d, q, kv) = (llm.hidden_size, llm.q_size(), llm.kv_size());
    llm.num_hidden_layers * (d * (q + 2 * kv) + q * d + 3 * d * llm.intermediate_size)
        + llm.vocab_size * d
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Preset;

    #[test]
    fn published_shapes_have_their_published_counts() {
        let config = Preset::Phi35Mini.config(None).unwrap();
        // ConvNeXt-L: 34.4 GMACs at 224 px (timm), so 34.4 (768 / 224)^2 at 768 px, within 2 %.
        let vision = config.vision.as_ref().unwrap();
        let macs = convnext(vision) / (768.0f64 / 224.0).powi(2);
        assert!((macs / 34.4e9 - 1.0).abs() < 0.02, "{macs:e}");
        // 3.82e9 parameters, of which 98.5e6 are the embedding.
        let weights = decode_weights(&config) as f64;
        assert!((weights / 3.7226e9 - 1.0).abs() < 0.002, "{weights:e}");
        let one = language_model(&config, &[1]) + read_rows(&config, 1);
        assert!((one / (2.0 * weights) - 1.0).abs() < 0.01, "{one:e}");
    }
}
