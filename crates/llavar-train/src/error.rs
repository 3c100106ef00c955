//! Errors of training. Each names the file, sample or key, and what to do.

use std::{io, path::PathBuf};

use crate::{MemoryPlan, recipe::Problem};

/// Boxed cause from another crate.
pub(crate) type Cause = Box<dyn std::error::Error + Send + Sync + 'static>;

/// What stops a run, or keeps it from starting.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// Values or keys of a recipe are wrong; all of them are listed.
    #[error("recipe {origin} has {} problem(s):{}", problems.len(), crate::recipe_list(problems))]
    Recipe {
        /// Name or path of the recipe.
        origin: String,
        /// All problems.
        problems: Vec<Problem>,
    },
    /// The recipe is no TOML.
    #[error("recipe {origin} is no valid toml")]
    RecipeSyntax {
        /// Name or path of the recipe.
        origin: String,
        /// Line, column and reason.
        source: toml::de::Error,
    },
    /// A value of a recipe has the wrong type.
    #[error("recipe {origin} has a value of the wrong type")]
    RecipeType {
        /// Name or path of the recipe.
        origin: String,
        /// Key and reason.
        source: toml::de::Error,
    },
    /// A recipe cannot be written as TOML.
    #[error("the recipe cannot be written as toml")]
    RecipeWrite {
        /// The reason.
        source: toml::ser::Error,
    },
    /// Neither a built-in recipe nor a file.
    #[error("no recipe is called `{name}`; did you mean `{nearest}`? built in: {}; or give the path of a .toml file", known.join(", "))]
    UnknownRecipe {
        /// What was asked for.
        name: String,
        /// The most similar built-in recipe.
        nearest: &'static str,
        /// All built-in recipes.
        known: Vec<&'static str>,
    },
    /// A file or folder cannot be read or written.
    #[error("cannot access {}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another run works in the same folder.
    #[error("run folder {} is in use by another run; give each run its own folder", path.display())]
    RunFolderBusy {
        /// The folder.
        path: PathBuf,
    },
    /// A new run was asked for where an earlier one left checkpoints or a model.
    #[error("run folder {} holds an earlier run; resume it or give a new folder (nothing was changed)", path.display())]
    RunFolderUsed {
        /// The folder.
        path: PathBuf,
    },
    /// A run was to go on that has ended and left no checkpoint.
    #[error("run folder {} holds the model of an earlier run and no checkpoint to go on from (nothing was changed)", path.display())]
    NoCheckpoint {
        /// The folder.
        path: PathBuf,
    },
    /// A checkpoint of this step is there already, of another run or state.
    #[error("checkpoint {} is there already and is never written over; give the run a folder of its own", path.display())]
    CheckpointExists {
        /// The checkpoint.
        path: PathBuf,
    },
    /// A checkpoint cannot be used.
    #[error("checkpoint {} cannot be used: {reason}", path.display())]
    Checkpoint {
        /// The checkpoint.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// There are checkpoints and all of them are damaged.
    #[error("none of the {} checkpoint(s) in {} can be used; the newest: {reason}", count, path.display())]
    NoValidCheckpoint {
        /// The folder of checkpoints.
        path: PathBuf,
        /// How many there are.
        count: usize,
        /// What is wrong with the newest.
        reason: String,
    },
    /// The recipe is not that of the checkpoint.
    #[error("the recipe differs from that of checkpoint {} in {}; resume with its recipe.toml, or set train.allow_recipe_change=true", path.display(), keys.join(", "))]
    RecipeChanged {
        /// The checkpoint.
        path: PathBuf,
        /// The differing keys.
        keys: Vec<String>,
    },
    /// What a checkpoint's model or its counters have and a recipe cannot change.
    #[error("a run cannot change {}, which checkpoint {} was made with; start a run of its own from its model ({}; adapters are merged first with `llavar model merge`)", keys.join(", "), path.display(), path.join("model").display())]
    RecipeFixed {
        /// The checkpoint.
        path: PathBuf,
        /// The differing keys.
        keys: Vec<String>,
    },
    /// The data are not those of the checkpoint.
    #[error("the data differ from those of checkpoint {}: it was made with {expected}, now there are {got}", path.display())]
    DataChanged {
        /// The checkpoint.
        path: PathBuf,
        /// What they were.
        expected: String,
        /// Samples now.
        got: String,
    },
    /// A checkpoint or model could not be written; all earlier ones are as they were.
    #[error("cannot save {}; what was saved before is intact{}", path.display(), if *disk_full { "; the disk is full: free space and resume" } else { "" })]
    Save {
        /// What was to be written.
        path: PathBuf,
        /// Whether space or quota ran out.
        disk_full: bool,
        /// The reason.
        source: Cause,
    },
    /// A setting is missing or contradicts the model or data.
    #[error("`{key}`: {reason}")]
    Setting {
        /// Key path in the recipe.
        key: &'static str,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// A sample cannot be used (and the recipe says `stop`).
    #[error("{source}; remove it, or set data.on_bad_sample=\"skip\"")]
    BadSample {
        /// Which one and why.
        source: Box<SampleFault>,
    },
    /// No sample that could stand in a place can be used.
    #[error(
        "none of the {count} samples that could stand in a place can be used; the last: {source}"
    )]
    NoUsableSample {
        /// How many were tried.
        count: usize,
        /// The last of them and why.
        source: Box<SampleFault>,
    },
    /// More samples were bad than the recipe allows.
    #[error("{count} samples were bad, allowed are {limit} (data.max_bad_samples); see {}; the last: {source}", quarantine.display())]
    TooManyBadSamples {
        /// Bad samples so far.
        count: usize,
        /// The limit.
        limit: usize,
        /// The list of them.
        quarantine: PathBuf,
        /// The last one.
        source: Box<SampleFault>,
    },
    /// So many samples in a row were bad that something else must be wrong.
    #[error(
        "{count} samples in a row cannot be used, allowed are {limit} (data.max_consecutive_bad_samples): is the image folder still there? the last: {source}"
    )]
    BadSamplesInARow {
        /// Bad samples one after the other.
        count: usize,
        /// The limit.
        limit: usize,
        /// The last one.
        source: Box<SampleFault>,
    },
    /// The run has gone back as often as it may, and there is a spike again.
    #[error(
        "step {step} is a spike again after {limit} rollback(s), allowed are {limit} (train.max_rollbacks); the newest checkpoint is the last good state"
    )]
    TooManyRollbacks {
        /// The step of the spike.
        step: u64,
        /// How often a run may go back.
        limit: u32,
    },
    /// The weights are out of all range.
    #[error(
        "steps {first} to {step} had no finite gradient, and the weights did not change any more: they have diverged"
    )]
    Diverged {
        /// The first of those steps.
        first: u64,
        /// The last one.
        step: u64,
    },
    /// The GPU's memory does not suffice.
    #[error("{source}; the plan was: {plan}")]
    OutOfMemory {
        /// What was expected.
        plan: Box<MemoryPlan>,
        /// What to change.
        advice: String,
        /// What could not be had.
        source: llavar_tensor::Error,
    },
    /// Another rank of the run could not go on, so that this one stops with it.
    #[error("rank {rank} stopped the run: {reason}")]
    Peer {
        /// Its number.
        rank: usize,
        /// What it said.
        reason: String,
    },
    /// A worker thread ended without a result.
    #[error("the data worker threads ended early; this is a bug of the program")]
    Workers,
    /// From the data crate.
    #[error(transparent)]
    Data(#[from] llavar_data::Error),
    /// From the engine.
    #[error("tensor engine")]
    Tensor(#[from] llavar_tensor::Error),
    /// From the model.
    #[error("model{}", path.as_ref().map(|p| format!(" {}", p.display())).unwrap_or_default())]
    Model {
        /// Its folder, where one was read or written.
        path: Option<PathBuf>,
        /// What it said.
        source: Cause,
    },
}

/// Why one sample cannot be trained on.
#[derive(Debug, thiserror::Error)]
#[error("sample {id} (number {index}){} cannot be used ({phase}): {reason}", path.as_ref().map(|p| format!(", {},", p.display())).unwrap_or_default())]
pub struct SampleFault {
    /// Its number over all data files, from 0.
    pub index: usize,
    /// Its id, or `?` where that cannot be read.
    pub id: String,
    /// The image, where one is at fault; else the data file.
    pub path: Option<PathBuf>,
    /// `read`, `encode`, `image path` or `image`.
    pub phase: &'static str,
    /// The causes, outermost first.
    pub reason: String,
}

impl TrainError {
    /// Whether space on the disk, quota or the file size limit ran out.
    pub fn is_disk_full(&self) -> bool {
        matches!(
            self,
            Self::Save {
                disk_full: true,
                ..
            }
        )
    }

    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }

    pub(crate) fn save(path: impl Into<PathBuf>, source: impl Into<Cause>) -> Self {
        let source = source.into();
        Self::Save {
            path: path.into(),
            disk_full: means_disk_full(&*source),
            source,
        }
    }

    pub(crate) fn model(
        path: Option<PathBuf>,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        Self::Model {
            path,
            source: Box::new(source),
        }
    }
}

/// The engine's word that a GPU has no room, wherever it is in an error of the model.
pub(crate) fn out_of_memory(error: &TrainError) -> Option<&llavar_tensor::Error> {
    use llavar_model::ModelError;
    let found = match error {
        TrainError::Tensor(error) => error,
        TrainError::Model { source, .. } => match source.downcast_ref::<ModelError>()? {
            ModelError::Tensor(error) => error,
            _ => return None,
        },
        _ => return None,
    };
    matches!(found, llavar_tensor::Error::OutOfMemory { .. }).then_some(found)
}

/// Looks for the system's word for "no space" anywhere in a chain of causes.
fn means_disk_full(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
            if matches!(io.kind(), FileTooLarge | QuotaExceeded | StorageFull) {
                return true;
            }
            // `io::Error::source` skips the error that it wraps.
            if let Some(inner) = io.get_ref()
                && means_disk_full(inner)
            {
                return true;
            }
        }
        next = error.source();
    }
    false
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let more = error.to_string();
        // `transparent` and `{source}` messages repeat their cause.
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        next = error.source();
    }
    text
}
