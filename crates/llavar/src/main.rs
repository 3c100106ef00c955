//! The `llavar` program: argument parsing and printing, nothing else.

#![forbid(unsafe_code)]

mod commands;
mod device;
mod failure;
mod faults;
mod hints;
mod interrupt;
mod progress;
mod sampling;
mod server;
mod shipped;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// LLaVAR-2: build, train and use models that read text-rich images.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failure, 2 wrong command line or recipe, 3 wrong data or \
model files, 4 out of disk or memory or a file that cannot be written, 130 interrupted after saving.\n\
Start with `llavar quickstart`: it needs nothing but this program.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Ask the shipped model about pictures drawn on the spot; --train makes a tiny one in minutes.
    Quickstart(commands::quickstart::Args),
    /// Make an untrained model folder.
    Init(commands::init::Args),
    /// Make, import and measure data sets.
    #[command(subcommand)]
    Data(commands::data::Command),
    /// Train a model: stage 1 (pretrain) or stage 2 (sft).
    Train(commands::train::Args),
    /// Plan a training run: what fits on the GPUs, how long it takes, what it costs.
    Plan(commands::plan::Args),
    /// See, check, keep and rate the checkpoints of a run.
    #[command(subcommand)]
    Checkpoint(commands::checkpoint::Command),
    /// Look at training runs: list, compare, plot, a page, exports.
    #[command(subcommand)]
    Runs(commands::runs::Command),
    /// Work on model folders: merge adapters, 8-bit weights, the default model.
    #[command(subcommand)]
    Model(commands::model::Command),
    /// Ask one question about one or more pictures.
    Ask(commands::ask::Args),
    /// Talk about pictures in the terminal.
    Chat(commands::chat::Args),
    /// Answer over HTTP: OpenAI's chat interface, and a page to ask from.
    Serve(commands::serve::Args),
    /// Evaluate models on the benchmarks, or score answers that are there.
    #[command(subcommand)]
    Eval(commands::eval::Command),
    /// Read text off pictures.
    #[command(subcommand)]
    Ocr(commands::ocr::Command),
    /// Score training data with a model and keep what helps.
    #[command(subcommand)]
    Select(commands::select::Command),
    /// Build instruction data: captions and duos of questions from pictures, OCR and a language model.
    #[command(subcommand)]
    Instruct(commands::instruct::Command),
    /// Measure what this machine reaches, beside what it allows.
    #[command(subcommand)]
    Bench(commands::bench::Command),
}

fn main() -> ExitCode {
    interrupt::file_size_limit_is_an_error();
    let command = Cli::parse().command;
    let done = faults::guarded(|| match command {
        Command::Quickstart(args) => commands::quickstart::run(args),
        Command::Init(args) => commands::init::run(args),
        Command::Data(command) => commands::data::run(command),
        Command::Train(args) => commands::train::run(args),
        Command::Plan(args) => commands::plan::run(args),
        Command::Checkpoint(command) => commands::checkpoint::run(command),
        Command::Runs(command) => commands::runs::run(command),
        Command::Model(command) => commands::model::run(command),
        Command::Ask(args) => commands::ask::run(args),
        Command::Chat(args) => commands::chat::run(args),
        Command::Serve(args) => commands::serve::run(args),
        Command::Eval(command) => commands::eval::run(command),
        Command::Ocr(command) => commands::ocr::run(command),
        Command::Select(command) => commands::select::run(command),
        Command::Instruct(command) => commands::instruct::run(command),
        Command::Bench(command) => commands::bench::run(command),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.is_silent() {
                progress::note(failure.to_string());
            }
            ExitCode::from(failure.exit_code())
        }
    }
}
