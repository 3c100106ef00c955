//! `llavar bench`: what this machine reaches, beside what it allows.

use std::path::PathBuf;

use llavar_bench::gpu::{self, BenchError, Options, Work};
use llavar_model::config::Preset;
use llavar_tensor::{Device, DeviceKind, Error};

use super::{print, print_json, write_file};
use crate::{
    failure::{Class, Failure, Outcome},
    progress::note,
};

/// Benchmarks.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Training step, vision tower, prefill and decoding of a model shape on one GPU, random weights.
    Gpu(GpuArgs),
}

/// Arguments of `bench gpu`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Every row is printed beside its floor: the time that its operations or bytes need at \
the rates measured on this card in the same run.\n\
Example: llavar bench gpu --out benches/results/h100.json"
)]
pub(crate) struct GpuArgs {
    /// Shape: nano, nano-768, phi3.5-3.8b, llama3.1-8b or vicuna1.5-13b.
    #[arg(long, default_value = "phi3.5-3.8b")]
    preset: String,
    /// Rows: vision, generate, select (scores of duos), docvqa (document questions), train (bf16 states),
    /// master (f32 master weights and moments), packing (samples of real lengths packed and padded).
    #[arg(long, value_delimiter = ',', default_value = "vision,generate,train")]
    work: Vec<String>,
    /// The GPU: cuda or cuda:N.
    #[arg(long, default_value = "cuda")]
    device: DeviceKind,
    /// Samples of a training step.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1024))]
    batch: u16,
    /// Text tokens of a training sample; its picture comes on top.
    #[arg(long, default_value_t = 224, value_parser = clap::value_parser!(u16).range(2..))]
    text: u16,
    /// Training steps that are timed.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..))]
    steps: u16,
    /// Tell on stderr where the time goes, kernel by kernel.
    #[arg(long)]
    profile: bool,
    /// Write the rows as JSON to this file too.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Print JSON on stdout instead of a table.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(command: Command) -> Outcome {
    let Command::Gpu(args) = command;
    let preset = Preset::by_name(&args.preset).map_err(|e| Failure::new(Class::Usage, e))?;
    let work = args
        .work
        .iter()
        .map(|name| work(name))
        .collect::<Result<_, _>>()?;
    let options = Options {
        preset,
        work,
        batch: args.batch.into(),
        text: args.text.into(),
        steps: args.steps.into(),
        profile: args.profile,
    };
    if args.device == DeviceKind::Cpu {
        return Err(
            Failure::usage("--device cpu: this benchmark needs a GPU").hint("give cuda or cuda:N")
        );
    }
    let (device, why) = Device::open(args.device).map_err(failure)?;
    if let Some(why) = why {
        return Err(failure(why));
    }
    let report = gpu::run(&device, &options, |what| note(what)).map_err(|e| match e {
        BenchError::Tensor(e) => failure(e),
        other => Failure::new(Class::Failure, other),
    })?;
    if let Some(path) = &args.out {
        let text = serde_json::to_string_pretty(&report)
            .map_err(|error| Failure::new(Class::Failure, error))?;
        write_file(path, (text + "\n").as_bytes())?;
    }
    if args.json {
        print_json(&report)
    } else {
        print(report.to_string())
    }
}

fn work(name: &str) -> Result<Work, Failure> {
    match name {
        "vision" => Ok(Work::Vision),
        "generate" => Ok(Work::Generate),
        "select" => Ok(Work::Select),
        "docvqa" => Ok(Work::DocVqa),
        "train" => Ok(Work::Train),
        "master" => Ok(Work::Master),
        "packing" => Ok(Work::Packing),
        _ => Err(
            Failure::usage(format!("`{name}` is no row of this benchmark"))
                .hint("there are vision, generate, select, docvqa, train, master and packing"),
        ),
    }
}

fn failure(error: Error) -> Failure {
    let hint = match &error {
        Error::NoDevice { .. } => Some("this benchmark needs an NVIDIA GPU with its driver"),
        Error::OutOfMemory { .. } => Some("take a smaller --batch, or fewer rows with --work"),
        _ => None,
    };
    Failure::new(Class::Failure, error).maybe_hint(hint)
}
