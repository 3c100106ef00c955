//! `llavar runs export`.

use std::path::PathBuf;

use llavar_train::runs::wandb;

use super::open;
use crate::{
    commands::{print, write_file},
    failure::Outcome,
};

/// Write a run in the form that another program takes.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: llavar runs export runs/sft --wandb wandb-sft && python wandb-sft/log.py --project receipts\n\
TensorBoard needs no export: tensorboard --logdir runs"
)]
pub(crate) struct Args {
    /// Run folder.
    run: PathBuf,
    /// Write config.json, history.jsonl, summary.json and log.py, which logs them to Weights & Biases (with
    /// --offline into a folder for `wandb sync`), into this folder.
    #[arg(long, value_name = "DIR", required = true)]
    wandb: PathBuf,
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Outcome {
    for run in open(&[args.run])? {
        for (name, text) in wandb(&run).files() {
            write_file(&args.wandb.join(name), text.as_bytes())?;
        }
    }
    print(format!(
        "{}\nlog it with: python {} --project NAME [--offline]\n",
        args.wandb.display(),
        args.wandb.join("log.py").display()
    ))
}
