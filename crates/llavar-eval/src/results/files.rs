//! Reading and writing the files of a run folder.

use super::{RunResult, SAMPLES_FILE, SCORED_FILE, ScoredRow};
use llavar_data::write::write_whole;
use serde::{Serialize, de::DeserializeOwned};
use std::io::Write;
use std::path::{Path, PathBuf};

/// A file of results that cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResultsError {
    /// It cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It cannot be written.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is not what it should be.
    #[error("{path}:{line}: {reason}; `llavar eval score --out DIR` writes such files")]
    Form {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What the parser said.
        reason: String,
    },
}

/// Reads a `results.json`.
///
/// # Errors
/// [`ResultsError::Read`], [`ResultsError::Form`].
pub fn read_result(path: &Path) -> Result<RunResult, ResultsError> {
    read_json(path)
}

/// Reads a value that [`write_json`] wrote.
///
/// # Errors
/// [`ResultsError::Read`], [`ResultsError::Form`].
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, ResultsError> {
    parse(path, &read(path)?)
}

/// Reads scored rows: a `scored.jsonl`, or the one in a run folder.
///
/// # Errors
/// [`ResultsError::Read`]; [`ResultsError::Form`] with the line of the first row that is none.
pub fn read_rows(path: &Path) -> Result<Vec<ScoredRow>, ResultsError> {
    if path.is_dir() {
        read_rows_of(&path.join(SCORED_FILE))
    } else {
        read_rows_of(path)
    }
}

/// Reads the rows that [`write_rows`] wrote.
///
/// # Errors
/// As [`read_rows`].
pub fn read_rows_of<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, ResultsError> {
    let bytes = read(path)?;
    let lines = bytes.split(|byte| *byte == b'\n').enumerate();
    lines
        .filter(|(_, line)| !line.trim_ascii().is_empty())
        .map(|(at, line)| {
            serde_json::from_slice(line).map_err(|error| ResultsError::Form {
                path: path.to_path_buf(),
                line: at + 1,
                reason: if path.ends_with(SAMPLES_FILE) {
                    format!("{error} (answers without scores)")
                } else {
                    error.to_string()
                },
            })
        })
        .collect()
}

/// Writes a value as JSON, aside and renamed.
///
/// # Errors
/// [`ResultsError::Write`].
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<(), ResultsError> {
    write(path, |out| {
        serde_json::to_writer_pretty(&mut *out, value)?;
        out.write_all(b"\n")
    })
}

/// Writes one JSON line a value, aside and renamed.
///
/// # Errors
/// [`ResultsError::Write`].
pub fn write_rows<T: Serialize>(path: &Path, rows: &[T]) -> Result<(), ResultsError> {
    write(path, |out| {
        rows.iter().try_for_each(|row| {
            serde_json::to_writer(&mut *out, row)?;
            out.write_all(b"\n")
        })
    })
}

fn write(
    path: &Path,
    body: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
) -> Result<(), ResultsError> {
    write_whole(path, body).map_err(|source| ResultsError::Write {
        path: path.to_path_buf(),
        source,
    })
}

fn read(path: &Path) -> Result<Vec<u8>, ResultsError> {
    let read = |source| ResultsError::Read {
        path: path.to_path_buf(),
        source,
    };
    if !std::fs::metadata(path).map_err(read)?.is_file() {
        return Err(read(std::io::Error::other("not a regular file")));
    }
    std::fs::read(path).map_err(read)
}

fn parse<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T, ResultsError> {
    serde_json::from_slice(bytes).map_err(|error| ResultsError::Form {
        path: path.to_path_buf(),
        line: error.line(),
        reason: error.to_string(),
    })
}
