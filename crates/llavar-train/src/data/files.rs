//! The files that an entry of `data_path` stands for.

use std::path::{Path, PathBuf};

use crate::{TrainError, stage::glob};

const KINDS: [&str; 6] = ["json", "jsonl", "ndjson", "parquet", "pq", "tar"];

/// A file itself; all data files of a folder; or the files of a folder whose names fit a pattern with `*`
/// or `?`. Sorted by name.
pub(crate) fn expand(entry: &str) -> Result<Vec<PathBuf>, TrainError> {
    let path = Path::new(entry);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let is_pattern = name.contains(['*', '?']) && !path.exists();
    if !is_pattern && !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let folder = match path.parent().filter(|_| is_pattern) {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    };
    let fits = |found: &Path| {
        let own = found.file_name().unwrap_or_default().to_string_lossy();
        let kind = found.extension().unwrap_or_default().to_string_lossy();
        match is_pattern {
            true => glob(&name, &own),
            false => KINDS.contains(&&*kind),
        }
    };
    let mut files = Vec::new();
    for found in std::fs::read_dir(folder).map_err(TrainError::io(folder))? {
        let found = found.map_err(TrainError::io(folder))?.path();
        if found.is_file() && fits(&found) {
            files.push(found);
        }
    }
    if files.is_empty() {
        return Err(TrainError::Setting {
            key: "data.data_path",
            reason: format!(
                "{entry} stands for no file (looked for {})",
                KINDS.join(", ")
            ),
        });
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_and_patterns() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b-01.parquet", "b-00.parquet", "a.jsonl", "notes.txt"] {
            std::fs::write(dir.path().join(name), "x").unwrap();
        }
        let names = |entry: &str| -> Vec<String> {
            let found = expand(&dir.path().join(entry).display().to_string()).unwrap();
            found
                .iter()
                .map(|p| p.file_name().unwrap().to_string_lossy().into_owned())
                .collect()
        };
        assert_eq!(names(""), ["a.jsonl", "b-00.parquet", "b-01.parquet"]);
        assert_eq!(names("b-*.parquet"), ["b-00.parquet", "b-01.parquet"]);
        assert_eq!(names("nowhere.json"), ["nowhere.json"]);
        let empty = dir.path().join("z*").display().to_string();
        assert!(expand(&empty).unwrap_err().to_string().contains("no file"));
    }
}
