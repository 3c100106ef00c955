//! Joining the files of all chunks into one.

use super::error::SampleError;
use super::lines::{self, Recovery};
use super::row::{SampleKey, SampleRow};
use llavar_data::write::write_whole;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// What a merge found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Merged {
    /// Rows of the merged file.
    pub rows: usize,
    /// Chunk files that are not there.
    pub absent: Vec<PathBuf>,
    /// Questions without an answer, in the task's order.
    pub missing: Vec<SampleKey>,
    /// Answers to questions that the task does not have; left out.
    pub unknown: Vec<SampleKey>,
    /// Questions that several files answer; the first file counts.
    pub repeated: Vec<SampleKey>,
    /// Those of [`Merged::repeated`] whose texts differ.
    pub different: Vec<SampleKey>,
    /// What was wrong in each file that was not in order.
    pub recoveries: Vec<(PathBuf, Recovery)>,
}

/// Joins `files` into `out`, in the order of `questions`, and writes it aside and renames it.
///
/// The result does not depend on how the questions were split or in which order they were answered.
/// The files themselves are not changed, so a chunk that still runs is not disturbed.
///
/// # Errors
/// [`SampleError::Io`]; [`SampleError::OtherRun`] where the files are of different runs.
pub fn merge(
    files: &[PathBuf],
    questions: &[SampleKey],
    out: &Path,
) -> Result<Merged, SampleError> {
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
    let mut rows = Vec::with_capacity(questions.len());
    for key in questions {
        match found.remove(key) {
            Some(row) => rows.push(row),
            None => merged.missing.push(key.clone()),
        }
    }
    merged.unknown = order
        .into_iter()
        .filter(|key| found.contains_key(key))
        .collect();
    merged.rows = rows.len();
    write_whole(out, |file| {
        rows.iter().try_for_each(|row| {
            serde_json::to_writer(&mut *file, row)?;
            file.write_all(b"\n")
        })
    })
    .map_err(|source| SampleError::Io {
        path: out.to_path_buf(),
        source,
    })?;
    Ok(merged)
}
