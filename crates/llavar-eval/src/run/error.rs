//! Why a run ends early.

use super::AnswerError;
use crate::results::ResultsError;
use crate::samples::SampleError;
use crate::score::ScoreError;
use std::path::PathBuf;

/// A run that cannot begin or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The file of answers.
    #[error(transparent)]
    Samples(#[from] SampleError),
    /// The files of results.
    #[error(transparent)]
    Results(#[from] ResultsError),
    /// Nothing can be scored.
    #[error(transparent)]
    Score(#[from] ScoreError),
    /// Whoever answers.
    #[error(transparent)]
    Answer(#[from] AnswerError),
    /// The folder holds answers that other settings gave.
    #[error("{folder} was begun with {setting} {found}, this run has {now}")]
    SettingsChanged {
        /// The column's folder.
        folder: PathBuf,
        /// The first setting that differs.
        setting: &'static str,
        /// Its value there.
        found: String,
        /// Its value now.
        now: String,
    },
    /// A prompt format without the question.
    #[error("the prompt format {format:?} has no {{question}}")]
    NoQuestion {
        /// As given.
        format: String,
    },
    /// The model folder cannot be read for its fingerprint.
    #[error("cannot read {path}")]
    Model {
        /// Folder or file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// No question has a picture.
    #[error(
        "task {task} ({split}): none of its {questions} questions has a picture that can be read"
    )]
    NoPictures {
        /// Name of the task.
        task: String,
        /// Split.
        split: String,
        /// Questions.
        questions: usize,
    },
}
