//! The append-only file of scored rows: a killed run goes on where it was.
//!
//! The first line holds the [`RunInfo`], every other one a [`ScoreRow`] and the mark of its pictures. The
//! rows of a batch are appended in one write; a process killed at any moment leaves at most one unfinished
//! line, which the next opening cuts off. A later row of the same key replaces an earlier one.
//!
//! Rows without a mark (of earlier versions, without pictures, or with pictures from the network) are kept
//! whatever became of their pictures: to score those anew, remove the journal.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions, TryLockError},
    io::{Read, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{RowKey, RunInfo, ScoreRow, SelectError};

/// A row as a line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Entry {
    #[serde(flatten)]
    pub(crate) row: ScoreRow,
    /// What its pictures were, see [`crate::pictures::mark`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pictures: Option<String>,
}

/// An open journal.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    entries: HashMap<RowKey, Entry>,
    /// Bytes up to the end of the last whole line.
    end: u64,
}

impl Journal {
    /// Where the journal of a score file lies: `scores.parquet` has `scores.journal.jsonl`.
    pub fn path_of(out: &Path) -> PathBuf {
        out.with_extension("journal.jsonl")
    }

    /// Opens or creates a journal of these settings.
    ///
    /// # Errors
    /// [`SelectError::Io`], [`SelectError::Locked`], [`SelectError::OtherRun`], [`SelectError::Line`].
    pub fn open(path: &Path, info: &RunInfo) -> Result<Self, SelectError> {
        let io = |source| SelectError::Io {
            path: path.to_path_buf(),
            source,
        };
        if let Ok(found) = std::fs::metadata(path)
            && !found.is_file()
        {
            return Err(io(std::io::Error::other("not a regular file")));
        }
        if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).map_err(io)?;
        }
        let mut options = OpenOptions::new();
        let options = options.read(true).append(true).create(true);
        let mut file = options.open(path).map_err(io)?;
        // Some network file systems have no locks; one writer a file is then the user's care.
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            return Err(SelectError::Locked {
                path: path.to_path_buf(),
            });
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(io)?;
        let mut journal = Self {
            path: path.to_path_buf(),
            file,
            entries: HashMap::new(),
            end: 0,
        };
        journal.read(&bytes, info)?;
        if journal.end < bytes.len() as u64 {
            journal.file.set_len(journal.end).map_err(io)?;
        }
        if journal.end == 0 {
            let mut line = serde_json::to_vec(info).map_err(|e| io(e.into()))?;
            line.push(b'\n');
            journal.write(&line)?;
            journal.sync()?;
        }
        Ok(journal)
    }

    fn read(&mut self, bytes: &[u8], info: &RunInfo) -> Result<(), SelectError> {
        for (i, line) in bytes.split_inclusive(|b| *b == b'\n').enumerate() {
            // Cut off while it was written.
            let Some(text) = line.strip_suffix(b"\n") else {
                break;
            };
            let bad = |error: serde_json::Error| SelectError::Line {
                path: self.path.clone(),
                line: i + 1,
                reason: error.to_string(),
            };
            if i == 0 {
                let found: RunInfo = serde_json::from_slice(text).map_err(bad)?;
                if let Some((field, found, wanted)) = found.difference(info) {
                    return Err(SelectError::OtherRun {
                        path: self.path.clone(),
                        field,
                        found,
                        wanted,
                    });
                }
            } else {
                let entry: Entry = serde_json::from_slice(text).map_err(bad)?;
                self.entries.insert(entry.row.key(), entry);
            }
            self.end += line.len() as u64;
        }
        Ok(())
    }

    /// Its rows, in no order.
    pub fn rows(&self) -> impl Iterator<Item = &ScoreRow> {
        self.entries.values().map(|entry| &entry.row)
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Hands rows to the system: they outlast this process, and a failure of power after [`Journal::sync`].
    ///
    /// # Errors
    /// [`SelectError::Io`], after which the file ends in its last whole line.
    pub(crate) fn append(&mut self, entries: Vec<Entry>) -> Result<(), SelectError> {
        let mut bytes = Vec::new();
        for entry in &entries {
            serde_json::to_writer(&mut bytes, entry).map_err(|error| self.io(error.into()))?;
            bytes.push(b'\n');
        }
        self.write(&bytes)?;
        let keyed = entries.into_iter().map(|entry| (entry.row.key(), entry));
        self.entries.extend(keyed);
        Ok(())
    }

    /// Waits until all that was appended is on disk.
    ///
    /// # Errors
    /// [`SelectError::Io`].
    pub(crate) fn sync(&self) -> Result<(), SelectError> {
        self.file.sync_data().map_err(|source| self.io(source))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), SelectError> {
        match self.file.write_all(bytes) {
            Ok(()) => {
                self.end += bytes.len() as u64;
                Ok(())
            }
            Err(source) => {
                // A full disk takes half a line; what follows must not be glued to it.
                let _ = self.file.set_len(self.end);
                Err(self.io(source))
            }
        }
    }

    fn io(&self, source: std::io::Error) -> SelectError {
        SelectError::Io {
            path: self.path.clone(),
            source,
        }
    }
}
