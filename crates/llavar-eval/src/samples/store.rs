//! The append-only file of answers that survives being killed.

use super::error::SampleError;
use super::lines::{self, Lines, Recovery};
use super::row::{SampleKey, SampleRow};
use crate::tasks::{Item, Task};
use std::collections::HashMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// An open `samples.jsonl`.
///
/// A row is on disk (written in one call and synced) when [`SampleStore::append`] returns. A process
/// killed at any moment leaves whole rows and at most one unfinished line, which the next
/// [`SampleStore::open`] cuts off. Nothing else is ever rewritten.
#[derive(Debug)]
pub struct SampleStore {
    path: PathBuf,
    run: String,
    file: File,
    /// Length of the file up to the last whole row, bytes.
    end: u64,
    rows: Vec<SampleRow>,
    keys: HashMap<SampleKey, usize>,
    broken: bool,
}

impl SampleStore {
    /// Opens or creates the file and repairs its end.
    ///
    /// `run` is the fingerprint of the settings ([`SampleRow::run`]): a file with rows of another run
    /// is refused, because a mixture would be the result of neither.
    ///
    /// The file is locked until the store is dropped or the process ends.
    ///
    /// # Errors
    /// [`SampleError::Io`], [`SampleError::Locked`], [`SampleError::OtherRun`].
    pub fn open(path: &Path, run: &str) -> Result<(Self, Recovery), SampleError> {
        let io = |source| SampleError::Io {
            path: path.to_path_buf(),
            source,
        };
        if let Ok(metadata) = std::fs::metadata(path)
            && !metadata.is_file()
        {
            return Err(io(std::io::Error::other("not a regular file")));
        }
        if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            std::fs::create_dir_all(parent).map_err(io)?;
        }
        let mut options = OpenOptions::new();
        let mut file = options
            .read(true)
            .append(true)
            .create(true)
            .open(path)
            .map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(SampleError::Locked {
                    path: path.to_path_buf(),
                });
            }
            // Some network file systems have no locks; one writer a file is then the user's care.
            Err(TryLockError::Error(_)) => {}
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(io)?;
        let Lines {
            rows,
            keys,
            recovery,
            end,
        } = {
            let lines = lines::parse(&bytes);
            lines.check_run(path, run)?;
            lines
        };
        let mut store = Self {
            path: path.to_path_buf(),
            run: run.to_string(),
            file,
            end: end as u64,
            rows: rows.into_iter().map(|(_, row)| row).collect(),
            keys,
            broken: false,
        };
        match recovery.torn {
            Some(torn) if torn.kept => store.write(b"\n")?,
            Some(_) => store.cut().map_err(io)?,
            None => {}
        }
        Ok((store, recovery))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Rows that count, in the order in which they were written.
    pub fn rows(&self) -> &[SampleRow] {
        &self.rows
    }

    /// Whether the question is answered.
    pub fn contains(&self, task: &str, question_id: &str) -> bool {
        self.keys
            .contains_key(&(task.to_string(), question_id.to_string()))
    }

    /// Those of `items` that are not answered yet, in their order.
    pub fn left<'a>(
        &self,
        task: &Task,
        items: impl IntoIterator<Item = &'a Item>,
    ) -> Vec<&'a Item> {
        let items = items.into_iter();
        items
            .filter(|item| !self.contains(&task.name, &item.id))
            .collect()
    }

    /// Writes one row.
    ///
    /// # Errors
    /// See [`SampleStore::append_all`].
    pub fn append(&mut self, row: SampleRow) -> Result<(), SampleError> {
        self.append_all(vec![row])
    }

    /// Writes rows in one call. Rows that are there already with the same text are passed over.
    ///
    /// # Errors
    /// [`SampleError::AlreadyAnswered`] for a second, different answer and
    /// [`SampleError::RowOfOtherRun`], before anything is written; [`SampleError::Io`], after which
    /// the file ends in its last whole row.
    pub fn append_all(&mut self, rows: Vec<SampleRow>) -> Result<(), SampleError> {
        let mut bytes = Vec::new();
        let mut new: Vec<SampleRow> = Vec::new();
        for row in rows {
            if row.run != self.run {
                return Err(SampleError::RowOfOtherRun {
                    path: self.path.clone(),
                    question_id: row.question_id,
                    found: row.run,
                    expected: self.run.clone(),
                });
            }
            let key = row.key();
            let known = self.keys.get(&key).map(|&at| &self.rows[at]);
            let known = known.or_else(|| new.iter().find(|other| other.key() == key));
            match known {
                Some(known) if known.text == row.text => continue,
                Some(_) => {
                    return Err(SampleError::AlreadyAnswered {
                        path: self.path.clone(),
                        task: key.0,
                        question_id: key.1,
                    });
                }
                None => {}
            }
            serde_json::to_writer(&mut bytes, &row).map_err(|error| SampleError::Io {
                path: self.path.clone(),
                source: error.into(),
            })?;
            bytes.push(b'\n');
            new.push(row);
        }
        if new.is_empty() {
            return Ok(());
        }
        self.write(&bytes)?;
        for row in new {
            self.keys.insert(row.key(), self.rows.len());
            self.rows.push(row);
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), SampleError> {
        if self.broken {
            return Err(SampleError::Broken {
                path: self.path.clone(),
            });
        }
        let written = self
            .file
            .write_all(bytes)
            .and_then(|()| self.file.sync_data());
        match written {
            Ok(()) => {
                self.end += bytes.len() as u64;
                Ok(())
            }
            Err(source) => {
                // A full disk takes half a line; the next row must not be glued to it.
                self.broken = self.cut().is_err();
                Err(SampleError::Io {
                    path: self.path.clone(),
                    source,
                })
            }
        }
    }

    /// Removes everything after the last whole row.
    fn cut(&mut self) -> std::io::Result<()> {
        self.file.set_len(self.end)?;
        self.file.seek(SeekFrom::End(0))?;
        self.file.sync_data()
    }
}
