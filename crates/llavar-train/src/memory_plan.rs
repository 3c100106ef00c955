//! `MemoryPlan`: what a run will need, estimated before its first step.

use llavar_model::config::{ModelConfig, VisionTower};

/// Estimated bytes of a run. Weights, gradients and optimizer states are exact; activations are a
/// count of what the operations keep for the backward pass, right within a factor of about 1.5.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Weights, f32.
    pub weights: usize,
    /// Gradients of those that train, f32.
    pub gradients: usize,
    /// Two moments of those that train, f32.
    pub optimizer_states: usize,
    /// Activations of one micro-batch at its peak.
    pub activations: usize,
    /// Prefetched samples and kept pictures, at most.
    pub data: usize,
}

impl MemoryPlan {
    /// Sum of all parts, bytes.
    pub fn total(&self) -> usize {
        self.weights + self.gradients + self.optimizer_states + self.activations + self.data
    }
}

/// Bytes of activations for `tokens` text positions and `images` pictures.
///
/// A decoder layer keeps about 7 rows of its width (both norms' inputs and outputs, q, attention output,
/// residual), 2 of its key/value width and 3 of its MLP width; with checkpointing one row, and one whole
/// layer while it is recomputed. A CLIP layer keeps 9 rows of its width and 2 of its MLP width; a
/// ConvNeXt block 3 maps of its width and 2 of four times that.
pub(crate) fn activation_bytes(
    config: &ModelConfig,
    tokens: usize,
    images: usize,
    checkpoint: bool,
) -> usize {
    let layered = |layer: usize, input: usize, layers: usize| {
        if checkpoint {
            input * layers + layer
        } else {
            layer * layers
        }
    };
    let llm = &config.llm;
    let d = llm.hidden_size;
    let layer = tokens * (7 * d + 2 * llm.kv_size() + 3 * llm.intermediate_size);
    let mut floats = layered(layer, tokens * d, llm.num_hidden_layers);
    // The fused output layer holds 256 rows of logits and their gradient.
    floats += 2 * 256 * llm.vocab_size;
    if let Some(vision) = &config.vision {
        let clip = &vision.clip;
        let rows = images * vision.image_tokens();
        let layer = rows * (9 * clip.hidden_size + 2 * clip.intermediate_size);
        floats += layered(layer, rows * clip.hidden_size, clip.num_hidden_layers);
        if let VisionTower::Multipath { convnext, .. } = &vision.tower {
            let mut side = vision.input_image_size / 4;
            for (dim, depth) in convnext.dims.iter().zip(&convnext.depths) {
                let map = images * side * side * dim;
                floats += layered(11 * map, map, *depth);
                side /= 2;
            }
        }
    }
    4 * floats
}
