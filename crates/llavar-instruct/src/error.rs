//! What stops a run.

use std::path::PathBuf;

/// Why the work cannot go on. Everything that was paid for is in the journal.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InstructError {
    /// A file that cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A folder without pictures.
    #[error("{} has no pictures (JPEG, PNG, WebP, GIF, BMP, TIFF)", folder.display())]
    NoPictures {
        /// The folder.
        folder: PathBuf,
    },
    /// A file of captions that is none.
    #[error("{}: {reason}", path.display())]
    Captions {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        reason: String,
    },
    /// A prompt file that cannot be used.
    #[error("prompt {}: {reason}", path.display())]
    Prompt {
        /// The file, or the name of an embedded prompt.
        path: PathBuf,
        /// What is wrong, and where.
        reason: String,
    },
    /// A journal line that is no entry.
    #[error("{}, line {line}: {reason}", path.display())]
    Line {
        /// The journal.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// Another process writes to the journal.
    #[error("{} is in use by another process", path.display())]
    Locked {
        /// The journal.
        path: PathBuf,
    },
    /// The server cannot be used at all.
    #[error(transparent)]
    Client(#[from] llavar_client::ClientError),
    /// The server fails again and again.
    #[error("{failures} pictures in a row failed; the last: {last}")]
    ServerGone {
        /// Pictures.
        failures: usize,
        /// Why the last one failed.
        last: String,
    },
    /// Writing the data set failed.
    #[error(transparent)]
    Data(#[from] llavar_data::Error),
}

impl InstructError {
    /// For `map_err` on a path.
    pub(crate) fn io(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |source| Self::Io {
            path: path.to_path_buf(),
            source,
        }
    }
}
