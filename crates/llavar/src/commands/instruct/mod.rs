//! `llavar instruct`: captions and duos out of pictures, OCR and a language model.

mod export;
mod failures;
mod prompts;
mod review;
mod run;
mod select;
mod text;

use crate::failure::Outcome;

/// Build instruction data from pictures.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Turn pictures, human captions and OCR into detail-enriched captions and duos of questions.
    Run(Box<run::Args>),
    /// Serve a local page on which people accept, edit or reject duos.
    Review(review::Args),
    /// Write the data set of a run again, after reviews or in other forms.
    Export(export::Args),
    /// Write the prompts to a folder, to change them.
    Prompts(prompts::Args),
}

/// Runs the command.
pub(crate) fn run(command: Command) -> Outcome {
    match command {
        Command::Run(args) => run::run(*args),
        Command::Review(args) => review::run(args),
        Command::Export(args) => export::run(args),
        Command::Prompts(args) => prompts::run(args),
    }
}
