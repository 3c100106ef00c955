//! `llavar checkpoint`: what a run has saved, what is known of it, and what is kept.

use std::{
    collections::BTreeMap,
    fmt::Display,
    path::{Path, PathBuf},
};

use llavar_train::{
    TrainError,
    checkpoint::{CheckpointInfo, PIN_FILE, list, pin, record_metrics, verify},
};
use serde::Serialize;

use super::{print, print_json};
use crate::failure::{Class, Failure, Outcome};

/// See, check, keep and rate the checkpoints of a run.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// The checkpoints of a run folder, with what is known of each.
    List(ListArgs),
    /// Keep checkpoints for ever: save_total_limit does not count them.
    Pin(Folders),
    /// Let pinned checkpoints go when their turn comes.
    Unpin(Folders),
    /// Record numbers of an evaluation, by which train.metric_for_best_model can choose.
    Note(NoteArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    /// Run folder (what `llavar train --out` was given).
    run: PathBuf,
    /// Read every file and compare its checksum.
    #[arg(long)]
    verify: bool,
    /// JSON on stdout.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Folders {
    /// Checkpoint folders.
    #[arg(required = true)]
    checkpoints: Vec<PathBuf>,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: llavar checkpoint note runs/sft/checkpoints/step-00000500 anls=0.612"
)]
pub(crate) struct NoteArgs {
    /// Checkpoint folder.
    checkpoint: PathBuf,
    /// Numbers by name.
    #[arg(required = true, value_name = "NAME=NUMBER")]
    values: Vec<String>,
}

/// Runs the command.
pub(crate) fn run(command: Command) -> Outcome {
    match command {
        Command::List(args) => show(&args),
        Command::Pin(args) => set_pins(&args.checkpoints, true),
        Command::Unpin(args) => set_pins(&args.checkpoints, false),
        Command::Note(args) => note(&args),
    }
}

/// One checkpoint in `--json`.
#[derive(Debug, Serialize)]
struct Row {
    step: u64,
    path: PathBuf,
    bytes: u64,
    pinned: bool,
    best: bool,
    metrics: BTreeMap<String, f64>,
    /// Absent without `--verify`; else what is wrong, or null.
    #[serde(skip_serializing_if = "Option::is_none")]
    damage: Option<Option<String>>,
}

fn show(args: &ListArgs) -> Outcome {
    if !args.run.join("checkpoints").is_dir() {
        return Err(Failure::new(
            Class::Data,
            format!("{} has no folder of checkpoints", args.run.display()),
        )
        .hint("give a run folder, what `llavar train --out` was given"));
    }
    let row = |info: CheckpointInfo| Row {
        bytes: size_of(&info.path),
        damage: args
            .verify
            .then(|| verify(&info.path).err().map(|why| why.to_string())),
        step: info.step,
        path: info.path,
        pinned: info.pinned,
        best: info.best,
        metrics: info.metrics,
    };
    let rows: Vec<Row> = list(&args.run)?.into_iter().map(row).collect();
    let damaged = rows
        .iter()
        .filter(|r| r.damage.as_ref().is_some_and(Option::is_some));
    let damaged = damaged.count();
    if args.json {
        print_json(&rows)?;
    } else {
        for row in &rows {
            print(line(row))?;
        }
        if rows.is_empty() {
            print("no checkpoint is published\n")?;
        }
    }
    match damaged {
        0 => Ok(()),
        count => Err(Failure::new(
            Class::Data,
            format!("{count} of {} checkpoint(s) are damaged", rows.len()),
        )
        .hint("`llavar train --resume auto` passes over damaged ones")),
    }
}

