//! `llavar runs compare`.

use std::path::PathBuf;

use llavar_train::runs::{Comparison, Run, compare};
use serde_json::json;

use super::{columns, duration, list::gib, names, open, shown};
use crate::{
    commands::{print, print_json},
    failure::Outcome,
};

/// Set runs side by side: settings that differ, figures, losses.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: llavar runs compare runs/a runs/b")]
pub(crate) struct Args {
    /// Run folders; the others are compared with the first.
    #[arg(required = true, num_args = 2..)]
    runs: Vec<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// A figure of a run.
type Figure = (&'static str, fn(&Run) -> Option<f64>);

const FIGURES: [Figure; 9] = [
    ("steps", |run| Some(run.progress().0 as f64)),
    ("final loss [nats/token]", Run::final_loss),
    ("tokens/s, median", |run| run.median("tokens_per_second")),
    ("images/s, median", |run| run.median("images_per_second")),
    ("MFU, median [%]", |run| run.median("mfu_percent")),
    ("data wait, median [%]", |run| {
        run.median("data_wait_percent")
    }),
    ("peak memory [GiB]", |run| {
        run.most("tensor_peak_bytes").map(gib)
    }),
    ("steps skipped", |run| Some(total(run, "skipped"))),
    ("spikes", |run| Some(total(run, "spike"))),
];

fn total(run: &Run, key: &str) -> f64 {
    // No `sum`: that of nothing is -0.
    let values = run.values(key).into_iter();
    values.fold(0.0, |sum, (_, value)| sum + value)
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Outcome {
    let runs = open(&args.runs)?;
    let comparison = compare(&runs);
    let names = names(&runs);
    if args.json {
        let figures: Vec<_> = FIGURES
            .iter()
            .map(|(name, of)| json!({"name": name, "values": runs.iter().map(of).collect::<Vec<_>>()}))
            .collect();
        return print_json(&json!({
            "runs": names,
            "figures": figures,
            "recipe": comparison.recipe,
            "losses": comparison.losses,
        }));
    }
    print(text(&runs, &names, &comparison))
}

fn text(runs: &[Run], names: &[String], comparison: &Comparison) -> String {
    let head = || [vec![String::new()], names.to_vec()].concat();
    let mut rows = vec![head()];
    for (name, of) in FIGURES {
        let values = runs.iter().map(|run| shown(of(run), 4));
        rows.push([vec![name.to_owned()], values.collect()].concat());
    }
    let times = runs.iter().map(|run| duration(run.seconds()));
    rows.push([vec!["time".to_owned()], times.collect()].concat());
    let mut text = columns(&rows);
    text.push_str("\nsettings that differ:");
    if comparison.recipe.is_empty() {
        text.push_str(" none\n");
    } else {
        text.push('\n');
        let mut rows = vec![head()];
        for (key, values) in &comparison.recipe {
            let values = values.iter().map(|value| match value {
                serde_json::Value::Null => "-".to_owned(),
                other => other.to_string(),
            });
            rows.push([vec![key.clone()], values.collect()].concat());
        }
        text.push_str(&columns(&rows));
    }
    for (name, d) in names.iter().skip(1).zip(&comparison.losses) {
        let first = &names[0];
        text.push_str(&match (d.steps, d.first_step) {
            (0, _) => format!("\n{name} and {first} have no logged step in common\n"),
            (steps, None) => format!("\n{name}: the losses of all {steps} common steps are those of {first}, to the bit\n"),
            (steps, Some(step)) => format!(
                "\n{name} against {first}, {steps} common steps: losses differ from step {step} on, by at most {} at step \
                 {}; over the last tenth by {:+.4} nats/token\n",
                shown(Some(d.largest), 3),
                d.largest_step.unwrap_or(step),
                d.at_the_end.unwrap_or(0.0)
            ),
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_total_of_nothing_has_no_minus() {
        let dir = tempfile::tempdir().unwrap();
        let log = "{\"step\":1,\"loss\":2.0}\n";
        std::fs::write(dir.path().join("train.jsonl"), log).unwrap();
        let run = Run::open(dir.path()).unwrap();
        assert_eq!(json!(total(&run, "spike")).to_string(), "0.0");
    }
}
