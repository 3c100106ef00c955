//! `llavar select`: score training data with a model and keep what helps.

mod pick;
mod report;
mod score;
mod server;

use llavar_select::SelectError;

use crate::failure::{Class, Failure, Outcome};

/// Score training data with a model and keep what helps.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Measure IFD, VFD, mIFD and FFD of every question-answer pair.
    Score(score::Args),
    /// Join the score files of several ranks.
    Merge(score::MergeArgs),
    /// Keep the pairs that help: by limits, rank, quotas and near-duplicates.
    Pick(pick::Args),
    /// Show scores, and a pick of them, on a page.
    Report(report::Args),
}

/// Runs the command.
pub(crate) fn run(command: Command) -> Outcome {
    match command {
        Command::Score(args) => score::run(args),
        Command::Merge(args) => score::merge(args),
        Command::Pick(args) => pick::run(args),
        Command::Report(args) => report::run(args),
    }
}

impl From<SelectError> for Failure {
    fn from(error: SelectError) -> Self {
        use SelectError as E;
        match error {
            E::Data(error) => error.into(),
            E::Assistant(error) => error.into(),
            E::Image(error) => error.into(),
            E::Server(error) => server::failure(error),
            E::Tensor(error @ llavar_tensor::Error::OutOfMemory { .. }) => {
                Self::new(Class::Resource, error)
                    .hint("give a smaller --batch-tokens; what was scored before is kept")
            }
            E::Tensor(error) => error.into(),
            E::Io { path, source } => match source.kind() {
                std::io::ErrorKind::NotFound => {
                    Self::new(Class::Data, format!("{}: {source}", path.display()))
                        .hint("check the path; it is taken from the present folder")
                }
                _ => Self::write(path, &source),
            },
            E::UnknownScore { .. }
            | E::NoVision
            | E::ServerVision { .. }
            | E::PlainTemplate
            | E::OtherRun { .. }
            | E::Locked { .. }
            | E::Setting { .. } => Self::new(Class::Usage, error),
            E::Reader => Self::new(Class::Failure, error),
            _ => Self::new(Class::Data, error),
        }
    }
}
