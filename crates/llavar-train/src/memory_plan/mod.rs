//! `MemoryPlan`: what a run will need, estimated before its first step.

mod activations;

use std::fmt;

use llavar_model::LlavaModel;
use llavar_tensor::optim::Precision;

pub(crate) use activations::{Activations, MicroBatch};

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
