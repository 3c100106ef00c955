//! `llavar eval list`: tasks, metrics and layouts.

use llavar_eval::tasks::{TaskInfo, task_infos};
use llavar_metrics::{Aggregate, Metric};
use serde::Serialize;

use crate::{
    commands::{print, print_json},
    failure::Outcome,
};

/// List tasks, metrics and the files that are expected.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print JSON on stdout.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct MetricInfo {
    name: &'static str,
    version: u32,
    aggregate: &'static str,
}

#[derive(Debug, Serialize)]
struct Listing {
    tasks: Vec<TaskInfo>,
    metrics: Vec<MetricInfo>,
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Outcome {
    let listing = Listing {
        tasks: task_infos(),
        metrics: Metric::ALL
            .iter()
            .map(|metric| MetricInfo {
                name: metric.name(),
                version: metric.version(),
                aggregate: match metric.aggregate() {
                    Aggregate::Mean => "mean",
                    Aggregate::Sum => "sum",
                    Aggregate::Corpus => "corpus",
                },
            })
            .collect(),
    };
    if args.json {
        return print_json(&listing);
    }
    let mut text = String::from("Tasks\n");
    for task in &listing.tasks {
        let suffix = task.prompt_suffix.trim();
        text += &format!(
            "  {}\n      files    {}\n      metrics  {}\n      prompt   question{}; at most {} new tokens\n",
            task.name,
            task.layout,
            task.metrics.join(", "),
            if suffix.is_empty() {
                String::new()
            } else {
                format!(", then {suffix:?}")
            },
            task.max_new_tokens,
        );
        if !task.aliases.is_empty() {
            text += &format!("      also     {}\n", task.aliases.join(", "));
        }
    }
    text += "\nA task may name its split: docvqa_val, sroie_train.\n\nMetrics (version, how rows become one value)\n";
    for metric in &listing.metrics {
        text += &format!(
            "  {:<28} v{}, {}\n",
            metric.name, metric.version, metric.aggregate
        );
    }
    print(text)
}
