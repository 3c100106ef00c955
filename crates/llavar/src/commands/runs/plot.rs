//! `llavar runs plot`.

use std::path::{Path, PathBuf};

use llavar_report::{Axis, LineChart, Series};
use llavar_train::runs::Run;

use super::{names, open, terminal};
use crate::{
    commands::{print, write_file},
    failure::{Failure, Outcome},
};

/// Draw a curve of one or more runs, in the terminal or as SVG.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: llavar runs plot runs/a runs/b --svg loss.svg\n\
Keys are those of train.jsonl: loss, grad_norm, learning_rate, tokens_per_second, mfu_percent, data_wait_percent, ..."
)]
pub(crate) struct Args {
    /// Run folders.
    #[arg(required = true)]
    runs: Vec<PathBuf>,
    /// What is drawn.
    #[arg(long, default_value = "loss")]
    key: String,
    /// Draw means of this many steps.
    #[arg(long, default_value_t = 1, value_name = "STEPS")]
    smooth: usize,
    /// Logarithmic vertical axis.
    #[arg(long)]
    log: bool,
    /// Write an SVG file instead.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Outcome {
    if args.smooth == 0 {
        return Err(Failure::usage("--smooth 0: give 1 or more steps"));
    }
    let runs = open(&args.runs)?;
    if let Some(path) = &args.svg {
        not_over_run("--svg", path, &runs, "svg")?;
    }
    let mut series = Vec::with_capacity(runs.len());
    for (run, name) in runs.iter().zip(names(&runs)) {
        series.push(curve(run, name, &args.key)?);
    }
    let Some(path) = &args.svg else {
        for curve in &mut series {
            curve.points = smoothed(&curve.points, args.smooth);
        }
        let width = std::env::var("COLUMNS").ok().and_then(|c| c.parse().ok());
        let width = width.unwrap_or(80usize).clamp(40, 240);
        let title = format!("{} over steps", axis_label(&args.key));
        return print(terminal::chart(&title, &series, width, 20, args.log));
    };
    let label = axis_label(&args.key);
    let chart = LineChart {
        title: format!("{label} over steps"),
        x: Axis::linear("step"),
        y: if args.log {
            Axis::log(label)
        } else {
            Axis::linear(label)
        },
        series,
        smooth: args.smooth,
        ..LineChart::default()
    };
    write_file(path, chart.to_svg().as_bytes())?;
    print(format!("{}\n", path.display()))
}

/// Refuses to write over a file in the folder of a run; what ends in `ours` was drawn from it and may go.
pub(super) fn not_over_run(option: &str, out: &Path, runs: &[Run], ours: &str) -> Outcome {
    let Ok(file) = out.canonicalize() else {
        return Ok(());
    };
    let of_run = |run: &&Run| {
        let folder = run.path.canonicalize();
        folder.is_ok_and(|folder| file.starts_with(folder))
    };
    match runs.iter().find(of_run) {
        Some(run) if file.is_file() && file.extension().is_none_or(|end| end != ours) => {
            let message = format!("{option} would write over a file of {}", run.path.display());
            Err(Failure::usage(message).hint(format!("give another {option}")))
        }
        _ => Ok(()),
    }
}

/// A curve of a run.
pub(super) fn curve(run: &Run, name: String, key: &str) -> Outcome<Series> {
    let values = run.values_of(key)?.into_iter();
    Ok(Series {
        name,
        points: values.map(|(step, value)| (step as f64, value)).collect(),
    })
}

/// Name and unit of a value of the log.
pub(super) fn axis_label(key: &str) -> String {
    let label = match key {
        "loss" => "loss [nats/token]",
        "grad_norm" => "gradient norm",
        "learning_rate" => "learning rate",
        "tokens_per_second" => "tokens/s",
        "supervised_tokens_per_second" => "supervised tokens/s",
        "images_per_second" => "images/s",
        "mfu_percent" => "MFU [%]",
        "data_wait_percent" => "data wait [%]",
        "tensor_peak_bytes" => "peak of tensors [bytes]",
        "resident_bytes" => "resident memory [bytes]",
        "seconds" => "time of a step [s]",
        other => other,
    };
    label.to_owned()
}

/// Means of runs of so many points.
fn smoothed(points: &[(f64, f64)], window: usize) -> Vec<(f64, f64)> {
    let mean = |part: &[(f64, f64)]| {
        let n = part.len() as f64;
        let sum = |of: fn(&(f64, f64)) -> f64| part.iter().map(of).sum::<f64>();
        (sum(|p| p.0) / n, sum(|p| p.1) / n)
    };
    points.chunks(window).map(mean).collect()
}
