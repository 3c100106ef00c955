//! `llavar runs list`.

use std::path::PathBuf;

use llavar_train::runs::{Run, find};
use serde_json::json;

use super::{columns, duration, shown};
use crate::{
    commands::{print, print_json},
    failure::Outcome,
    progress::note,
};

/// List the runs in a folder and below.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: llavar runs list runs")]
pub(crate) struct Args {
    /// The folder.
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Outcome {
    let mut runs = Vec::new();
    for path in find(&args.dir)? {
        // One that cannot be read must not hide the others.
        match Run::open(&path) {
            Ok(run) => runs.push(run),
            Err(error) => note(format!("warning: {error}")),
        }
    }
    if args.json {
        let all: Vec<_> = runs.iter().map(as_json).collect();
        return print_json(&all);
    }
    if runs.is_empty() {
        note(format!("no runs in {} and below", args.dir.display()));
        return Ok(());
    }
    let head = [
        "run",
        "status",
        "steps",
        "loss [nats/token]",
        "tokens/s",
        "MFU [%]",
        "peak memory [GiB]",
        "time",
        "checkpoints",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for run in &runs {
        let (step, total) = run.progress();
        let path = run.path.strip_prefix(&args.dir).unwrap_or(&run.path);
        let name = match path.as_os_str().is_empty() {
            true => run.name(),
            false => path.display().to_string(),
        };
        rows.push(vec![
            name,
            run.status.as_str().into(),
            format!("{step}/{total}"),
            shown(run.final_loss(), 4),
            shown(run.median("tokens_per_second"), 3),
            shown(run.median("mfu_percent"), 3),
            shown(run.most("tensor_peak_bytes").map(gib), 3),
            duration(run.seconds()),
            run.checkpoints.len().to_string(),
        ]);
    }
    print(columns(&rows))
}

/// Bytes as GiB.
pub(super) fn gib(bytes: f64) -> f64 {
    bytes / (1u64 << 30) as f64
}

fn as_json(run: &Run) -> serde_json::Value {
    let (step, total) = run.progress();
    json!({
        "path": run.path,
        "status": run.status,
        "step": step,
        "total_steps": total,
        "loss": run.final_loss(),
        "tokens_per_second": run.median("tokens_per_second"),
        "mfu_percent": run.median("mfu_percent"),
        "tensor_peak_bytes": run.most("tensor_peak_bytes"),
        "seconds": run.seconds(),
        "checkpoints": run.checkpoints,
        "device": run.fact("device"),
        "notes": run.notes,
    })
}
