//! Joining the files of all chunks into one.

use super::error::SampleError;
use super::lines::{self, Recovery};
use super::row::{SampleKey, SampleRow};
use llavar_data::write::write_whole;
use std::collections::HashMap;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

/// What a merge found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Merged {
    /// One row for each answered question, in the task's order.
    pub rows: Vec<SampleRow>,
    /// Chunk files that are not there.
    pub absent: Vec<PathBuf>,
    /// Questions without an answer, in the task's order.
    pub missing: Vec<SampleKey>,
    /// Answers to questions that the task does not have: a longer run's, or those of pictures that are not there
    /// now. In the order in which they were found.
    pub unknown: Vec<SampleRow>,
    /// Questions that several files answer; the first file counts.
    pub repeated: Vec<SampleKey>,
    /// Those of [`Merged::repeated`] whose texts differ.
    pub different: Vec<SampleKey>,
    /// What was wrong in each file that was not in order.
    pub recoveries: Vec<(PathBuf, Recovery)>,
}

/// Joins the rows of `files`, in the order of `questions`.
///
/// The result does not depend on how the questions were split or in which order they were answered.
/// Nothing is written, so a chunk that still runs is not disturbed.
///
/// # Errors
/// [`SampleError::Io`]; [`SampleError::OtherRun`] where the files are of different runs.
pub fn merge(files: &[PathBuf], questions: &[SampleKey]) -> Result<Merged, SampleError> {
    let mut merged = Merged::default();
    let mut found: HashMap<SampleKey, SampleRow> = HashMap::new();
    let mut order: Vec<SampleKey> = Vec::new();
    let mut run: Option<String> = None;
    for path in files {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                merged.absent.push(path.clone());
                continue;
            }
            Err(source) => {
                return Err(SampleError::Io {
                    path: path.clone(),
                    source,
                });
            }
        };
        let lines = lines::parse(&bytes);
        if let Some((_, first)) = lines.rows.first() {
            let run = run.get_or_insert_with(|| first.run.clone());
            lines.check_run(path, run)?;
        }
        if !lines.recovery.is_clean() {
            merged.recoveries.push((path.clone(), lines.recovery));
        }
        for (_, row) in lines.rows {
            let key = row.key();
            if let Some(known) = found.get(&key) {
                if known.text != row.text {
                    merged.different.push(key.clone());
                }
                merged.repeated.push(key);
            } else {
                order.push(key.clone());
                found.insert(key, row);
            }
        }
    }
    for key in questions {
        match found.remove(key) {
            Some(row) => merged.rows.push(row),
            None => merged.missing.push(key.clone()),
        }
    }
    merged.unknown = order
        .into_iter()
        .filter_map(|key| found.remove(&key))
        .collect();
    Ok(merged)
}

/// Keeps runs from appending to the file of a merge, from before it is read until it is written anew.
#[derive(Debug)]
pub struct MergeLock(#[expect(dead_code, reason = "held")] Option<File>);

impl MergeLock {
    /// Takes the lock; there may be no such file yet.
    ///
    /// # Errors
    /// [`SampleError::Locked`] where a run appends to `out`, whose answers would go into a file that is no longer
    /// there; [`SampleError::Io`].
    pub fn take(out: &Path) -> Result<Self, SampleError> {
        let path = || out.to_path_buf();
        let file = match File::open(out) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self(None)),
            Err(source) => {
                return Err(SampleError::Io {
                    path: path(),
                    source,
                });
            }
        };
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => Err(SampleError::Locked { path: path() }),
            _ => Ok(Self(Some(file))),
        }
    }
}

/// Writes all rows of a merge to `out`, aside and renamed; the unknown ones last, since nobody else may have them.
///
/// # Errors
/// [`SampleError::Io`].
pub fn write_merged(merged: &Merged, out: &Path, _lock: &MergeLock) -> Result<(), SampleError> {
    let io = |source| SampleError::Io {
        path: out.to_path_buf(),
        source,
    };
    write_whole(out, |file| {
        let mut rows = merged.rows.iter().chain(&merged.unknown);
        rows.try_for_each(|row| {
            serde_json::to_writer(&mut *file, row)?;
            file.write_all(b"\n")
        })
    })
    .map_err(io)
}
