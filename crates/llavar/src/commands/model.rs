//! `llavar model`: what is done with model folders.

use std::path::PathBuf;

use llavar_model::{
    lora::{Adapter, merge_folder},
    weights::Dtype,
};
use serde::Serialize;

use super::{no_pipe, no_pipe_in_model, print, print_json};
use crate::{failure::Outcome, progress::note};

/// Subcommands.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Merge a LoRA or DoRA adapter into its base and write a plain model folder.
    Merge(MergeArgs),
}

/// Merge a LoRA or DoRA adapter into its base and write a plain model folder.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: llavar model merge --adapter runs/lora/model --out models/merged\n\
An adapter that was trained on 4-bit weights is merged into the values that they stand for."
)]
pub(crate) struct MergeArgs {
    /// Base model folder; where it is not given, the one that the adapter names.
    #[arg(long)]
    base: Option<PathBuf>,
    /// Adapter folder: of a run, of PEFT or of LLaVA.
    #[arg(long)]
    adapter: PathBuf,
    /// Folder to make; it must not exist yet.
    #[arg(long)]
    out: PathBuf,
    /// Element type of the written weights; that of the base by default.
    #[arg(long, value_name = "f32|bf16|f16", value_parser = dtype)]
    dtype: Option<Dtype>,
    /// Merge into the base's own weights also where the adapter was trained on 4-bit ones.
    #[arg(long)]
    original_weights: bool,
    /// Print a JSON object instead of a line.
    #[arg(long)]
    json: bool,
}

fn dtype(text: &str) -> Result<Dtype, String> {
    match text {
        "f32" => Ok(Dtype::F32),
        "bf16" => Ok(Dtype::BF16),
        "f16" => Ok(Dtype::F16),
        _ => Err("there are f32, bf16 and f16".into()),
    }
}

#[derive(Debug, Serialize)]
struct Report {
    out: PathBuf,
    base: PathBuf,
    adapter: PathBuf,
    kind: &'static str,
    layers: usize,
    replaced_weights: usize,
    dequantized: bool,
    dtype: String,
}

/// Runs the command.
pub(crate) fn run(command: Command) -> Outcome {
    match command {
        Command::Merge(args) => merge(args),
    }
}

fn merge(args: MergeArgs) -> Outcome {
    no_pipe(&args.adapter.join("adapter_config.json"))?;
    no_pipe_in_model(&args.adapter)?;
    let adapter = Adapter::open(&args.adapter)?;
    let base = match args.base {
        Some(base) => base,
        None => adapter.base()?,
    };
    no_pipe_in_model(&base)?;
    let done = merge_folder(
        &base,
        &adapter,
        &args.out,
        args.dtype,
        args.original_weights,
    )?;
    let kind = if done.dora { "DoRA" } else { "LoRA" };
    if done.dequantized {
        note(
            "the adapter was trained on 4-bit weights: the base's were rounded to them and widened again before \
             merging, so the merged model computes what was trained (--original-weights takes the base's own)",
        );
    }
    if args.json {
        return print_json(&Report {
            out: args.out,
            base,
            adapter: args.adapter,
            kind,
            layers: done.layers,
            replaced_weights: done.replaced,
            dequantized: done.dequantized,
            dtype: done.dtype.name().to_lowercase(),
        });
    }
    print(format!(
        "{}: {kind} of {} layers merged into {}, {} weights replaced, {}\n",
        args.out.display(),
        done.layers,
        base.display(),
        done.replaced,
        done.dtype.name().to_lowercase()
    ))
}
