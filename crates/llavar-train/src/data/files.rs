//! The files that an entry of `data_path` stands for.

use std::path::{Path, PathBuf};

use llavar_data::remote::is_remote;

use crate::{TrainError, stage::glob};

/// A file itself, or the files of a folder whose names fit a pattern with `*` or `?`, sorted by name.
pub(crate) fn expand(entry: &str) -> Result<Vec<PathBuf>, TrainError> {
    let path = Path::new(entry);
    if is_remote(path) {
        // Servers do not list folders, and a question mark begins what signs the address.
        return Ok(vec![path.to_owned()]);
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if !name.contains(['*', '?']) || path.exists() {
        return Ok(vec![path.to_owned()]);
    }
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut files = Vec::new();
    for found in std::fs::read_dir(folder).map_err(TrainError::io(folder))? {
        let found = found.map_err(TrainError::io(folder))?.path();
        let own = found.file_name().unwrap_or_default().to_string_lossy();
        if glob(&name, &own) && found.is_file() {
            files.push(found);
        }
    }
    if files.is_empty() {
        return Err(TrainError::Setting {
            key: "data.data_path",
            reason: format!("no file fits {entry}"),
        });
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_stand_for_their_files_in_order() {
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
        assert_eq!(names("b-*.parquet"), ["b-00.parquet", "b-01.parquet"]);
        assert_eq!(names("nowhere.json"), ["nowhere.json"]);
        let empty = dir.path().join("z*").display().to_string();
        assert!(expand(&empty).unwrap_err().to_string().contains("no file"));
    }
}