fn line(row: &Row) -> String {
    let metrics: Vec<String> = row
        .metrics
        .iter()
        .map(|(name, value)| {
            let unit = if name == "loss" { " nats/token" } else { "" };
            format!("{name} {value:.4}{unit}")
        })
        .collect();
    let marks = [(row.best, "best"), (row.pinned, "pinned")];
    let marks: Vec<&str> = marks.iter().filter(|m| m.0).map(|m| m.1).collect();
    let damage = match &row.damage {
        None => "",
        Some(None) => "sound",
        Some(Some(reason)) => reason,
    };
    let text = format!(
        "step {:>8}  {:>8.2} MiB  {:<24} {:<12} {damage}",
        row.step,
        row.bytes as f64 / (1u64 << 20) as f64,
        metrics.join(", "),
        marks.join(", "),
    );
    format!("{}\n", text.trim_end())
}

/// Bytes of all files below a folder; what cannot be read counts nothing.
fn size_of(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(found) if found.is_dir() => size_of(&entry.path()),
            Ok(found) => found.len(),
            Err(_) => 0,
        })
        .sum()
}

fn set_pins(checkpoints: &[PathBuf], keep: bool) -> Outcome {
    // All are looked at before the first is changed: setting what is so already changes nothing.
    for checkpoint in checkpoints {
        let is_pinned = checkpoint.join(PIN_FILE).exists();
        pin(checkpoint, is_pinned).map_err(|error| unusable(checkpoint, error))?;
    }
    for checkpoint in checkpoints {
        pin(checkpoint, keep).map_err(|error| unusable(checkpoint, error))?;
        let word = if keep {
            "kept for ever"
        } else {
            "no longer pinned"
        };
        print(format!("{}: {word}\n", checkpoint.display()))?;
    }
    Ok(())
}

/// A checkpoint that was named and cannot be had: unlike a run, this command has no `--resume`.
fn unusable(checkpoint: &Path, error: TrainError) -> Failure {
    if !matches!(error, TrainError::Checkpoint { .. }) {
        return error.into();
    }
    let shown = checkpoint.display();
    let list =
        |run: &dyn Display| format!("`llavar checkpoint list {run} --json` names the folders");
    // The folders around a checkpoint are easily taken for it.
    let run = match checkpoint.file_name() {
        Some(name) if name == "checkpoints" => checkpoint.parent(),
        _ => Some(checkpoint).filter(|folder| folder.join("checkpoints").is_dir()),
    };
    let (message, hint) = if !checkpoint.exists() {
        let hint = format!("check the path; {}", list(&"RUN"));
        (format!("there is no folder {shown}"), hint)
    } else if !checkpoint.is_dir() {
        let hint = format!("give the folder of a checkpoint; {}", list(&"RUN"));
        (format!("{shown} is a file and no checkpoint"), hint)
    } else if let Some(run) = run {
        let run = if run == Path::new("") {
            Path::new(".")
        } else {
            run
        };
        let message = format!("{shown} holds checkpoints and is none itself");
        (message, format!("name one; {}", list(&run.display())))
    } else if checkpoint.join("config.json").is_file() {
        let message = format!("{shown} is a model folder and no checkpoint");
        let hint = format!(
            "checkpoints are the folders `step-...` of a run; {}",
            list(&"RUN")
        );
        (message, hint)
    } else {
        return Failure::from(error).hint(list(&"RUN"));
    };
    Failure::new(Class::Data, message).hint(hint)
}

fn note(args: &NoteArgs) -> Outcome {
    let mut values = BTreeMap::new();
    for text in &args.values {
        let parsed = text.split_once('=').and_then(|(name, value)| {
            let value: f64 = value.trim().parse().ok()?;
            (!name.trim().is_empty() && value.is_finite()).then(|| (name.trim().to_owned(), value))
        });
        let Some((name, value)) = parsed else {
            return Err(Failure::usage(format!(
                "`{text}` is not NAME=NUMBER, such as anls=0.612"
            )));
        };
        if name == "loss" {
            return Err(Failure::usage(
                "`loss` is the training loss, which the checkpoint holds itself; give another name",
            ));
        }
        values.insert(name, value);
    }
    record_metrics(&args.checkpoint, &values).map_err(|error| unusable(&args.checkpoint, error))?;
    print(format!(
        "{}: {}\n",
        args.checkpoint.display(),
        args.values.join(", ")
    ))
}
