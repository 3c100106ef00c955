//! Checkpoints: written aside, synced, renamed; verified when they are read.
//!
//! ```text
//! RUN/checkpoints/step-00000500/
//!   model/                 HF folder, f32: the master weights of a run that computes with rounded ones;
//!                          of a run with adapters their folder as PEFT has it, with all that trains beside them
//!   optimizer.safetensors  moments, in the element type that they have in the run; with ZeRO one
//!                          optimizer-RANK-of-RANKS.safetensors a rank, each tensor in consecutive parts
//!                          with `train.compact_checkpoints` the model is bf16 (weights of fewer than 4,096
//!                          elements f32), moments are a byte a value with an f32 for each 256 of them, and all
//!                          is in files of at most `train.max_shard_bytes`: model-0000N-of-0000M.safetensors,
//!                          optimizer-part-0000N.safetensors
//!   state.json             position of the run
//!   recipe.toml            resolved recipe
//!   manifest.json          length and checksum of every file
//!   DONE                   checksum of the manifest; written last
//! ```
//! A folder without `DONE` is no checkpoint. A published one is never changed or written over; beside it may
//! lie `step-00000500.metrics.json`, and `BEST` names the best one.

mod manifest;
mod metrics;
mod store;

pub use manifest::{Unsound, verify};
pub(crate) use manifest::{checksum, is_published};
pub(crate) use metrics::Best;
pub use metrics::record as record_metrics;
pub use store::{CheckpointInfo, PIN_FILE, list, pin};
pub(crate) use store::{Store, publish};

use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize};

use crate::{GuardState, TrainError, WorstSample};

/// Position of a run: with weights and moments, everything that decides how it goes on. The order of
/// samples is a function of seed and step, so no generator state is needed.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainState {
    /// Version of this file's layout.
    pub format: u32,
    /// Optimizer steps done, skipped ones included.
    pub step: u64,
    /// Updates done: steps without those skipped.
    pub updates: u64,
    /// Steps skipped for a gradient that was not finite, or for a spike.
    pub skipped_steps: u64,
    /// Epoch in which the next step begins, from 0.
    pub epoch: u64,
    /// Place of its first sample in the order of that epoch.
    pub position: u64,
    /// Seed of the order.
    pub seed: u64,
    /// What the data were.
    pub data: String,
    /// Numbers of samples that could not be used.
    pub bad_samples: Vec<usize>,
    /// Sum of the losses since the last line of the log, of those that are finite. JSON has no word for others: older
    /// files may hold null.
    #[serde(deserialize_with = "number_or_zero")]
    pub log_loss: f64,
    /// Steps of that sum.
    pub log_steps: u64,
    /// Steps one after the other, up to the last one, whose gradient was not finite.
    #[serde(default)]
    pub not_finite_in_a_row: u64,
    /// Tokens seen, images counted in full.
    pub tokens: u64,
    /// Supervised tokens seen.
    pub supervised_tokens: u64,
    /// Images seen.
    pub images: u64,
    /// Seconds of training.
    pub seconds: f64,
    /// Fingerprint of the frozen weights, where the checkpoint holds adapters on them.
    #[serde(default)]
    pub base: String,
    /// Micro-batches of a step over all ranks, set when the run began: it stays when a run goes on with
    /// another number of ranks. 0 in files of one rank from before there were several.
    #[serde(default)]
    pub micro_batches: usize,
    /// What the guard against spikes remembers.
    #[serde(default)]
    pub guard: GuardState,
    /// Exponential mean of the losses, and the weight that it has seen (Adam's correction of its start).
    #[serde(default)]
    pub mean_loss: [f64; 2],
    /// Samples of the highest loss so far, the worst first.
    #[serde(default)]
    pub worst_samples: Vec<WorstSample>,
}

/// Share that the mean loss keeps at each step: it looks back over about 50 steps.
const LOSS_DECAY: f64 = 0.98;

fn number_or_zero<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// Layout version of `state.json`.
pub(crate) const FORMAT: u32 = 1;

impl TrainState {
    /// Number of the step whose data come next: beyond `step` by those passed over.
    pub(crate) fn data_step(&self) -> u64 {
        self.step + self.guard.passed_steps
    }

    /// Adds the loss of a step to the mean.
    pub(crate) fn add_loss(&mut self, loss: f64) {
        if loss.is_finite() {
            for (mean, value) in self.mean_loss.iter_mut().zip([loss, 1.0]) {
                *mean = LOSS_DECAY * *mean + (1.0 - LOSS_DECAY) * value;
            }
        }
    }

    /// Training loss smoothed over about 50 steps, nats a token; `None` before the first step.
    pub fn smoothed_loss(&self) -> Option<f64> {
        let [sum, weight] = self.mean_loss;
        (weight > 0.0).then(|| sum / weight)
    }

    /// Reads `state.json` of a checkpoint.
    ///
    /// # Errors
    /// [`TrainError::Io`], or [`TrainError::Checkpoint`] for another layout.
    pub fn read(checkpoint: &Path) -> Result<Self, TrainError> {
        let path = checkpoint.join("state.json");
        let text = std::fs::read(&path).map_err(TrainError::io(&path))?;
        let bad = |reason: String| TrainError::Checkpoint {
            path: checkpoint.to_owned(),
            reason,
        };
        let state: Self =
            serde_json::from_slice(&text).map_err(|e| bad(format!("state.json: {e}")))?;
        if state.format != FORMAT {
            return Err(bad(format!(
                "state.json has layout {}, this program reads {FORMAT}",
                state.format
            )));
        }
        Ok(state)
    }
}
