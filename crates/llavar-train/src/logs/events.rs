//! `events.jsonl`: what happened in a run and when, in the words of its observer.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};

use crate::{Observer, RunInfo, StepReport, TraceSummary};

/// Tells an observer what happens and writes it down.
pub(crate) struct Recording<'a> {
    to: &'a mut dyn Observer,
    /// A run goes on without this list: what decides anything is in the checkpoints.
    file: Option<File>,
}

impl<'a> Recording<'a> {
    /// Writes into `path`, if there is one.
    pub(crate) fn new(to: &'a mut dyn Observer, path: Option<&Path>) -> Self {
        let open = |path| OpenOptions::new().create(true).append(true).open(path);
        let file = path.and_then(|path| open(path).ok());
        Self { to, file }
    }

    /// Adds a line with the present time.
    pub(crate) fn add(&mut self, event: &str, mut what: Value) {
        let Some(file) = &mut self.file else { return };
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let seconds = since.map_or(0.0, |since| (since.as_secs_f64() * 1e3).round() / 1e3);
        let mut line = json!({"time": seconds, "event": event});
        if let (Some(line), Some(what)) = (line.as_object_mut(), what.as_object_mut()) {
            line.append(what);
        }
        // Best effort, in one call, so that an interruption leaves whole lines.
        let _ = file.write_all(format!("{line}\n").as_bytes());
    }
}

impl Observer for Recording<'_> {
    fn on_start(&mut self, info: &RunInfo) {
        self.add(
            "start",
            json!({
                "version": env!("CARGO_PKG_VERSION"),
                "step": info.first_step,
                "total_steps": info.total_steps,
                "warmup_steps": info.warmup_steps,
                "samples": info.samples,
                "parameters": info.parameters,
                "trainable_parameters": info.trainable_parameters,
                "groups": info.groups,
                "ranks": info.ranks,
                "backend": info.backend,
                "zero_stage": info.zero_stage,
                "device": info.device,
                "device_note": info.device_note,
                "memory_plan": info.memory.to_string(),
                "packing": info.packing,
                "resumed_from": info.resumed_from,
            }),
        );
        self.to.on_start(info);
    }

    fn on_step(&mut self, report: &StepReport) {
        self.to.on_step(report);
    }

    fn on_checkpoint(&mut self, step: u64, path: &Path) {
        self.add("checkpoint", json!({"step": step, "path": path}));
        self.to.on_checkpoint(step, path);
    }

    fn on_trace(&mut self, path: &Path, summary: &TraceSummary) {
        self.add("trace", json!({"step": summary.step, "path": path}));
        self.to.on_trace(path, summary);
    }

    fn on_rollback(&mut self, spike: u64, to: u64) {
        self.add("rollback", json!({"spike": spike, "step": to}));
        self.to.on_rollback(spike, to);
    }

    fn on_warning(&mut self, message: &str) {
        self.add("warning", json!({"message": message}));
        self.to.on_warning(message);
    }
}
