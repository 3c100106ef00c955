//! `Store`: the folder of checkpoints of one run.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::manifest;
use crate::TrainError;

/// A file of this name in a checkpoint keeps it from being deleted.
pub const PIN_FILE: &str = "PIN";
/// Prefixes of folders that are being written or deleted.
const PARTIAL: &str = ".partial-";
const TRASH: &str = ".trash-";

/// A published checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointInfo {
    /// Optimizer steps done.
    pub step: u64,
    /// Its folder.
    pub path: PathBuf,
    /// Whether it is kept for ever.
    pub pinned: bool,
}

/// The published checkpoints of a run folder, oldest first. Their content is not checked here.
///
/// # Errors
/// [`TrainError::Io`] when the folder cannot be read; a missing one is empty.
pub fn list(run_dir: &Path) -> Result<Vec<CheckpointInfo>, TrainError> {
    Store::new(run_dir).list()
}

#[derive(Debug, Clone)]
pub(crate) struct Store {
    root: PathBuf,
}

impl Store {
    pub(crate) fn new(run_dir: &Path) -> Self {
        Self {
            root: run_dir.join("checkpoints"),
        }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    fn entries(&self) -> Result<Vec<(String, PathBuf)>, TrainError> {
        let entries = match fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(TrainError::io(&self.root)(error)),
        };
        entries
            .map(|entry| {
                let entry = entry.map_err(TrainError::io(&self.root))?;
                Ok((
                    entry.file_name().to_string_lossy().into_owned(),
                    entry.path(),
                ))
            })
            .collect()
    }

    pub(crate) fn list(&self) -> Result<Vec<CheckpointInfo>, TrainError> {
        let best = fs::read_to_string(self.root.join("BEST")).unwrap_or_default();
        let mut found: Vec<CheckpointInfo> = self
            .entries()?
            .into_iter()
            .filter(|(_, path)| manifest::is_published(path))
            .filter_map(|(name, path)| {
                Some(CheckpointInfo {
                    step: step_of(&name)?,
                    pinned: path.join(PIN_FILE).exists() || best.trim() == name,
                    path,
                })
            })
            .collect();
        found.sort_by_key(|info| info.step);
        Ok(found)
    }

    /// Removes what interrupted runs left: folders that were being written or deleted.
    pub(crate) fn clean(&self) -> Result<(), TrainError> {
        for (name, path) in self.entries()? {
            let unfinished = step_of(&name).is_some() && !manifest::is_published(&path);
            if name.starts_with(PARTIAL) || name.starts_with(TRASH) || unfinished {
                let removed = if path.is_dir() {
                    fs::remove_dir_all(&path)
                } else {
                    fs::remove_file(&path)
                };
                removed.map_err(TrainError::io(&path))?;
            }
        }
        Ok(())
    }

    /// Publishes the checkpoint of `step`, whose files `fill` writes into the folder that it is given.
    /// One that is published already stays as it is. On an error nothing is left behind.
    pub(crate) fn publish(
        &self,
        step: u64,
        fill: impl FnOnce(&Path) -> Result<(), TrainError>,
    ) -> Result<PathBuf, TrainError> {
        let name = format!("step-{step:08}");
        let target = self.root.join(&name);
        if manifest::is_published(&target) {
            return Ok(target);
        }
        let aside = self.root.join(format!("{PARTIAL}{name}"));
        let written = write(&aside, &target, fill);
        if written.is_err() {
            // Best effort: what is left is ignored, and removed at the next start.
            let _ = fs::remove_dir_all(&aside);
        }
        written.map(|()| target)
    }

    /// Deletes the oldest checkpoints beyond `keep` (0 keeps all). Pinned ones stay and do not count.
    pub(crate) fn retain(&self, keep: usize) -> Result<(), TrainError> {
        if keep == 0 {
            return Ok(());
        }
        let mut free = self.list()?;
        free.retain(|info| !info.pinned);
        let surplus = free.len().saturating_sub(keep);
        for info in free.into_iter().take(surplus) {
            // Renamed first, so that a half-deleted folder is never taken for a checkpoint.
            let trash = self.root.join(format!("{TRASH}step-{:08}", info.step));
            fs::rename(&info.path, &trash).map_err(TrainError::io(&info.path))?;
            fs::remove_dir_all(&trash).map_err(TrainError::io(&trash))?;
        }
        Ok(())
    }

    /// Moves a damaged checkpoint out of the way, under a name that says so. It is not deleted.
    pub(crate) fn set_aside(&self, path: &Path) -> Result<(), TrainError> {
        self.move_away(path, "damaged")
    }

    /// Moves those later than `path` out of the way: the run has gone back to it and takes another course.
    pub(crate) fn abandon_after(&self, path: &Path) -> Result<(), TrainError> {
        let all = self.list()?;
        let step = all
            .iter()
            .find(|info| info.path == path)
            .map(|info| info.step);
        for info in all
            .iter()
            .filter(|info| step.is_none_or(|step| info.step > step))
        {
            self.move_away(&info.path, "abandoned")?;
        }
        Ok(())
    }

