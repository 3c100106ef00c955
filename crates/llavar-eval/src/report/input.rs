//! Reading run folders, whatever state they are in.

use crate::judge::{JudgeResult, JudgedRow, read_judged};
use crate::results::{RESULTS_FILE, ResultsError, RunResult, SCORED_FILE, ScoredRow, read_result};
use crate::run::columns;
use std::path::{Path, PathBuf};

/// One task asked in one way, with its scores.
#[derive(Debug, Clone)]
pub struct ReportColumn {
    /// The folder.
    pub folder: PathBuf,
    /// Its `results.json`.
    pub result: RunResult,
    /// Its `scored.jsonl`.
    pub rows: Vec<ScoredRow>,
    /// What language models said of the answers.
    pub judged: Vec<(JudgeResult, Vec<JudgedRow>)>,
}

/// A run: one model, any number of tasks.
#[derive(Debug, Clone)]
pub struct ReportRun {
    /// Name in the report.
    pub name: String,
    /// What was scored, in alphabetical order of the folders.
    pub columns: Vec<ReportColumn>,
    /// What could not be used, a line each.
    pub faults: Vec<String>,
}

/// Nothing to report on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// A file or folder cannot be read.
    #[error(transparent)]
    Results(#[from] ResultsError),
    /// The folder has no results.
    #[error("{folder} holds no scored answers{}", first.as_ref().map(|f| format!(": {f}")).unwrap_or_default())]
    NothingScored {
        /// The folder.
        folder: PathBuf,
        /// What was found instead.
        first: Option<String>,
    },
}

impl ReportRun {
    /// Reads a run folder, or the folder of one task in it. A folder or row that cannot be used is a
    /// fault of the run, not an error.
    ///
    /// # Errors
    /// [`ReportError`] where nothing of it can be used.
    pub fn open(folder: &Path) -> Result<Self, ReportError> {
        let mut run = Self {
            name: name_of(folder),
            columns: Vec::new(),
            faults: Vec::new(),
        };
        for (_, column) in columns(folder)? {
            run.open_column(&column);
        }
        if run.columns.is_empty() {
            return Err(ReportError::NothingScored {
                folder: folder.to_path_buf(),
                first: run.faults.into_iter().next(),
            });
        }
        Ok(run)
    }

    fn open_column(&mut self, folder: &Path) {
        let name = name_of(folder);
        if !folder.join(RESULTS_FILE).is_file() {
            let fault = format!("{name}: answers that are not scored yet (no {RESULTS_FILE})");
            self.faults.push(fault);
            return;
        }
        let result = match read_result(&folder.join(RESULTS_FILE)) {
            Ok(result) => result,
            Err(error) => return self.faults.push(format!("{name}: {error}")),
        };
        let rows = match read_scored(&folder.join(SCORED_FILE)) {
            Ok((rows, None)) => rows,
            Ok((rows, Some(fault))) => {
                self.faults.push(format!("{name}: {fault}"));
                rows
            }
            // The scores stand without the questions.
            Err(error) => {
                let why = error.to_string();
                self.faults.push(format!(
                    "{name}: no questions to show: {SCORED_FILE}: {why}"
                ));
                Vec::new()
            }
        };
        let judged = read_judged(folder).unwrap_or_else(|error| {
            self.faults
                .push(format!("{name}: verdicts left out: {error}"));
            Vec::new()
        });
        self.columns.push(ReportColumn {
            folder: folder.to_path_buf(),
            result,
            rows,
            judged,
        });
    }
}

fn name_of(folder: &Path) -> String {
    // `.` and `..` have no name of their own.
    let full = folder
        .canonicalize()
        .unwrap_or_else(|_| folder.to_path_buf());
    full.file_name()
        .unwrap_or(full.as_os_str())
        .to_string_lossy()
        .into_owned()
}

/// The rows that can be read, and what is wrong with the others in one line.
fn read_scored(path: &Path) -> std::io::Result<(Vec<ScoredRow>, Option<String>)> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(std::io::Error::other("not a regular file"));
    }
    let bytes = std::fs::read(path)?;
    let mut rows = Vec::new();
    let (mut not_utf8, mut not_rows, mut first) = (0usize, 0usize, None);
    for (at, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let why = match std::str::from_utf8(line) {
            Err(_) => {
                not_utf8 += 1;
                "not UTF-8".to_owned()
            }
            Ok(text) => match serde_json::from_str(text) {
                Ok(row) => {
                    rows.push(row);
                    continue;
                }
                Err(error) => {
                    not_rows += 1;
                    error.to_string()
                }
            },
        };
        first.get_or_insert(format!("line {}: {why}", at + 1));
    }
    let fault = first.map(|first| {
        format!(
            "{} line(s) of {SCORED_FILE} left out: {not_utf8} not UTF-8, {not_rows} no scored row (first: {first}); \
             score again with `llavar eval score`",
            not_utf8 + not_rows
        )
    });
    Ok((rows, fault))
}
