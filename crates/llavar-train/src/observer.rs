//! What a run tells its caller while it works.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::{FeatureReport, MemoryPlan, TraceSummary};

/// What is known before the first step.
#[derive(Debug, Clone)]
pub struct RunInfo {
    /// Steps of the whole run.
    pub total_steps: u64,
    /// Steps done already, where the run resumes.
    pub first_step: u64,
    /// Steps that warm up.
    pub warmup_steps: u64,
    /// Samples of an epoch; packs, where they are planned.
    pub samples: usize,
    /// Weights of the model, elements.
    pub parameters: usize,
    /// Weights that train, elements.
    pub trainable_parameters: usize,
    /// Kind, rank and number of adapters, where they train in place of whole weights.
    pub adapters: Option<String>,
    /// Processes that train together.
    pub ranks: usize,
    /// What their tensors go through: `single`, `mpi` or `nccl`.
    pub backend: &'static str,
    /// ZeRO's stage; 0 on one rank.
    pub zero_stage: u8,
    /// Where it trains, and in which element types: `cuda:0 (NAME, 140 GiB), bf16`.
    pub device: String,
    /// Groups of the optimizer on this rank, in the order of the weights.
    pub groups: Vec<ParamGroup>,
    /// Why no GPU is used, where one was looked for; or why not in bf16.
    pub device_note: Option<String>,
    /// Estimated memory.
    pub memory: MemoryPlan,
    /// What was planned, for a run on packs.
    pub packing: Option<PackingReport>,
    /// Where the vision tower's features are kept, and how much will be written there.
    pub features: Option<FeatureReport>,
    /// The checkpoint from which the run goes on.
    pub resumed_from: Option<PathBuf>,
    /// What was noticed while the run was made ready.
    pub warnings: Vec<String>,
}

/// Weights that the optimizer treats alike.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct ParamGroup {
    /// Highest learning rate.
    pub learning_rate: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Weights of it that this rank updates.
    pub tensors: usize,
    /// Their elements.
    pub elements: usize,
}

/// The plan of a run on packs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PackingReport {
    /// Samples in packs.
    pub samples: usize,
    /// Samples that cannot be used; they are in `quarantine.jsonl`.
    pub unusable: usize,
    /// Packs.
    pub packs: usize,
    /// Most tokens of a pack.
    pub pack_tokens: usize,
    /// Tokens of all packs, images counted in full.
    pub tokens: u64,
    /// Share of the packs' room that is filled, 0 to 1.
    pub utilisation: f64,
}

/// One optimizer step; one line of `train.jsonl` (where `loss` is the mean since the last line).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepReport {
    /// Steps done, this one included.
    pub step: u64,
    /// Steps of the whole run.
    pub total_steps: u64,
    /// Epochs done.
    pub epoch: f64,
    /// Loss before the update, nats a token.
    pub loss: f64,
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// Norm of the gradient before clipping; absent (null) where it was not finite.
    pub grad_norm: Option<f32>,
    /// Standard deviations of the loss above what was usual; null without guard or before its window is full.
    pub loss_z: Option<f64>,
    /// The same of the gradient norm.
    pub grad_norm_z: Option<f64>,
    /// Whether the guard took loss or norm for a spike.
    pub spike: bool,
    /// Whether the update was skipped: the gradient was not finite, or a spike.
    pub skipped: bool,
    /// Supervised tokens of this step.
    pub supervised_tokens: usize,
    /// Supervised tokens a second.
    pub supervised_tokens_per_second: f64,
    /// Tokens a second, images counted in full, padding not.
    pub tokens_per_second: f64,
    /// Images a second.
    pub images_per_second: f64,
    /// Share of the data sheet's rate that the operations of the model, each counted once, reach on this rank,
    /// percent; null where the rate of the device is not known (`log.peak_tflops` gives it).
    pub mfu_percent: Option<f64>,
    /// Share of the step in which the device had nothing to do because data were not ready, percent.
    pub data_wait_percent: f64,
    /// Largest memory held by tensors since the start of the run, bytes, where the model trains.
    pub tensor_peak_bytes: usize,
    /// Resident memory of the process, bytes; null where the system does not tell.
    pub resident_bytes: Option<usize>,
    /// Seconds of this step.
    pub seconds: f64,
    /// Seconds to the end of the run at the mean pace so far.
    pub eta_seconds: f64,
}

/// Receives what happens in a run. Every method does nothing by default.
///
/// On a GPU a step is queued whole and its report comes while the next one is under way; every step is
/// reported once, in order, and before a checkpoint is written all of them are.
pub trait Observer {
    /// Before the first step.
    fn on_start(&mut self, _info: &RunInfo) {}
    /// After each step.
    fn on_step(&mut self, _report: &StepReport) {}
    /// After a checkpoint was published.
    fn on_checkpoint(&mut self, _step: u64, _path: &Path) {}
    /// After a traced step: the file that shows it, and what it says.
    fn on_trace(&mut self, _path: &Path, _summary: &TraceSummary) {}
    /// After the run went back to the checkpoint of step `to`, for a spike at step `spike`: the next step reported
    /// is the one after `to`.
    fn on_rollback(&mut self, _spike: u64, _to: u64) {}
    /// Something that does not stop the run and that a person should know.
    fn on_warning(&mut self, _message: &str) {}
}

/// An observer that ignores everything.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Observer for Silent {}

/// Resident memory of this process, bytes, where `/proc` tells.
pub(crate) fn resident_bytes() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmRSS:"))?;
    let kib: usize = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}
