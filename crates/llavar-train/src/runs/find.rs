//! Run folders below a folder.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::RunError;

/// How deep below the folder runs are looked for: `runs/NAME/TIME`, and one more.
const DEPTH: usize = 4;

/// Run folders in `folder` and below, in order of their names; the folder itself, where it is one.
///
/// # Errors
/// [`RunError::Io`] when the folder cannot be read; folders below it that cannot be read are passed over.
pub fn find(folder: &Path) -> Result<Vec<PathBuf>, RunError> {
    fs::read_dir(folder).map_err(RunError::io(folder))?;
    let mut found = Vec::new();
    look(folder, DEPTH, &mut found);
    found.sort();
    Ok(found)
}

fn look(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) {
    // A checkpoint has a recipe too, but no log and no lock of its own.
    let is_run = folder.join("train.jsonl").is_file()
        || (folder.join("recipe.toml").is_file() && folder.join(".lock").exists());
    if is_run {
        found.push(folder.to_owned());
        return;
    }
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in entries.filter(|_| depth > 0) {
        // Links are not followed: they can lead in circles.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            look(&entry.path(), depth - 1, found);
        }
    }
}
