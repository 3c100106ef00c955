//! Why answers cannot be kept or read.

use std::path::PathBuf;

/// A file of answers that cannot be used at all.
///
/// Faults of single lines are counted and named in the reports instead.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SampleError {
    /// The operating system refused.
    #[error("cannot access {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another process writes the file.
    #[error("{path} is being written by another process; give each process its own chunk")]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// The file was begun with other settings, so its answers cannot be completed with these.
    #[error(
        "{path}:{line}: the answers there are of run {found:?}, this is run {expected:?}; \
         write to another file, or remove this one"
    )]
    OtherRun {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Run of the row.
        found: String,
        /// Run that is being continued.
        expected: String,
    },
    /// A row was to be written to a file of another run.
    #[error(
        "{path}: the row of question {question_id:?} is of run {found:?}, the file of {expected:?}"
    )]
    RowOfOtherRun {
        /// The file.
        path: PathBuf,
        /// The question.
        question_id: String,
        /// Run of the row.
        found: String,
        /// Run of the file.
        expected: String,
    },
    /// A question was answered a second time, in another way.
    #[error(
        "{path}: question {question_id:?} of task {task:?} is answered already, with another text"
    )]
    AlreadyAnswered {
        /// The file.
        path: PathBuf,
        /// Name of the task.
        task: String,
        /// The question.
        question_id: String,
    },
    /// A write failed and what it left could not be removed; the store takes no more rows.
    #[error("{path}: an earlier write failed half way; open the file again to repair it")]
    Broken {
        /// The file.
        path: PathBuf,
    },
    /// A chunk number out of range.
    #[error("chunk {chunk_idx} of {num_chunks} does not exist; chunks count from 0")]
    Chunk {
        /// Number of the chunk.
        chunk_idx: usize,
        /// Number of chunks.
        num_chunks: usize,
    },
    /// A variable of the launcher is not a number.
    #[error("environment variable {name}={value:?} is not a number")]
    Environment {
        /// Its name.
        name: &'static str,
        /// Its value.
        value: String,
    },
    /// A JSON file of answers cannot be parsed.
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
    /// No answer at all.
    #[error("{path} holds no answer{}", first.as_ref().map(|f| format!("; first fault: {f}")).unwrap_or_default())]
    NoAnswers {
        /// The file.
        path: PathBuf,
        /// The first line that was refused, with its reason.
        first: Option<String>,
    },
}

/// Why one line or row is left out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LineFault {
    /// The bytes are not UTF-8.
    #[error("not UTF-8")]
    NotUtf8,
    /// Not JSON, or JSON without the fields of a row.
    #[error("{reason}")]
    NotARow {
        /// What the parser said.
        reason: String,
    },
    /// No field that names the question.
    #[error("no question id; looked for {}", super::answers::ID_KEYS.join(", "))]
    NoId,
    /// No field with an answer.
    #[error("no answer; looked for {}", super::answers::TEXT_KEYS.join(", "))]
    NoText,
}

/// A line (of JSONL) or the line on which a row of an array starts, from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadLine {
    /// Line, from 1.
    pub line: usize,
    /// Why.
    pub fault: LineFault,
}

impl std::fmt::Display for BadLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "line {}: {}", self.line, self.fault)
    }
}
