//! Why a model cannot be written.

use std::{
    io,
    path::{Path, PathBuf},
};

use thiserror::Error;

use crate::weights::WeightsError;

/// Failure to write a model.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SaveError {
    /// No room is left; what was there before is untouched.
    #[error(
        "the disk is full: {path} could not be written ({needed} bytes needed, {written} written so far); the \
         previous version, if any, is untouched",
        path = path.display()
    )]
    DiskFull {
        /// The file or folder.
        path: PathBuf,
        /// Bytes asked for.
        needed: u64,
        /// Bytes written before.
        written: u64,
    },
    /// Any other failure of the system.
    #[error("cannot write {path}: {source}", path = path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A weight could not be copied from its device.
    #[error("a weight cannot be read: {0}")]
    Tensor(llavar_tensor::Error),
    /// The target exists and overwriting was not asked for.
    #[error("{path} exists already, give another folder or allow overwriting", path = path.display())]
    Exists {
        /// The target.
        path: PathBuf,
    },
    /// The target exists and is not a model folder, so it is not replaced.
    #[error("{path} exists and is no model folder (it has no config.json), it is not replaced", path = path.display())]
    NotModelFolder {
        /// The target.
        path: PathBuf,
    },
    /// A file name that is not a plain name.
    #[error("`{name}` is not a file name")]
    FileName {
        /// The name.
        name: String,
    },
    /// The list of tensors has a name twice.
    #[error("tensor `{name}` is listed twice")]
    Twice {
        /// The tensor.
        name: String,
    },
    /// A tensor's size overflows.
    #[error("tensor `{name}` of shape {shape:?} is too large")]
    TooLarge {
        /// The tensor.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// Another number of bytes was given for a tensor than its shape needs.
    #[error("tensor `{name}` needs {expected} bytes, {got} were given")]
    TensorLength {
        /// The tensor.
        name: String,
        /// Bytes by shape and type.
        expected: usize,
        /// Bytes given (at least, when too many).
        got: usize,
    },
    /// The tensors could not be read from where they come.
    #[error(transparent)]
    Weights(#[from] WeightsError),
}

impl SaveError {
    pub(super) fn io(path: &Path, source: io::Error) -> Self {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        let path = path.to_owned();
        if matches!(source.kind(), StorageFull | QuotaExceeded | FileTooLarge) {
            Self::DiskFull {
                path,
                needed: 0,
                written: 0,
            }
        } else {
            Self::Io { path, source }
        }
    }
}
