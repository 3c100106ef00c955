//! Run folders as others read them: what a run was, how far it came, and its curves.
//!
//! ```text
//! RUN/recipe.toml         resolved recipe
//! RUN/train.jsonl         one line a step, as [`crate::StepReport`]
//! RUN/events.jsonl        starts, checkpoints, spikes, warnings, the end, with the time
//! RUN/worst_samples.jsonl samples with the highest loss beside their step's
//! RUN/tb/                 TensorBoard event files
//! RUN/checkpoints/        see [`crate::checkpoint`]
//! RUN/model/              the result
//! ```

mod compare;
mod find;
mod wandb;

pub use compare::{Comparison, Difference, compare};
pub use find::find;
pub use wandb::{WandbFiles, wandb};

use std::{
    collections::BTreeMap,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use serde::Serialize;
use serde_json::Value;

use crate::{Recipe, TrainError, checkpoint};

/// Why a folder cannot be read as a run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// There is no such folder, or it cannot be read.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The folder is none of ours.
    #[error("{} is no run folder: it has no recipe.toml and no train.jsonl", path.display())]
    Foreign {
        /// The folder.
        path: PathBuf,
    },
    /// The run has not logged a step.
    #[error("run {} has no step in its log (train.jsonl) yet", path.display())]
    NoSteps {
        /// The folder.
        path: PathBuf,
    },
    /// The log is something else.
    #[error("{} is no log of a run: none of its {lines} lines is a step", path.display())]
    NoLog {
        /// The file.
        path: PathBuf,
        /// Its lines.
        lines: usize,
    },
    /// No line of the log has the value.
    #[error("run {} has no values of `{key}`; it has {}", path.display(), known.join(", "))]
    NoKey {
        /// The folder.
        path: PathBuf,
        /// What was asked for.
        key: String,
        /// What there is.
        known: Vec<String>,
    },
    /// Checkpoints that cannot be listed.
    #[error(transparent)]
    Checkpoints(#[from] TrainError),
}

impl RunError {
    fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}

/// One line of the log.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Row {
    /// Steps done.
    pub step: u64,
    /// Its numbers by name; what is null is not there, true and false are 1 and 0.
    pub values: BTreeMap<String, f64>,
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Another process works on it now.
    Running,
    /// All steps are done and the model is there.
    Finished,
    /// Neither.
    Stopped,
}

impl Status {
    /// In one word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Finished => "finished",
            Self::Stopped => "stopped",
        }
    }
}

/// A run folder that was read.
#[derive(Debug, Clone)]
pub struct Run {
    /// The folder.
    pub path: PathBuf,
    /// Its recipe, where it can be read.
    pub recipe: Option<Recipe>,
    /// Lines of its log in order of their steps, each step once.
    pub rows: Vec<Row>,
    /// What has happened, oldest first.
    pub events: Vec<Value>,
    /// Worst samples, the worst first.
    pub worst: Vec<Value>,
    /// Steps with a checkpoint.
    pub checkpoints: Vec<u64>,
    /// How far it is.
    pub status: Status,
    /// What could not be read.
    pub notes: Vec<String>,
}

impl Run {
    /// Reads a run folder. A log that breaks off in a line is read up to there, with a note.
    ///
    /// # Errors
    /// [`RunError::Io`], [`RunError::Foreign`], [`RunError::NoLog`].
    pub fn open(path: &Path) -> Result<Self, RunError> {
        fs::read_dir(path).map_err(RunError::io(path))?;
        let (recipe_path, log_path) = (path.join("recipe.toml"), path.join("train.jsonl"));
        if !recipe_path.is_file() && !log_path.is_file() {
            return Err(RunError::Foreign {
                path: path.to_owned(),
            });
        }
        let mut notes = Vec::new();
        let recipe = match fs::read_to_string(&recipe_path) {
            Ok(text) => match Recipe::from_toml(&recipe_path.display().to_string(), &text, &[]) {
                Ok(recipe) => Some(recipe),
                Err(error) => {
                    notes.push(format!("recipe.toml: {}", crate::error::chain(&error)));
                    None
                }
            },
            Err(error) => {
                notes.push(format!("recipe.toml: {error}"));
                None
            }
        };
        let lines = read_lines(&log_path, &mut notes)?;
        let count = lines.len();
        let mut rows: BTreeMap<u64, Row> = BTreeMap::new();
        for row in lines.iter().filter_map(Row::of) {
            rows.insert(row.step, row);
        }
        if rows.is_empty() && count > 0 {
            return Err(RunError::NoLog {
                path: log_path,
                lines: count,
            });
        }
        let finished = path.join("model/config.json").is_file();
        let checkpoints = checkpoint::list(path)?;
        let objects = |name: &str, notes: &mut Vec<String>| -> Result<Vec<Value>, RunError> {
            let lines = read_lines(&path.join(name), notes)?;
            Ok(lines.into_iter().filter(Value::is_object).collect())
        };
        Ok(Self {
            status: match (is_locked(path), finished) {
                (true, _) => Status::Running,
                (false, true) => Status::Finished,
                (false, false) => Status::Stopped,
            },
            path: path.to_owned(),
            recipe,
            rows: rows.into_values().collect(),
            events: objects("events.jsonl", &mut notes)?,
            worst: objects("worst_samples.jsonl", &mut notes)?,
            checkpoints: checkpoints.into_iter().map(|c| c.step).collect(),
            notes,
        })
    }

