//! `Store`: the folder of checkpoints of one run.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use super::{Best, manifest, metrics};
use crate::TrainError;

/// A file of this name in a checkpoint keeps it from being deleted.
pub const PIN_FILE: &str = "PIN";
/// Prefixes of folders that are being written or deleted.
const PARTIAL: &str = ".partial-";
const TRASH: &str = ".trash-";
/// Names the best checkpoint.
const BEST_FILE: &str = "BEST";

/// A published checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckpointInfo {
    /// Optimizer steps done.
    pub step: u64,
    /// Its folder.
    pub path: PathBuf,
    /// Whether a person keeps it for ever.
    pub pinned: bool,
    /// Whether it is the best by the recipe's `metric_for_best_model`.
    pub best: bool,
    /// Its smoothed training loss as `loss`, and what was recorded about it ([`super::record_metrics`]).
    pub metrics: BTreeMap<String, f64>,
}

/// Keeps a checkpoint for ever, or no longer.
///
/// # Errors
/// [`TrainError::Checkpoint`] when there is none, [`TrainError::Save`].
pub fn pin(checkpoint: &Path, keep: bool) -> Result<(), TrainError> {
    metrics::check_published(checkpoint)?;
    let path = checkpoint.join(PIN_FILE);
    let done = match keep {
        true => manifest::write_synced(&path, b""),
        false => match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        },
    };
    done.map_err(|e| TrainError::save(&path, e))
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
        let best = fs::read_to_string(self.root.join(BEST_FILE)).unwrap_or_default();
        let mut found: Vec<CheckpointInfo> = self
            .entries()?
            .into_iter()
            .filter(|(_, path)| manifest::is_published(path))
            .filter_map(|(name, path)| {
                Some(CheckpointInfo {
                    step: step_of(&name)?,
                    pinned: path.join(PIN_FILE).exists(),
                    best: best.trim() == name,
                    metrics: metrics::of(&path),
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

    /// The folder of the checkpoint of `step`.
    pub(crate) fn path_of(&self, step: u64) -> PathBuf {
        self.root.join(name_of(step))
    }

    /// Publishes the checkpoint of `step`, whose files `fill` writes into the folder that it is given. On an
    /// error nothing is left behind.
    ///
    /// # Errors
    /// [`TrainError::CheckpointExists`] where there is one of this step: it is never written over.
    pub(crate) fn publish(
        &self,
        step: u64,
        fill: impl FnOnce(&Path) -> Result<(), TrainError>,
    ) -> Result<PathBuf, TrainError> {
        let name = name_of(step);
        let target = self.root.join(&name);
        if manifest::is_published(&target) {
            return Err(TrainError::CheckpointExists { path: target });
        }
        let aside = self.root.join(format!("{PARTIAL}{name}"));
        let written = write(&aside, &target, fill);
        if written.is_err() {
            // Best effort: what is left is ignored, and removed at the next start.
            let _ = fs::remove_dir_all(&aside);
        }
        written.map(|()| target)
    }

    /// Deletes the oldest checkpoints beyond `keep` (0 keeps all). The best and pinned ones stay and do not
    /// count.
    pub(crate) fn retain(&self, keep: usize, best: Option<&Best>) -> Result<(), TrainError> {
        if let Some(best) = best {
            self.mark_best(best)?;
        }
        if keep == 0 {
            return Ok(());
        }
        let mut free = self.list()?;
        free.retain(|info| !info.pinned && !info.best);
        let surplus = free.len().saturating_sub(keep);
        for info in free.into_iter().take(surplus) {
            // Renamed first, so that a half-deleted folder is never taken for a checkpoint.
            let trash = self.root.join(format!("{TRASH}{}", name_of(info.step)));
            fs::rename(&info.path, &trash).map_err(TrainError::io(&info.path))?;
            fs::remove_dir_all(&trash).map_err(TrainError::io(&trash))?;
            metrics::forget(&info.path)?;
        }
        Ok(())
    }

    /// Names the best of the checkpoints that are there; the earlier of two that are equally good.
    fn mark_best(&self, best: &Best) -> Result<(), TrainError> {
        let all = self.list()?;
        let Some(found) = best.of(&all) else {
            return Ok(());
        };
        if !found.best {
            let path = self.root.join(BEST_FILE);
            write_aside(&path, format!("{}\n", name_of(found.step)).as_bytes())
                .map_err(|e| TrainError::save(&path, e))?;
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
        fs::rename(path, free_name(path, why)).map_err(TrainError::io(path))?;
        // Another checkpoint of this step is not as good or bad as this one was.
        metrics::forget(path)
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

/// Publishes the file or folder `target` that `fill` writes. Where there is one of other content it is kept under
/// the name that is returned; one of the same content stays.
pub(crate) fn publish(
    target: &Path,
    fill: impl FnOnce(&Path) -> Result<(), TrainError>,
) -> Result<Option<PathBuf>, TrainError> {
    let aside = aside_of(target);
    let failed = |source: io::Error| TrainError::save(target, source);
    remove_leftovers(&aside).map_err(failed)?;
    let written = fill(&aside).and_then(|()| put(&aside, target).map_err(failed));
    // Best effort: what is left goes with the next one.
    let _ = remove_leftovers(&aside);
    written
}

/// Removes what a process that was killed left of `aside`, and of what was on its way to that name. One process
/// at a time has a run folder.
fn remove_leftovers(aside: &Path) -> io::Result<()> {
    let name = aside.file_name().unwrap_or_default().to_string_lossy();
    let on_its_way = format!(".{name}.tmp-");
    let folder = aside.parent().filter(|p| !p.as_os_str().is_empty());
    let entries = match fs::read_dir(folder.unwrap_or(Path::new("."))) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        let found = entry.file_name();
        let found = found.to_string_lossy();
        if found != name && !found.starts_with(&on_its_way) {
            continue;
        }
        match entry.file_type()?.is_dir() {
            true => fs::remove_dir_all(entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}

/// Renames what was written into place; an earlier one of other content gets a name of its own.
fn put(aside: &Path, target: &Path) -> io::Result<Option<PathBuf>> {
    let mut kept = None;
    if target.exists() {
        if manifest::same_content(aside, target)? {
            return Ok(None);
        }
        let earlier = free_name(target, "earlier");
        fs::rename(target, &earlier)?;
        kept = Some(earlier);
    }
    fs::rename(aside, target)?;
    target.parent().map_or(Ok(()), manifest::sync_folder)?;
    Ok(kept)
}

/// `earlier-model`, or with a number behind it where that is taken.
fn free_name(target: &Path, prefix: &str) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let mut free = target.with_file_name(format!("{prefix}-{name}"));
    let mut number = 1;
    while free.exists() {
        number += 1;
        free = target.with_file_name(format!("{prefix}-{number}-{name}"));
    }
    free
}

fn aside_of(target: &Path) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    target.with_file_name(format!("{PARTIAL}{name}"))
}

/// Writes a small file aside and renames it.
pub(super) fn write_aside(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let aside = aside_of(path);
    let written = manifest::write_synced(&aside, bytes).and_then(|()| fs::rename(&aside, path));
    if written.is_err() {
        let _ = fs::remove_file(&aside);
    }
    written
}

fn name_of(step: u64) -> String {
    format!("step-{step:08}")
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
        let error = store.publish(3, fill("two")).unwrap_err();
        assert!(matches!(error, TrainError::CheckpointExists { .. }));
        assert_eq!(fs::read_to_string(path.join("model/w")).unwrap(), "one");
        fs::write(path.join("model/w"), "onf").unwrap();
        assert!(verify(&path).unwrap_err().to_string().contains("model/w"));
        fs::write(path.join("model/w"), "on").unwrap();
        assert!(verify(&path).unwrap_err().to_string().contains("bytes"));
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
        pin(&store.path_of(1), true).unwrap();
        let note = |step, value| {
            let value = BTreeMap::from([("anls".to_owned(), value)]);
            metrics::record(&store.path_of(step), &value).unwrap();
        };
        for (step, value) in [(2, 0.7), (3, 0.7), (4, 0.1)] {
            note(step, value);
        }
        let best = Best::new("anls", true);
        store.retain(1, Some(&best)).unwrap();
        let steps = || -> Vec<u64> { store.list().unwrap().iter().map(|i| i.step).collect() };
        assert_eq!(steps(), [1, 2, 5]);
        // A better one that comes later lets go of the one before; unpinned ones count again.
        note(5, 0.8);
        pin(&store.path_of(1), false).unwrap();
        store.publish(6, fill("x")).unwrap();
        store.retain(1, Some(&best)).unwrap();
        assert_eq!(steps(), [5, 6]);
        let left = fs::read_dir(store.root()).unwrap().flatten();
        let mut names: Vec<_> = left.map(|e| e.file_name().into_string().unwrap()).collect();
        names.sort();
        let want = [
            "BEST",
            "step-00000005",
            "step-00000005.metrics.json",
            "step-00000006",
        ];
        assert_eq!(names, want);
    }

    #[test]
    fn a_model_folder_is_published_whole_or_not_at_all_and_never_lost() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("model");
        let make = |text: &'static str| {
            move |d: &Path| {
                fs::create_dir_all(d).map_err(TrainError::io(d))?;
                fs::write(d.join("w"), text).map_err(TrainError::io(d))
            }
        };
        assert_eq!(publish(&target, make("a")).unwrap(), None);
        assert_eq!(publish(&target, make("a")).unwrap(), None);
        for (text, before, name) in [("b", "a", "earlier-model"), ("c", "b", "earlier-2-model")] {
            let kept = publish(&target, make(text)).unwrap().unwrap();
            assert_eq!(kept.file_name().unwrap(), name);
            assert_eq!(fs::read_to_string(kept.join("w")).unwrap(), before);
        }
        let failing = |d: &Path| {
            fs::create_dir_all(d).map_err(TrainError::io(d))?;
            Err(TrainError::Workers)
        };
        assert!(publish(&target, failing).is_err());
        assert_eq!(fs::read_to_string(target.join("w")).unwrap(), "c");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);

        let file = dir.path().join("p");
        let write = |text: &'static str| {
            move |path: &Path| fs::write(path, text).map_err(TrainError::io(path))
        };
        assert_eq!(publish(&file, write("a")).unwrap(), None);
        assert_eq!(publish(&file, write("a")).unwrap(), None);
        assert!(publish(&file, write("b")).unwrap().is_some());
        assert_eq!(fs::read_to_string(&file).unwrap(), "b");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 5);
    }
}
