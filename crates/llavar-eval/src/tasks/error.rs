//! Why a benchmark cannot be opened.

use std::path::PathBuf;

/// A benchmark that cannot be opened at all.
///
/// What is wrong with single questions or pictures is no error: it is counted and named in
/// [`super::Missing`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TaskError {
    /// No benchmark has this name.
    #[error("unknown task {name:?}; did you mean {}? known tasks: {}", nearest.join(" or "), known.join(", "))]
    UnknownTask {
        /// The name as given.
        name: String,
        /// The nearest known names, best first.
        nearest: Vec<&'static str>,
        /// All known names.
        known: Vec<&'static str>,
    },
    /// The folder of the benchmark does not exist.
    #[error("task {task}: there is no folder or file {path}")]
    NoFolder {
        /// Name of the benchmark.
        task: &'static str,
        /// As given.
        path: PathBuf,
    },
    /// Nothing below the folder looks like the benchmark.
    #[error("task {task}: nothing below {folder} has its layout; expected {layout}")]
    NoLayout {
        /// Name of the benchmark.
        task: &'static str,
        /// As given.
        folder: PathBuf,
        /// What was looked for.
        layout: &'static str,
    },
    /// The benchmark is there, the split is not.
    #[error("task {task}: there is no split {split:?} below {folder}; found: {}", found.join(", "))]
    NoSplit {
        /// Name of the benchmark.
        task: &'static str,
        /// As asked for.
        split: String,
        /// As given.
        folder: PathBuf,
        /// Splits that are there.
        found: Vec<&'static str>,
    },
    /// The annotations were read and hold no question.
    #[error("task {task}: no question could be read from {path}{}", first.as_ref().map(|f| format!("; first fault: {f}")).unwrap_or_default())]
    NoQuestions {
        /// Name of the benchmark.
        task: &'static str,
        /// The (first) annotation file or folder.
        path: PathBuf,
        /// The first row that was refused, with its reason.
        first: Option<String>,
    },
    /// Answers were to be scored without the benchmark, and do not repeat its references.
    #[error(
        "task {task}: no row of {path} has references (gt, answers, ...): the benchmark's folder is needed"
    )]
    NoReferences {
        /// Name of the benchmark.
        task: &'static str,
        /// The answers file.
        path: PathBuf,
    },
    /// An annotation file is not JSON.
    #[error("{path}:{line}: not valid JSON at column {column}: {reason}")]
    Json {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What the parser said.
        reason: String,
    },
    /// An annotation file is JSON of another form.
    #[error("{path}: expected {expected}")]
    Form {
        /// The file.
        path: PathBuf,
        /// What should stand there.
        expected: &'static str,
    },
    /// The operating system refused.
    #[error("cannot read {path}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Why one row of an annotation file is left out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RowFault {
    /// The row is not a JSON object, or not JSON at all.
    #[error("{reason}")]
    NotAnObject {
        /// What stands there, or what the parser said.
        reason: String,
    },
    /// A key is absent or null.
    #[error("key {key:?} is missing")]
    MissingKey {
        /// The key.
        key: &'static str,
    },
    /// A value has another type.
    #[error("key {key:?} is not {expected}")]
    WrongType {
        /// The key.
        key: &'static str,
        /// What is needed.
        expected: &'static str,
    },
    /// A conversation that [`llavar_data::Sample`] refuses.
    #[error("{0}")]
    Sample(#[from] llavar_data::SampleError),
    /// A question needs one picture.
    #[error("the row names {images} pictures; a question needs one")]
    ImageCount {
        /// Pictures of the row.
        images: usize,
    },
    /// A label line without a label.
    #[error("the line holds no picture and word")]
    LabelLine,
    /// A file that cannot be read as text or JSON.
    #[error("{reason}")]
    Unreadable {
        /// What was wrong.
        reason: String,
    },
}

/// A row (or a label file) that was left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadRow {
    /// File and row (from 0) or line (from 1), as text.
    pub at: String,
    /// Why.
    pub fault: RowFault,
}

impl std::fmt::Display for BadRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.at, self.fault)
    }
}
