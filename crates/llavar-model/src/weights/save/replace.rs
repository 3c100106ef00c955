//! Putting a finished folder in the place of another.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use super::SaveError;

/// The folder that holds `path`.
pub(super) fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Makes the names in a folder durable.
pub(super) fn sync_folder(folder: &Path) -> Result<(), SaveError> {
    File::open(folder)
        .and_then(|f| f.sync_all())
        .map_err(|e| SaveError::io(folder, e))
}

/// Refuses early when the file system says that it has less room than is needed.
pub(super) fn check_room(folder: &Path, needed: u64) -> Result<(), SaveError> {
    match free_bytes(folder) {
        Some(free) if free < needed => Err(SaveError::DiskFull {
            path: folder.to_owned(),
            needed,
            written: 0,
        }),
        _ => Ok(()),
    }
}

#[cfg(target_os = "linux")]
fn free_bytes(folder: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(folder).ok()?;
    // Some network file systems report nothing at all.
    (stat.f_blocks > 0).then(|| stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[cfg(not(target_os = "linux"))]
fn free_bytes(_folder: &Path) -> Option<u64> {
    None
}

/// Moves `new` to `target`; where what was there lies now, for [`tidy`].
pub(super) fn place(new: &Path, target: &Path) -> Result<Option<PathBuf>, SaveError> {
    if !target.exists() {
        fs::rename(new, target).map_err(|e| SaveError::io(target, e))?;
        return Ok(None);
    }
    match exchange(new, target) {
        Ok(()) => Ok(Some(new.to_owned())),
        // Not every file system can exchange names; then there is a moment without a target, and a
        // failure puts the old folder back.
        Err(_) => {
            let mut aside = new.as_os_str().to_owned();
            aside.push(".old");
            let aside = PathBuf::from(aside);
            fs::rename(target, &aside).map_err(|e| SaveError::io(target, e))?;
            if let Err(error) = fs::rename(new, target) {
                let _ = fs::rename(&aside, target);
                return Err(SaveError::io(target, error));
            }
            Ok(Some(aside))
        }
    }
}

/// Makes what [`place`] did durable, and removes the old folder after its files other than weights were carried
/// over.
pub(super) fn tidy(old: Option<&Path>, target: &Path) -> Result<(), SaveError> {
    let synced = sync_folder(&parent(target));
    // The new model is in place. Failing to tidy up is not a failure to save, but then the old folder
    // stays, so that no file of the user is lost.
    if let Some(old) = old
        && synced.is_ok()
        && carry_over(old, target).is_ok()
    {
        let _ = fs::remove_dir_all(old);
    }
    synced.and_then(|()| sync_folder(target))
}

#[cfg(target_os = "linux")]
fn exchange(a: &Path, b: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    Ok(renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE)?)
}

#[cfg(not(target_os = "linux"))]
fn exchange(_a: &Path, _b: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Moves what the old folder has and the new one lacks, except weights, which would be out of date.
fn carry_over(old: &Path, new: &Path) -> io::Result<()> {
    for entry in fs::read_dir(old)? {
        let entry = entry?;
        let name = entry.file_name();
        let text = name.to_string_lossy();
        let weights = (text.starts_with("model") || text.starts_with("pytorch_model"))
            && [".safetensors", ".bin", ".index.json"]
                .iter()
                .any(|suffix| text.ends_with(suffix));
        if !weights && !new.join(&name).exists() {
            fs::rename(entry.path(), new.join(&name))?;
        }
    }
    Ok(())
}
