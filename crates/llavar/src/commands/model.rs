//! `llavar model`: what is done with model folders.

use std::path::PathBuf;

use llavar_model::{
    LlavaModel, ModelError,
    lora::{Adapter, merge_folder},
    quantize_folder,
    weights::{Dtype, FolderWriter, SaveOptions},
};
use serde::Serialize;

use super::{is_same, no_pipe, no_pipe_in_model, print, print_json};
use crate::{
    failure::{Failure, Outcome},
    progress::note,
    shipped,
};

/// Subcommands.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Merge a LoRA or DoRA adapter into its base and write a plain model folder.
    Merge(MergeArgs),
    /// Write a model folder with its matrices in 8 bits: half the size of bf16, read by every command.
    Quantize(QuantizeArgs),
    /// Make a model folder the one that is used where none is named.
    Install(InstallArgs),
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
    #[arg(long, value_name = "f32|bf16|f16", value_parser = super::dtype)]
    dtype: Option<Dtype>,
    /// Merge into the base's own weights also where the adapter was trained on 4-bit ones.
    #[arg(long)]
    original_weights: bool,
    /// Print a JSON object instead of a line.
    #[arg(long)]
    json: bool,
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
        Command::Quantize(args) => quantize(args),
        Command::Install(args) => install(args),
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

/// Write a model folder with its matrices in 8 bits: half the size of bf16, read by every command.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: llavar model quantize runs/sft/model --out models/small\n\
Matrices become codes of 8 bits with one f32 scale a row (compressed-tensors' int-quantized: NAME and NAME_scale);\n\
norms, biases, stems, embeddings of patches and places and depthwise kernels stay as they are stored. They are\n\
widened as they are read, so commands compute with all bits and training from such a folder is possible."
)]
pub(crate) struct QuantizeArgs {
    /// Model folder.
    model: PathBuf,
    /// Folder to make; it must not exist yet.
    #[arg(long)]
    out: PathBuf,
    /// Largest weight file, MB (10^6 bytes).
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u64).range(1..))]
    max_shard_mb: u64,
    /// Print a JSON object instead of a line.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct QuantizeReport {
    out: PathBuf,
    parameters: usize,
    parameters_in_8_bits: usize,
    relative_error: f64,
    weight_bytes_before: u64,
    folder_bytes: u64,
}

fn quantize(args: QuantizeArgs) -> Outcome {
    no_pipe_in_model(&args.model)?;
    let max_shard_bytes = args.max_shard_mb.saturating_mul(1_000_000);
    let done = quantize_folder(&args.model, &args.out, max_shard_bytes)?;
    let parameters = done.elements + done.others;
    if args.json {
        return print_json(&QuantizeReport {
            out: args.out,
            parameters,
            parameters_in_8_bits: done.elements,
            relative_error: done.relative_error,
            weight_bytes_before: done.bytes_before,
            folder_bytes: done.bytes,
        });
    }
    print(format!(
        "{}: {:.1} of {:.1} M parameters in 8 bits (relative error {:.2} %), {:.1} MB; the weights had {:.1} MB\n",
        args.out.display(),
        done.elements as f64 / 1e6,
        parameters as f64 / 1e6,
        100.0 * done.relative_error,
        done.bytes as f64 / 1e6,
        done.bytes_before as f64 / 1e6,
    ))
}

/// Make a model folder the one that is used where none is named.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: llavar model install models/llavar-nano\n\
The folder is checked and copied into the user's data folder (XDG_DATA_HOME or ~/.local/share), so that a program\n\
that was installed finds it without the checkout. Without MODEL: the llavar-nano that this program finds.")]
pub(crate) struct InstallArgs {
    /// Model folder.
    model: Option<PathBuf>,
}

fn install(args: InstallArgs) -> Outcome {
    let from = args.model.or_else(shipped::find).ok_or_else(|| {
        Failure::usage("no llavar-nano is found")
            .hint("name a model folder: llavar model install DIR")
    })?;
    let to = shipped::installed().ok_or_else(|| {
        Failure::usage("there is no data folder: neither XDG_DATA_HOME nor HOME is set")
    })?;
    no_pipe_in_model(&from)?;
    if Adapter::is_at(&from) {
        let message = format!("{} is an adapter and no whole model", from.display());
        return Err(Failure::usage(message).hint("merge it first: llavar model merge"));
    }
    if is_same(&from, &to) {
        note("it is there already");
        return print(format!("{}\n", to.display()));
    }
    // What cannot be used is not put where every command would take it.
    drop(LlavaModel::load(&from)?);
    let options = SaveOptions {
        overwrite: true,
        ..SaveOptions::default()
    };
    let mut writer = FolderWriter::create(&to, options).map_err(ModelError::from)?;
    writer.copy_folder(&from).map_err(ModelError::from)?;
    writer.finish().map_err(ModelError::from)?;
    print(format!("{}\n", to.display()))
}