    fn move_away(&self, path: &Path, why: &str) -> Result<(), TrainError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let mut target = self.root.join(format!("{why}-{name}"));
        let mut number = 1;
        while target.exists() {
            number += 1;
            target = self.root.join(format!("{why}-{name}-{number}"));
        }
        fs::rename(path, &target).map_err(TrainError::io(path))
    }
}

/// Writes a folder aside, seals it and renames it into place.
fn write(
    aside: &Path,
    target: &Path,
    fill: impl FnOnce(&Path) -> Result<(), TrainError>,
) -> Result<(), TrainError> {
    let failed = |source: io::Error| TrainError::save(target, source);
    if aside.exists() {
        fs::remove_dir_all(aside).map_err(failed)?;
    }
    fs::create_dir_all(aside).map_err(failed)?;
    fill(aside)?;
    manifest::seal(aside).map_err(failed)?;
    fs::rename(aside, target).map_err(failed)?;
    target
        .parent()
        .map_or(Ok(()), manifest::sync_folder)
        .map_err(failed)
}

/// Replaces the folder `target` by one that `fill` writes; the old one stays until the new is whole.
pub(crate) fn replace_folder(
    target: &Path,
    fill: impl FnOnce(&Path) -> Result<(), TrainError>,
) -> Result<(), TrainError> {
    let sibling = |prefix: &str| {
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        target.with_file_name(format!("{prefix}{name}"))
    };
    let (aside, old) = (sibling(PARTIAL), sibling(TRASH));
    let failed = |source: io::Error| TrainError::save(target, source);
    for folder in [&aside, &old] {
        if folder.exists() {
            fs::remove_dir_all(folder).map_err(failed)?;
        }
    }
    let written = fill(&aside).and_then(|()| {
        if target.exists() {
            fs::rename(target, &old).map_err(failed)?;
        }
        fs::rename(&aside, target).map_err(failed)
    });
    let _ = fs::remove_dir_all(if written.is_ok() { &old } else { &aside });
    written
}

fn step_of(name: &str) -> Option<u64> {
    name.strip_prefix("step-")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::verify;

    fn fill(text: &'static str) -> impl FnOnce(&Path) -> Result<(), TrainError> {
        move |dir| {
            fs::create_dir_all(dir.join("model")).map_err(TrainError::io(dir))?;
            fs::write(dir.join("model/w"), text).map_err(TrainError::io(dir))?;
            fs::write(dir.join("state.json"), text).map_err(TrainError::io(dir))
        }
    }

    #[test]
    fn published_checkpoints_are_never_changed_and_damage_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        let path = store.publish(3, fill("one")).unwrap();
        assert_eq!(verify(&path), Ok(()));
        store.publish(3, fill("two")).unwrap();
        assert_eq!(fs::read_to_string(path.join("model/w")).unwrap(), "one");
        fs::write(path.join("model/w"), "onf").unwrap();
        assert!(verify(&path).unwrap_err().contains("model/w"));
        fs::write(path.join("model/w"), "on").unwrap();
        assert!(verify(&path).unwrap_err().contains("bytes"));
        fs::remove_file(path.join("model/w")).unwrap();
        assert!(verify(&path).is_err());
    }

    #[test]
    fn failed_and_partial_ones_are_no_checkpoints() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        store.publish(1, fill("x")).unwrap();
        let full = |_: &Path| {
            let no_space = io::Error::from(io::ErrorKind::StorageFull);
            Err(TrainError::save("somewhere", no_space))
        };
        assert!(store.publish(2, full).unwrap_err().is_disk_full());
        fs::create_dir(store.root().join(".partial-step-00000005")).unwrap();
        fs::create_dir(store.root().join("step-00000007")).unwrap();
        let steps = || -> Vec<u64> { store.list().unwrap().iter().map(|i| i.step).collect() };
        assert_eq!(steps(), [1]);
        store.clean().unwrap();
        assert_eq!(fs::read_dir(store.root()).unwrap().count(), 1);
        assert_eq!(steps(), [1]);
    }

    #[test]
    fn the_newest_are_kept_and_pinned_ones_stay() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        for step in 1..=5 {
            store.publish(step, fill("x")).unwrap();
        }
        fs::write(store.root().join("step-00000001").join(PIN_FILE), "").unwrap();
        fs::write(store.root().join("BEST"), "step-00000002\n").unwrap();
        store.retain(1).unwrap();
        let steps: Vec<u64> = store.list().unwrap().iter().map(|i| i.step).collect();
        assert_eq!(steps, [1, 2, 5]);
    }

    #[test]
    fn a_model_folder_is_replaced_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("model");
        let make = |text: &'static str| {
            move |d: &Path| {
                fs::create_dir_all(d).map_err(TrainError::io(d))?;
                fs::write(d.join("w"), text).map_err(TrainError::io(d))
            }
        };
        replace_folder(&target, make("a")).unwrap();
        replace_folder(&target, make("b")).unwrap();
        let failing = |d: &Path| {
            fs::create_dir_all(d).map_err(TrainError::io(d))?;
            Err(TrainError::Workers)
        };
        assert!(replace_folder(&target, failing).is_err());
        assert_eq!(fs::read_to_string(target.join("w")).unwrap(), "b");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
