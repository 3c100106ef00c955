//! Failures of scoring and selecting.

use std::path::PathBuf;

/// Why a selection step cannot go on. What was scored before is kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SelectError {
    /// A score that there is none of.
    #[error("unknown score {name:?}; known: ifd, vfd, mifd, ffd")]
    UnknownScore {
        /// The name given.
        name: String,
    },
    /// Scores of pictures from a model that takes none.
    #[error("this model takes no pictures, so it gives IFD alone: ask for --scores ifd")]
    NoVision,
    /// Scores of pictures from a server that does not give the losses of conversations with pictures.
    #[error(
        "the server does not score texts behind pictures, so it gives IFD alone: ask for --scores ifd \
         (asked for a small white picture: {reason})"
    )]
    ServerVision {
        /// What came of the attempt.
        reason: String,
    },
    /// The server failed for good; single texts that it refuses are rows with a reason.
    #[error("the server that scores cannot be used")]
    Server(#[source] llavar_client::ClientError),
    /// A template that has no questions.
    #[error("the template `plain` has no questions; give the template of the model's second stage")]
    PlainTemplate,
    /// A file that cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A journal of other settings.
    #[error(
        "{} was written with other settings ({field}: {found}, now {wanted}); give another --out or \
         remove it", path.display()
    )]
    OtherRun {
        /// The journal.
        path: PathBuf,
        /// What differs.
        field: &'static str,
        /// In the file.
        found: String,
        /// Asked for.
        wanted: String,
    },
    /// Another process writes to the journal.
    #[error("{} is in use by another process", path.display())]
    Locked {
        /// The journal.
        path: PathBuf,
    },
    /// A line of a journal that is no row.
    #[error("{}, line {line}: {reason}", path.display())]
    Line {
        /// The journal.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// A Parquet file that cannot be read or written.
    #[error("{}: {source}", path.display())]
    Parquet {
        /// The file.
        path: PathBuf,
        /// What the library says.
        source: parquet::errors::ParquetError,
    },
    /// A row of a Parquet file that is no row of scores.
    #[error("{}, row {row}: {reason}; is it a score file of `llavar select score`?", path.display())]
    Row {
        /// The file.
        path: PathBuf,
        /// Number of the row, from 0.
        row: usize,
        /// What is wrong.
        reason: String,
    },
    /// Files of a merge that do not belong together or do not cover the data.
    #[error("{}: {reason}", path.display())]
    Merge {
        /// The file at fault.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The data are not those that were scored.
    #[error(
        "{}, sample {record} (id {id}): not what was scored; score the data again", path.display()
    )]
    DataChanged {
        /// The data file.
        path: PathBuf,
        /// Number of the sample.
        record: usize,
        /// Id in the score file.
        id: String,
    },
    /// An option with an impossible value.
    #[error("{option}: {reason}")]
    Setting {
        /// The option.
        option: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The data set cannot be read.
    #[error(transparent)]
    Data(#[from] llavar_data::Error),
    /// The model failed.
    #[error(transparent)]
    Assistant(#[from] llavar_assistant::Error),
    /// A picture cannot be encoded for a page.
    #[error(transparent)]
    Image(#[from] llavar_image::ImageError),
    /// An operation failed.
    #[error(transparent)]
    Tensor(#[from] llavar_tensor::Error),
    /// The thread that reads the data is gone.
    #[error("the reading thread ended before its time")]
    Reader,
}
