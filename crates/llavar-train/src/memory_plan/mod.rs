//! `MemoryPlan`: what a run will need, estimated before its first step.

mod activations;
mod planner;

use std::fmt;

use llavar_model::{LlavaModel, config::LlmConfig};
use llavar_tensor::optim::Precision;

pub(crate) use activations::{Activations, MicroBatch};
pub use planner::{Planner, Spread};

use crate::recipe::TrainSection;

/// Share of a GPU's memory that a plan may take; the rest is for what it does not count.
pub(crate) const USABLE: f64 = 0.92;
/// Room for the matrix products on a GPU, bytes.
const PRODUCTS: usize = 64 << 20;
/// Rows of logits that exist at the same time on a GPU.
const LOGIT_ROWS: usize = 2048;

/// Bytes on a GPU for products and logits, for weights of `size` bytes.
pub(crate) fn gpu_workspace(llm: &LlmConfig, size: usize) -> usize {
    PRODUCTS + LOGIT_ROWS * llm.vocab_size * (4 + size)
}

/// Bytes of moments and master copy of one trained element.
pub(crate) fn state_bytes(precision: Precision) -> usize {
    2 * precision.states().size() + if precision.has_master() { 4 } else { 0 }
}

/// Elements of weights and of gradients that a rank of `ranks` holds at the same time; `largest` is the largest
/// block, of which one is in use and one on its way.
pub(crate) fn held(
    zero_stage: u8,
    ranks: usize,
    weights: usize,
    trained: usize,
    largest: usize,
) -> (usize, usize) {
    let pieces = if zero_stage > 0 { trained / ranks } else { 0 };
    match zero_stage {
        0 | 1 => (weights + pieces, trained + pieces),
        2 => (weights + pieces, trained / ranks + 2 * largest),
        _ => (weights / ranks + 2 * largest, trained / ranks + 2 * largest),
    }
}

/// A full micro-batch of a recipe: its samples, each of a picture and a quarter of the longest text, or its
/// token budget.
pub(crate) fn micro_batch(image_tokens: usize, train: &TrainSection, samples: usize) -> MicroBatch {
    let samples = train.per_device_train_batch_size.min(samples);
    if train.pack_tokens > 0 {
        let tokens = samples * train.pack_tokens;
        let images = tokens.checked_div(image_tokens).unwrap_or(0);
        return MicroBatch { tokens, images };
    }
    let tokens = match train.max_tokens_per_micro_batch {
        0 => samples * (image_tokens + train.model_max_length / 4),
        budget => budget,
    };
    let images = tokens.checked_div(image_tokens).unwrap_or(0).min(samples);
    MicroBatch { tokens, images }
}

/// Estimated bytes of a run. Weights, gradients and optimizer states are exact; activations are a
/// count of what the operations keep for the backward pass, right within a factor of about 1.5.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Where it runs: `cpu` or `cuda:N`.
    pub device: String,
    /// Element types.
    pub precision: Precision,
    /// Bytes of the GPU; of main memory that is available, where the system tells.
    pub capacity: Option<usize>,
    /// Weights.
    pub weights: usize,
    /// Gradients of those that train.
    pub gradients: usize,
    /// Two moments of those that train, and their master copies.
    pub optimizer_states: usize,
    /// Activations of one micro-batch at its peak.
    pub activations: usize,
    /// Logits of one piece of the output layer, and room for the matrix products.
    pub workspace: usize,
    /// Prefetched samples and kept pictures in main memory, at most.
    pub data: usize,
    /// Blocks that keep their activations; the others compute them again.
    pub kept_blocks: usize,
    /// All blocks: layers of both towers and of the language model.
    pub blocks: usize,
}

impl MemoryPlan {
    /// Estimated bytes of activations of one micro-batch of `tokens` positions (those of its `images`
    /// pictures among them) at the peak of forward and backward pass, where the last `kept_blocks` blocks
    /// keep theirs.
    pub fn activations_of(
        model: &LlavaModel,
        precision: Precision,
        tokens: usize,
        images: usize,
        kept_blocks: usize,
    ) -> usize {
        let batch = MicroBatch { tokens, images };
        precision.weights().size() * Activations::of(model, batch).peak(kept_blocks)
    }

    /// Bytes on the device that trains.
    pub fn on_device(&self) -> usize {
        let own = self.weights + self.gradients + self.optimizer_states;
        own + self.activations + self.workspace
    }

    /// Sum of all parts, bytes, in main memory and on the device.
    pub fn total(&self) -> usize {
        self.on_device() + self.data
    }

    /// Whether what is needed on the device is less than it has; true where that is not known.
    pub fn fits(&self) -> bool {
        self.capacity.is_none_or(|all| self.on_device() <= all)
    }
}

impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gib = |bytes: usize| bytes as f64 / (1u64 << 30) as f64;
        write!(
            f,
            "{} in {}: weights {:.2} GiB, gradients {:.2}, optimizer {:.2}, activations {:.2} ({} of {} blocks \
             keep theirs), workspace {:.2}; together {:.2} GiB",
            self.device,
            self.precision,
            gib(self.weights),
            gib(self.gradients),
            gib(self.optimizer_states),
            gib(self.activations),
            self.kept_blocks,
            self.blocks,
            gib(self.workspace),
            gib(self.on_device()),
        )?;
        if let Some(capacity) = self.capacity {
            write!(f, " of {:.2}", gib(capacity))?;
        }
        write!(f, "; data up to {:.2} GiB of main memory", gib(self.data))
    }
}
