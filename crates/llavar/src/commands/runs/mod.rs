//! `llavar runs`: training runs as a list, side by side, as curves, as a page, for other programs.

mod compare;
mod export;
mod list;
mod plot;
mod report;
mod terminal;

use std::path::Path;

use llavar_train::runs::{Run, RunError};

use crate::{
    failure::{Class, Failure, Outcome},
    progress::note,
};

/// Look at training runs.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List the runs in a folder and below.
    List(list::Args),
    /// Set runs side by side: settings that differ, figures, losses.
    Compare(compare::Args),
    /// Draw a curve of one or more runs, in the terminal or as SVG.
    Plot(plot::Args),
    /// Write a page about a run: curves, throughput, memory, events, worst samples with their pictures.
    Report(report::Args),
    /// Write a run in the form that another program takes.
    Export(export::Args),
}

/// Runs the command.
pub(crate) fn run(command: Command) -> Outcome {
    match command {
        Command::List(args) => list::run(args),
        Command::Compare(args) => compare::run(args),
        Command::Plot(args) => plot::run(args),
        Command::Report(args) => report::run(args),
        Command::Export(args) => export::run(args),
    }
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Self {
        let (class, hint) = match &error {
            RunError::Io { .. } => (
                Class::Data,
                Some("check the path; it is taken from the present folder"),
            ),
            RunError::Foreign { .. } => (
                Class::Data,
                Some("give what was `--out` of `llavar train`; `llavar runs list DIR` finds runs"),
            ),
            RunError::NoSteps { .. } => (
                Class::Data,
                Some(
                    "wait for its first step, or for the next one that is logged (log.logging_steps)",
                ),
            ),
            RunError::NoKey { .. } => (Class::Usage, None),
            RunError::Checkpoints(_) => {
                return match error {
                    RunError::Checkpoints(error) => error.into(),
                    other => Self::new(Class::Data, other),
                };
            }
            _ => (Class::Data, None),
        };
        Self::new(class, error).maybe_hint(hint)
    }
}

/// Reads runs that have steps, and says what of them could not be read.
fn open(paths: &[impl AsRef<Path>]) -> Outcome<Vec<Run>> {
    let mut runs = Vec::with_capacity(paths.len());
    for path in paths {
        let run = Run::with_steps(path.as_ref())?;
        for text in &run.notes {
            note(format!("note: {}: {text}", run.path.display()));
        }
        runs.push(run);
    }
    Ok(runs)
}

/// Names that tell runs apart: the folder's, with those above it as far as needed.
fn names(runs: &[Run]) -> Vec<String> {
    let full: Vec<Vec<String>> = runs
        .iter()
        .map(|run| {
            let path = run.path.canonicalize().unwrap_or_else(|_| run.path.clone());
            let parts = path.iter().rev();
            parts
                .map(|part| part.to_string_lossy().into_owned())
                .collect()
        })
        .collect();
    let longest = full.iter().map(Vec::len).max().unwrap_or(1);
    let with = |depth: usize| -> Vec<String> {
        let name = |parts: &Vec<String>| {
            let mut parts: Vec<&str> = parts.iter().take(depth).map(String::as_str).collect();
            parts.reverse();
            parts.join("/")
        };
        full.iter().map(name).collect()
    };
    let differ = |names: &Vec<String>| {
        let set: std::collections::HashSet<&String> = names.iter().collect();
        set.len() == names.len()
    };
    (1..=longest)
        .map(with)
        .find(differ)
        .unwrap_or_else(|| with(1))
}

/// A number as a person reads it, or what stands for none.
fn shown(value: Option<f64>, digits: usize) -> String {
    value.map_or("-".into(), |value| {
        llavar_report::significant(value, digits)
    })
}

/// A duration.
fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match (whole / 3600, whole / 60 % 60, whole % 60) {
        (0, 0, _) => format!("{seconds:.1} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds:02} s"),
        (hours, minutes, _) => format!("{hours} h {minutes:02} min"),
    }
}

/// Rows in columns; the first row is the heading, and its line ends where the longest row ends.
fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |at: usize| {
        let cells = rows.iter().filter_map(|row| row.get(at));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths);
        let padded: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        text.push_str(padded.join("  ").trim_end());
        text.push('\n');
    }
    text
}
