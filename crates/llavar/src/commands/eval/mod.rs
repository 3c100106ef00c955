//! `llavar eval`: evaluate models on the benchmarks, or score answers that are there.

mod compare;
mod judge;
mod list;
mod merge;
mod ocr;
mod report;
mod run;
mod score;
mod show;
mod vqa;

use std::{io::ErrorKind, path::Path};

use llavar_eval::{
    compare::CompareError,
    results::ResultsError,
    run::{AnswerError, NotForServers, RunError},
    samples::{SampleError, Shard},
    score::ScoreError,
    tasks::{Task, TaskError, title},
};
use llavar_metrics::{Metric, UnknownMetric};
use llavar_tensor::collective::Launch;

use crate::{
    failure::{Class, Failure, Outcome},
    progress::note,
};

/// Evaluate models on the benchmarks, or score answers that are there.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List tasks, metrics and the files that are expected.
    List(list::Args),
    /// Ask a model the questions of benchmarks and score its answers.
    Run(Box<run::Args>),
    /// Answer a question file as LLaVA's model_vqa.py does, and report by kind of question.
    Vqa(vqa::Args),
    /// Score an answers file of any tool.
    Score(score::Args),
    /// Test whether two runs differ.
    Compare(compare::Args),
    /// Join the answers of several chunks or ranks, and score them.
    Merge(merge::Args),
    /// Show runs on a page: scores beside the published ones, and every question with its picture.
    Report(report::Args),
    /// Let a language model judge captions and open answers.
    Judge(judge::Args),
}

/// What to do where a server gave nothing at all.
const CHECK_SERVER: &str = "check that the server runs and that --endpoint has its address";

/// Runs the command.
pub(crate) fn run(command: Command) -> Outcome {
    match command {
        Command::List(args) => list::run(args),
        Command::Run(args) => run::run(*args),
        Command::Vqa(args) => vqa::run(args),
        Command::Score(args) => score::run(args),
        Command::Compare(args) => compare::run(args),
        Command::Merge(args) => merge::run(args),
        Command::Report(args) => report::run(args),
        Command::Judge(args) => judge::run(args),
    }
}

/// Flags of the commands that share work between processes.
#[derive(Debug, clap::Args)]
pub(crate) struct ShardFlags {
    /// Number of processes that share the questions; that of the launcher's ranks by default.
    #[arg(long, alias = "num_chunks", requires = "chunk_idx")]
    num_chunks: Option<usize>,
    /// Number of this process, from 0; its rank by default.
    #[arg(long, alias = "chunk_idx", requires = "num_chunks")]
    chunk_idx: Option<usize>,
}

impl ShardFlags {
    fn shard(&self) -> Outcome<Shard> {
        let (n, k) = match (self.num_chunks, self.chunk_idx) {
            (Some(n), Some(k)) => (n, k),
            _ => {
                let launch = launch()?;
                (launch.size, launch.rank)
            }
        };
        Shard::new(n, k).map_err(|error| Failure::new(Class::Usage, error))
    }
}

/// What a launcher says of this process.
fn launch() -> Outcome<Launch> {
    Launch::from_env().map_err(|error| Failure::new(Class::Usage, error))
}

/// Metrics by their names.
fn metrics(names: &[String]) -> Outcome<Vec<Metric>> {
    let parsed: Result<_, UnknownMetric> = names.iter().map(|name| name.parse()).collect();
    parsed
        .map_err(|error| Failure::new(Class::Usage, error).hint("`llavar eval list` explains them"))
}

/// One line about a task that is not whole or needs a remark.
fn announce(task: &Task) {
    note(format!(
        "{}: {} questions, {}",
        title(&task.name, &task.split),
        task.items.len(),
        task.missing.line()
    ));
    if let Some(remark) = task.note {
        note(format!("{}: {remark}", title(&task.name, &task.split)));
    }
}

/// Keeps the first questions of a task.
fn keep_first(task: &mut Task, limit: Option<usize>) {
    if let Some(limit) = limit {
        task.items.truncate(limit);
    }
}

/// What a path as typed lacks, before anything is opened.
fn must_exist(what: &str, path: &Path) -> Outcome {
    if path.exists() {
        return Ok(());
    }
    let message = format!("{what} {} does not exist", path.display());
    Err(Failure::new(Class::Data, message)
        .hint("check the path; it is taken from the present folder"))
}

impl From<TaskError> for Failure {
    fn from(error: TaskError) -> Self {
        use TaskError as E;
        let (class, hint) = match &error {
            E::UnknownTask { .. } => (
                Class::Usage,
                Some("`llavar eval list` shows every task with its files"),
            ),
            E::NoFolder { .. } => (
                Class::Data,
                Some("check the path; it is taken from the present folder"),
            ),
            E::NoLayout { .. } => (
                Class::Data,
                Some("give the benchmark's folder as published, or its annotation file"),
            ),
            E::NoSplit { .. } => (Class::Usage, None),
            E::NoReferences { .. } => (Class::Usage, Some("give --data DIR")),
            E::Json { .. } => (Class::Data, Some("correct the file at that place")),
            _ => (Class::Data, None),
        };
        Self::new(class, error).maybe_hint(hint)
    }
}

impl From<SampleError> for Failure {
    fn from(error: SampleError) -> Self {
        use SampleError as E;
        let class = match &error {
            // `Other` is our own: what lies there is no file.
            E::Io { source, .. }
                if matches!(source.kind(), ErrorKind::NotFound | ErrorKind::Other) =>
            {
                Class::Data
            }
            E::Io { .. } | E::Broken { .. } => Class::Resource,
            E::Locked { .. } | E::OtherRun { .. } | E::Chunk { .. } | E::Environment { .. } => {
                Class::Usage
            }
            _ => Class::Data,
        };
        Self::new(class, error)
    }
}

impl From<ResultsError> for Failure {
    fn from(error: ResultsError) -> Self {
        match error {
            ResultsError::Write { path, source } => Self::write(path, &source),
            other => Self::new(Class::Data, other),
        }
    }
}

impl From<ScoreError> for Failure {
    fn from(error: ScoreError) -> Self {
        let hint = match &error {
            ScoreError::NoMatch { .. } => {
                "is it the right task and split? ids are looked for under question_id, id and similar keys"
            }
            _ => "give a split with references, and its pictures",
        };
        Self::new(Class::Data, error).hint(hint)
    }
}

impl From<CompareError> for Failure {
    fn from(error: CompareError) -> Self {
        Self::new(Class::Data, error)
    }
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Self {
        use RunError as E;
        match error {
            E::Samples(error) => error.into(),
            E::Results(error) => error.into(),
            E::Score(error) => error.into(),
            E::Answer(AnswerError::Assistant(error)) => error.into(),
            E::Answer(AnswerError::Server(error)) => error.into(),
            E::Answer(AnswerError::Other(error)) if error.is::<NotForServers>() => {
                Self::new(Class::Usage, error)
            }
            E::SettingsChanged { .. } => Self::new(Class::Usage, error)
                .hint("give another --out; answers of two settings are the result of neither"),
            E::NoQuestion { .. } => Self::new(Class::Usage, error)
                .hint("{question} stands for the question, for example --prompt 'Q: {question}'"),
            E::NoPictures { .. } => Self::new(Class::Data, error)
                .hint("--image-folder names the folder in which the pictures lie"),
            other => Self::new(Class::Data, other),
        }
    }
}
