//! `llavar eval compare`: test whether two runs differ.

use std::path::{Path, PathBuf};

use llavar_eval::{
    compare::{Comparison, DRAWS, compare},
    results::{SCORED_FILE, Unit, read_rows},
    run::columns,
};
use serde::Serialize;

use super::must_exist;
use crate::{
    commands::{no_pipe, print, print_json},
    failure::{Class, Failure, Outcome},
    progress::note,
};

/// Test whether two runs differ.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: llavar eval compare runs/eval-a runs/eval-b\n\
\n\
Questions are paired by task and id. The standard error is clustered by picture; the interval\n\
is a bootstrap over pictures; p comes from random swaps of A and B picture by picture. Draws\n\
have a fixed seed. A and B are run folders, folders of one task in them (to set OCR on against\n\
off), or scored.jsonl files.")]
pub(crate) struct Args {
    /// A run.
    a: PathBuf,
    /// The other.
    b: PathBuf,
    /// Print JSON on stdout.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Named {
    name: String,
    #[serde(flatten)]
    comparison: Comparison,
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Outcome {
    let (a, b) = (scored(&args.a)?, scored(&args.b)?);
    let pairs: Vec<(String, &PathBuf, &PathBuf)> = match (a.as_slice(), b.as_slice()) {
        ([(name, a)], [(_, b)]) => vec![(name.clone(), a, b)],
        _ => {
            for (name, _) in &a {
                if !b.iter().any(|(other, _)| other == name) {
                    note(format!("{name} is in A only"));
                }
            }
            for (name, _) in &b {
                if !a.iter().any(|(other, _)| other == name) {
                    note(format!("{name} is in B only"));
                }
            }
            let both = a.iter().filter_map(|(name, a)| {
                let (_, b) = b.iter().find(|(other, _)| other == name)?;
                Some((name.clone(), a, b))
            });
            both.collect()
        }
    };
    if pairs.is_empty() {
        let message = format!(
            "{} and {} have no task in common",
            args.a.display(),
            args.b.display()
        );
        return Err(Failure::new(Class::Data, message)
            .hint("give the folders of the two tasks that are to be compared"));
    }
    let mut compared = Vec::new();
    for (name, a, b) in pairs {
        let comparison = compare(&read_rows(a)?, &read_rows(b)?)?;
        compared.push(Named { name, comparison });
    }
    if args.json {
        return print_json(&compared);
    }
    let mut text = String::new();
    for Named { name, comparison } in &compared {
        text += &shown(name, comparison);
    }
    print(text + &legend())
}

/// What the numbers are.
fn legend() -> String {
    format!(
        "B - A in points where the metric is in %, else in the metric's own unit, ± one standard error\n\
         over pictures (– where there is only one), 95 % interval, p of no difference ({DRAWS} draws\n\
         each).\n"
    )
}

/// The columns of a path that can be compared.
fn scored(path: &Path) -> Outcome<Vec<(String, PathBuf)>> {
    no_pipe(path)?;
    must_exist("run", path)?;
    if !path.is_dir() {
        return Ok(vec![(String::new(), path.to_path_buf())]);
    }
    let (found, unscored): (Vec<_>, Vec<_>) = columns(path)?
        .into_iter()
        .partition(|(_, folder)| folder.join(SCORED_FILE).is_file());
    for (_, folder) in &unscored {
        note(format!("{}: not scored yet", folder.display()));
    }
    if found.is_empty() {
        let message = format!("{} holds no results", path.display());
        return Err(Failure::new(Class::Data, message)
            .hint("`llavar eval run`, `eval merge` and `eval score --out` write them"));
    }
    Ok(found)
}

fn shown(name: &str, comparison: &Comparison) -> String {
    let mut text = String::new();
    if !name.is_empty() {
        text += &format!("{name}\n");
    }
    for metric in &comparison.metrics {
        let unit = Unit::of_mean(&metric.metric);
        let (decimals, suffix) = (unit.decimals, unit.suffix);
        let [a, b, difference, low, high] = [
            metric.a,
            metric.b,
            metric.difference,
            metric.interval[0],
            metric.interval[1],
        ]
        .map(|value| unit.scale * value);
        text += &format!(
            "  {:<20} A {a:.decimals$}{suffix}  B {b:.decimals$}{suffix}  B - A {difference:+.decimals$} {}  \
             [{low:+.decimals$}, {high:+.decimals$}]  p {:.4}\n    \
             {} better, {} worse of {} questions, {} pictures\n",
            metric.metric,
            unit.shown_error(metric.standard_error),
            metric.p,
            metric.better,
            metric.worse,
            metric.pairs,
            metric.images,
        );
    }
    for (count, what) in [
        (comparison.only_in_a, "questions are in A only"),
        (comparison.only_in_b, "questions are in B only"),
        (
            comparison.unlike,
            "questions have another picture or other references in B",
        ),
    ] {
        if count > 0 {
            text += &format!("  {count} {what}\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn not_every_difference_is_in_points() {
        let text = legend();
        assert!(text.contains("the metric's own unit"), "{text}");
        assert!(text.lines().all(|l| l.chars().count() <= 100), "{text}");
    }
}
