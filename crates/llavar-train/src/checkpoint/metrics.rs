//! What is known of a checkpoint's quality, and which one is the best.
//!
//! A published folder is never changed, so what an evaluation finds lies beside it:
//! `step-00000500.metrics.json`, one object of numbers.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use super::{CheckpointInfo, TrainState, manifest, store::write_aside};
use crate::TrainError;

/// Metric of the smoothed training loss, which every checkpoint has.
const LOSS: &str = "loss";

/// By which metric a checkpoint is the best.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Best {
    metric: String,
    greater: bool,
}

impl Best {
    pub(crate) fn new(metric: &str, greater: bool) -> Self {
        Self {
            metric: metric.to_owned(),
            greater,
        }
    }

    /// The best of those that have the metric.
    pub(crate) fn of<'a>(&self, all: &'a [CheckpointInfo]) -> Option<&'a CheckpointInfo> {
        let key = |info: &CheckpointInfo| {
            let value = info.metrics.get(&self.metric).copied()?;
            value
                .is_finite()
                .then_some(if self.greater { -value } else { value })
        };
        let known = all.iter().filter_map(|info| Some((key(info)?, info)));
        known
            .min_by(|(a, x), (b, y)| a.total_cmp(b).then(x.step.cmp(&y.step)))
            .map(|(_, info)| info)
    }
}

/// Adds numbers to what is known of a checkpoint; a name that is there already gets the new value.
///
/// # Errors
/// [`TrainError::Checkpoint`] when there is no such checkpoint or its metrics cannot be read,
/// [`TrainError::Save`].
pub fn record(checkpoint: &Path, values: &BTreeMap<String, f64>) -> Result<(), TrainError> {
    check_published(checkpoint)?;
    let path = file(checkpoint);
    let mut all = read(&path).map_err(|reason| TrainError::Checkpoint {
        path: checkpoint.to_owned(),
        reason,
    })?;
    all.extend(values.iter().map(|(name, value)| (name.clone(), *value)));
    let text = serde_json::to_vec_pretty(&all).map_err(|e| TrainError::save(&path, e))?;
    write_aside(&path, &text).map_err(|e| TrainError::save(&path, e))
}

/// All that is known; unreadable files tell nothing.
pub(super) fn of(checkpoint: &Path) -> BTreeMap<String, f64> {
    let mut all = read(&file(checkpoint)).unwrap_or_default();
    if let Some(loss) = TrainState::read(checkpoint)
        .ok()
        .and_then(|s| s.smoothed_loss())
    {
        all.insert(LOSS.to_owned(), loss);
    }
    all
}

/// Removes what lies beside a checkpoint that is gone.
pub(super) fn forget(checkpoint: &Path) -> Result<(), TrainError> {
    let path = file(checkpoint);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(TrainError::io(&path)(error)),
        _ => Ok(()),
    }
}

pub(super) fn check_published(checkpoint: &Path) -> Result<(), TrainError> {
    match manifest::is_published(checkpoint) {
        true => Ok(()),
        false => Err(TrainError::Checkpoint {
            path: checkpoint.to_owned(),
            reason: "there is no published checkpoint in this folder".into(),
        }),
    }
}

fn file(checkpoint: &Path) -> PathBuf {
    let name = checkpoint.file_name().unwrap_or_default().to_string_lossy();
    checkpoint.with_file_name(format!("{name}.metrics.json"))
}

fn read(path: &Path) -> Result<BTreeMap<String, f64>, String> {
    match fs::read(path) {
        Ok(text) => serde_json::from_slice(&text).map_err(|e| format!("{}: {e}", path.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}
