//! A run as Weights & Biases takes it: configuration, history, and a script that logs them.
//!
//! The format of its own offline folders is internal and changes; what stays is its Python interface. So the export
//! is plain JSON and a script of a few lines that logs it, online or into an offline folder for `wandb sync`.

use serde_json::{Map, Value, json};

use super::Run;

/// Names in the log and as the field calls them.
pub(crate) const NAMES: [(&str, &str); 14] = [
    ("loss", "train/loss"),
    ("learning_rate", "train/learning_rate"),
    ("grad_norm", "train/grad_norm"),
    ("epoch", "train/epoch"),
    ("tokens_per_second", "train/tokens_per_second"),
    (
        "supervised_tokens_per_second",
        "train/supervised_tokens_per_second",
    ),
    ("images_per_second", "train/images_per_second"),
    ("mfu_percent", "train/mfu_percent"),
    ("data_wait_percent", "train/data_wait_percent"),
    ("tensor_peak_bytes", "train/tensor_peak_bytes"),
    ("resident_bytes", "train/resident_bytes"),
    ("seconds", "train/step_seconds"),
    ("loss_z", "train/loss_z"),
    ("grad_norm_z", "train/grad_norm_z"),
];

/// The files of an export.
#[derive(Debug, Clone, PartialEq)]
pub struct WandbFiles {
    /// `config.json`: the recipe by section, and what is known of the run.
    pub config: Value,
    /// `history.jsonl`: one object a step with `_step` and the values by their names in the field.
    pub history: Vec<Value>,
    /// `summary.json`: what a table of runs shows.
    pub summary: Value,
}

/// The script that logs an export.
const SCRIPT: &str = include_str!("wandb_log.py");

impl WandbFiles {
    /// The files by name.
    pub fn files(&self) -> Vec<(&'static str, String)> {
        let history = self.history.iter().map(|row| format!("{row}\n"));
        vec![
            ("config.json", format!("{:#}\n", self.config)),
            ("history.jsonl", history.collect()),
            ("summary.json", format!("{:#}\n", self.summary)),
            ("log.py", SCRIPT.to_owned()),
        ]
    }
}

/// The export of a run.
pub fn wandb(run: &Run) -> WandbFiles {
    let recipe = run.recipe.as_ref().map(serde_json::to_value);
    let recipe = recipe.and_then(Result::ok).unwrap_or_default();
    let mut config = recipe.as_object().cloned().unwrap_or_default();
    for key in [
        "device",
        "ranks",
        "zero_stage",
        "parameters",
        "trainable_parameters",
        "version",
    ] {
        if let Some(value) = run.fact(key) {
            config.insert(key.to_owned(), value.clone());
        }
    }
    let history = run.rows.iter().map(|row| {
        let mut object = Map::new();
        object.insert("_step".into(), row.step.into());
        for (key, name) in NAMES {
            if let Some(value) = row.values.get(key) {
                object.insert(name.into(), (*value).into());
            }
        }
        Value::Object(object)
    });
    let (step, total) = run.progress();
    WandbFiles {
        config: Value::Object(config),
        history: history.collect(),
        summary: json!({
            "name": run.name(),
            "status": run.status.as_str(),
            "step": step,
            "total_steps": total,
            "train/loss": run.final_loss(),
            "train/tokens_per_second": run.median("tokens_per_second"),
            "train/mfu_percent": run.median("mfu_percent"),
            "seconds": run.seconds(),
        }),
    }
}
