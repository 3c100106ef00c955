//! `llavar runs export`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use llavar_train::runs::wandb;

use super::open;
use crate::{
    commands::{print, write_file},
    failure::{Failure, Outcome},
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
        let files = wandb(&run).files();
        only_over_an_export(&args.wandb, &files)?;
        // The script, by which an export is known, comes first: one that was broken off can be repeated.
        for (name, text) in files.iter().rev() {
            write_file(&args.wandb.join(name), text.as_bytes())?;
        }
    }
    print(format!(
        "{}\nlog it with: python {} --project NAME [--offline]\n",
        args.wandb.display(),
        args.wandb.join("log.py").display()
    ))
}

/// Refuses to write over files of another origin: the folder of a model has a config.json too.
fn only_over_an_export(folder: &Path, files: &[(&str, String)]) -> Outcome {
    // What the script says of itself does not change with its code.
    let is_ours = |(name, text): &(&str, String)| {
        let found = fs::read_to_string(folder.join(name)).unwrap_or_default();
        *name == "log.py" && found.lines().take(2).eq(text.lines().take(2))
    };
    let mut there = files.iter().map(|(name, _)| folder.join(name));
    match there.find(|path| path.exists()) {
        Some(path) if !files.iter().any(is_ours) => {
            let message = format!(
                "--wandb would write over {}, which is of no earlier export",
                path.display()
            );
            Err(Failure::usage(message).hint("give another --wandb"))
        }
        _ => Ok(()),
    }
}
