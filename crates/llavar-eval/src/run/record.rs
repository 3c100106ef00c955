//! What a column's folder says of itself, and finding columns.

use crate::results::{
    ResultsError, RunSettings, SAMPLES_FILE, SCORED_FILE, SETTINGS_FILE, read_json,
};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The content of `run.json`: what decided the answers, and where the questions are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// What decided the answers.
    #[serde(flatten)]
    pub settings: RunSettings,
    /// Where the questions are.
    pub source: DataSource,
}

/// Where the questions of a run are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataSource {
    /// The benchmark's folder or file.
    pub data: PathBuf,
    /// Where the pictures lie, if not in the benchmark's own layout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_folder: Option<PathBuf>,
    /// Only the first questions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

/// The record of a column's folder; none where there is no `run.json`.
///
/// # Errors
/// [`ResultsError::Read`], [`ResultsError::Form`].
pub fn read_record(folder: &Path) -> Result<Option<RunRecord>, ResultsError> {
    let path = folder.join(SETTINGS_FILE);
    if path.exists() {
        read_json(&path).map(Some)
    } else {
        Ok(None)
    }
}

/// The columns below a folder with their names, in alphabetical order: the folder itself if it is one
/// (its name is then empty), else its subfolders. A column has a `run.json`, answers or scored rows.
///
/// # Errors
/// [`ResultsError::Read`] where the folder cannot be listed.
pub fn columns(folder: &Path) -> Result<Vec<(String, PathBuf)>, ResultsError> {
    let is_column = |path: &Path| {
        let has = |name: &str| path.join(name).is_file();
        [SETTINGS_FILE, SAMPLES_FILE, SCORED_FILE]
            .iter()
            .any(|name| has(name))
    };
    if is_column(folder) {
        return Ok(vec![(String::new(), folder.to_path_buf())]);
    }
    let read = |source| ResultsError::Read {
        path: folder.to_path_buf(),
        source,
    };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(read)? {
        let path = entry.map_err(read)?.path();
        if path.is_dir() && is_column(&path) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            found.push((name.into_owned(), path));
        }
    }
    found.sort();
    Ok(found)
}
