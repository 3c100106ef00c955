//! The checkpoint that a run goes on from: which it is, and what a recipe may change about it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::Resume;
use crate::{
    Recipe, TrainError,
    checkpoint::{self, CheckpointInfo, Store, TrainState, Unsound, verify},
    data::SampleSource,
};

/// The checkpoint to go on from, verified.
pub(super) fn find_checkpoint(
    store: &Store,
    run_dir: &Path,
    resume: &Resume,
    warnings: &mut Vec<String>,
) -> Result<Option<PathBuf>, TrainError> {
    match resume {
        Resume::No => {
            if !store.list()?.is_empty() || run_dir.join("model").exists() {
                return Err(TrainError::RunFolderUsed {
                    path: run_dir.to_owned(),
                });
            }
            Ok(None)
        }
        Resume::Auto => {
            let found = newest_valid(store, true, warnings)?;
            // To begin again would move the model of a run away that has ended, and cut its log.
            if found.is_none() && run_dir.join("model").exists() {
                return Err(TrainError::NoCheckpoint {
                    path: run_dir.to_owned(),
                });
            }
            Ok(found)
        }
        Resume::From(path) => {
            if path.join("checkpoints").is_dir() {
                let other = Store::new(path);
                let own = same_place(other.root(), store.root());
                let found = newest_valid(&other, own, warnings)?;
                return found.map(Some).ok_or_else(|| TrainError::Checkpoint {
                    path: path.clone(),
                    reason: "the run folder holds no checkpoint".into(),
                });
            }
            if !path.is_dir() {
                return Err(TrainError::Checkpoint {
                    path: path.clone(),
                    reason: missing(path),
                });
            }
            verify(path).map_err(|why| TrainError::Checkpoint {
                path: path.clone(),
                reason: why.to_string(),
            })?;
            let step = TrainState::read(path)?.step;
            // Going on from the middle of a run would meet that run's own later checkpoints.
            let all = store.list()?;
            let in_the_way = |info: &CheckpointInfo| {
                info.step > step || info.step == step && !same_place(&info.path, path)
            };
            if let Some(newer) = all.iter().find(|info| in_the_way(info)) {
                return Err(TrainError::Checkpoint {
                    path: path.clone(),
                    reason: format!(
                        "the run folder holds the later {}; resume into a new run folder",
                        newer.path.display()
                    ),
                });
            }
            Ok(Some(path.clone()))
        }
    }
}

/// What there is instead of a checkpoint that was asked for.
fn missing(path: &Path) -> String {
    let run = path.parent().and_then(Path::parent);
    let all = run.map(checkpoint::list).transpose().ok().flatten();
    let steps: Vec<String> = all
        .into_iter()
        .flatten()
        .map(|info| info.step.to_string())
        .collect();
    match steps.is_empty() {
        true => "there is no such folder".into(),
        false => format!("it is not there; the run holds steps {}", steps.join(", ")),
    }
}

/// The newest checkpoint that is sound. Damaged ones that are newer are moved out of the way, under a name that says
/// so, once there is one to go on from; otherwise all stay where they are.
fn newest_valid(
    store: &Store,
    own: bool,
    warnings: &mut Vec<String>,
) -> Result<Option<PathBuf>, TrainError> {
    let all = store.list()?;
    let mut damaged: Vec<(&Path, String)> = Vec::new();
    for info in all.iter().rev() {
        match verify(&info.path) {
            Ok(()) => {
                for (path, reason) in &damaged {
                    warnings.push(format!(
                        "checkpoint {} is damaged and was passed over: {reason}",
                        path.display()
                    ));
                    if own {
                        store.set_aside(path)?;
                    }
                }
                return Ok(Some(info.path.clone()));
            }
            Err(Unsound::Damaged(reason)) => damaged.push((&info.path, reason)),
            // It may be sound: going on from an older one would not be what was asked for.
            Err(Unsound::Unreadable(reason)) => {
                return Err(TrainError::Checkpoint {
                    path: info.path.clone(),
                    reason,
                });
            }
        }
    }
    match damaged.into_iter().next() {
        None => Ok(None),
        Some((_, reason)) => Err(TrainError::NoValidCheckpoint {
            path: store.root().to_owned(),
            count: all.len(),
            reason,
        }),
    }
}

pub(super) fn same_place(a: &Path, b: &Path) -> bool {
    match (a.canonicalize(), b.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => a == b,
    }
}

/// The recipe that a checkpoint was made with.
pub(super) fn recipe_of(checkpoint: &Path) -> Result<Recipe, TrainError> {
    let path = checkpoint.join("recipe.toml");
    let text = fs::read_to_string(&path).map_err(TrainError::io(&path))?;
    Recipe::from_toml(&path.display().to_string(), &text, &[])
}

/// Compares a recipe with that of the checkpoint; gives the keys that differ, where they may.
pub(super) fn check_recipe(
    recipe: &Recipe,
    then: &Recipe,
    checkpoint: &Path,
    warnings: &mut Vec<String>,
) -> Result<Vec<String>, TrainError> {
    let keys = recipe.changed_keys(then);
    if keys.is_empty() {
        return Ok(keys);
    }
    if recipe.train.allow_recipe_change {
        // Adapters are those of the checkpoint's model.
        let with_adapters = recipe.lora.lora_enable || then.lora.lora_enable;
        let coded = recipe.lora.bits == 4 || then.lora.bits == 4;
        let unused = |key: &str| !coded && ["lora.quant_type", "lora.double_quant"].contains(&key);
        let fixed = |key: &&String| with_adapters && key.starts_with("lora.") && !unused(key);
        let fixed: Vec<String> = keys.iter().filter(fixed).cloned().collect();
        if !fixed.is_empty() {
            return Err(TrainError::RecipeFixed {
                path: checkpoint.to_owned(),
                keys: fixed,
            });
        }
        warnings.push(format!(
            "resumed with another {} than the checkpoint's: this is not the run that an unbroken one \
             would have been",
            keys.join(", ")
        ));
        return Ok(keys);
    }
    Err(TrainError::RecipeChanged {
        path: checkpoint.to_owned(),
        keys,
    })
}

/// The error of a key that the checkpoint decides.
pub(super) fn fixed(checkpoint: &Path, key: &str) -> TrainError {
    TrainError::RecipeFixed {
        path: checkpoint.to_owned(),
        keys: vec![key.to_owned()],
    }
}

/// Compares the data with those of the checkpoint.
pub(super) fn check_data(
    state: &TrainState,
    source: &SampleSource,
    checkpoint: &Path,
    recipe: &Recipe,
    warnings: &mut Vec<String>,
) -> Result<(), TrainError> {
    if source.is_of(&state.data) {
        return Ok(());
    }
    let now = source.fingerprint();
    if recipe.train.allow_recipe_change {
        warnings.push(format!(
            "resumed with other data ({now}) than the checkpoint's ({})",
            state.data
        ));
        return Ok(());
    }
    Err(TrainError::DataChanged {
        path: checkpoint.to_owned(),
        expected: state.data.clone(),
        got: now,
    })
}
