//! What a run writes about itself, on the rank that logs.
//!
//! - `run_log`: `train.jsonl`, one line a step.
//! - `tensorboard`: event files for TensorBoard.
//! - `events`: `events.jsonl`, what happened and when.
//! - `worst`: the samples with the highest loss.
//! - `mfu`: the share of a device's rate that the model's own operations reach.

mod events;
pub(crate) mod mfu;
mod run_log;
mod tensorboard;
mod worst;

pub(crate) use events::Recording;
pub use worst::WorstSample;
pub(crate) use worst::{SampleLosses, Worst};

use std::path::Path;

use crate::{Recipe, StepReport, TrainError};

/// The curves of a session.
#[derive(Debug)]
pub(crate) struct Logs {
    lines: run_log::RunLog,
    events: Option<tensorboard::EventFile>,
}

impl Logs {
    /// For a run that goes on after `step`: what was written of later steps is dropped, or marked as passed.
    pub(crate) fn open(run_dir: &Path, recipe: &Recipe, step: u64) -> Result<Self, TrainError> {
        let lines = run_log::RunLog::open(&run_dir.join("train.jsonl"), step)?;
        let mut events = None;
        if recipe.log.tensorboard {
            let mut file = tensorboard::EventFile::create(&run_dir.join("tb"), step + 1)?;
            let text = recipe.to_toml()?.replace('\n', "\n    ");
            file.text(step + 1, "recipe", &format!("    {text}"))?;
            events = Some(file);
        }
        Ok(Self { lines, events })
    }

    /// Writes one step; `loss` replaces that of the report.
    pub(crate) fn write(&mut self, report: &StepReport, loss: f64) -> Result<(), TrainError> {
        let report = StepReport {
            loss,
            ..report.clone()
        };
        self.lines.write(&report)?;
        if let Some(events) = &mut self.events {
            events.scalars(report.step, &scalars(&report))?;
        }
        Ok(())
    }
}

/// The values of a step by their names in the field; those that it has.
fn scalars(report: &StepReport) -> Vec<(&'static str, f64)> {
    let gib = |bytes: usize| bytes as f64 / (1u64 << 30) as f64;
    let all = [
        ("train/loss", Some(report.loss)),
        ("train/learning_rate", Some(report.learning_rate)),
        ("train/grad_norm", report.grad_norm.map(f64::from)),
        ("train/epoch", Some(report.epoch)),
        ("train/tokens_per_second", Some(report.tokens_per_second)),
        (
            "train/supervised_tokens_per_second",
            Some(report.supervised_tokens_per_second),
        ),
        ("train/images_per_second", Some(report.images_per_second)),
        ("train/mfu_percent", report.mfu_percent),
        ("train/data_wait_percent", Some(report.data_wait_percent)),
        ("train/tensor_peak_gib", Some(gib(report.tensor_peak_bytes))),
        ("train/resident_gib", report.resident_bytes.map(gib)),
        ("train/step_seconds", Some(report.seconds)),
        ("train/loss_z", report.loss_z),
        ("train/grad_norm_z", report.grad_norm_z),
        ("train/skipped", report.skipped.then_some(1.0)),
    ];
    all.into_iter()
        .filter_map(|(tag, value)| Some((tag, value?)))
        .collect()
}