    /// As [`Run::open`] for what needs steps.
    ///
    /// # Errors
    /// As [`Run::open`], and [`RunError::NoSteps`].
    pub fn with_steps(path: &Path) -> Result<Self, RunError> {
        let run = Self::open(path)?;
        match run.rows.is_empty() {
            true => Err(RunError::NoSteps {
                path: path.to_owned(),
            }),
            false => Ok(run),
        }
    }

    /// Name of the folder.
    pub fn name(&self) -> String {
        let full = self.path.canonicalize();
        let full = full.as_deref().unwrap_or(&self.path);
        let name = full.file_name().unwrap_or(full.as_os_str());
        name.to_string_lossy().into_owned()
    }

    /// Steps and values of `key`, where it has one.
    pub fn values(&self, key: &str) -> Vec<(u64, f64)> {
        let rows = self.rows.iter();
        rows.filter_map(|row| Some((row.step, *row.values.get(key)?)))
            .collect()
    }

    /// As [`Run::values`] for a key that must be there.
    ///
    /// # Errors
    /// [`RunError::NoKey`].
    pub fn values_of(&self, key: &str) -> Result<Vec<(u64, f64)>, RunError> {
        let values = self.values(key);
        if !values.is_empty() {
            return Ok(values);
        }
        let keys = self.rows.iter().flat_map(|row| row.values.keys());
        let known: std::collections::BTreeSet<&String> = keys.collect();
        Err(RunError::NoKey {
            path: self.path.clone(),
            key: key.to_owned(),
            known: known.into_iter().cloned().collect(),
        })
    }

    /// Steps done, and of how many.
    pub fn progress(&self) -> (u64, u64) {
        let last = self.rows.last();
        let total = last.and_then(|row| row.values.get("total_steps"));
        (
            last.map_or(0, |row| row.step),
            total.map_or(0, |t| *t as u64),
        )
    }

    /// What the newest `start` event says of `key`.
    pub fn fact(&self, key: &str) -> Option<&Value> {
        let starts = self.events.iter().rev();
        let mut starts = starts.filter(|e| e.get("event").is_some_and(|v| v == "start"));
        starts.next()?.get(key).filter(|value| !value.is_null())
    }

    /// Mean of the last tenth of the losses, at least one of them, nats a token.
    pub fn final_loss(&self) -> Option<f64> {
        let losses = self.values("loss");
        let tail = (losses.len() / 10).max(1);
        let tail = losses.iter().rev().take(tail);
        let (count, sum) = tail.fold((0, 0.0), |(n, sum), (_, loss)| (n + 1, sum + loss));
        (count > 0).then(|| sum / f64::from(count))
    }

    /// Seconds that the logged steps took.
    pub fn seconds(&self) -> f64 {
        // No `sum`: that of nothing is -0.
        let values = self.values("seconds").into_iter();
        values.fold(0.0, |sum, (_, seconds)| sum + seconds)
    }

    /// Middle value of `key`, which outliers such as the first step do not move.
    pub fn median(&self, key: &str) -> Option<f64> {
        let mut values: Vec<f64> = self.values(key).into_iter().map(|(_, v)| v).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    }

    /// Largest value of `key`.
    pub fn most(&self, key: &str) -> Option<f64> {
        let values = self.values(key).into_iter().map(|(_, v)| v);
        values.max_by(f64::total_cmp)
    }
}

impl Row {
    fn of(line: &Value) -> Option<Self> {
        let object = line.as_object()?;
        let step = object.get("step")?.as_u64()?;
        let number = |value: &Value| value.as_f64().or(value.as_bool().map(f64::from));
        let values = object
            .iter()
            .filter(|(key, _)| *key != "step")
            .filter_map(|(key, value)| Some((key.clone(), number(value)?)));
        Some(Self {
            step,
            values: values.collect(),
        })
    }
}

/// Lines of a JSONL file; those that are no JSON are passed over and noted. None where there is no file.
fn read_lines(path: &Path, notes: &mut Vec<String>) -> Result<Vec<Value>, RunError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(RunError::io(path)(error)),
    };
    let (mut lines, mut bad) = (Vec::new(), Vec::new());
    for (number, line) in (1..).zip(bytes.split(|b| *b == b'\n')) {
        if line.trim_ascii().is_empty() {
            continue;
        }
        match serde_json::from_slice(line) {
            Ok(value) => lines.push(value),
            Err(_) => {
                bad.push(number);
                lines.push(Value::Null);
            }
        }
    }
    if let Some(first) = bad.first() {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        notes.push(format!(
            "{name}: {} line(s) are no JSON and were passed over, the first is line {first}",
            bad.len()
        ));
    }
    Ok(lines)
}

/// Whether another process holds the run.
fn is_locked(run: &Path) -> bool {
    let Ok(file) = fs::File::open(run.join(".lock")) else {
        return false;
    };
    matches!(file.try_lock_shared(), Err(fs::TryLockError::WouldBlock))
}

#[cfg(test)]
mod tests;
