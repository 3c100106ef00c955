//! Writing checkpoints and the final model.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use llavar_model::{
    ModelError,
    weights::{SaveError, WeightFormat},
};
use llavar_tensor::{DType, Device, Tensor};

use super::{Trainer, adapters::base_folder};
use crate::{
    Observer, TrainError,
    checkpoint::{Best, TrainState, is_published, publish},
    error::chain,
    lazy::{Stored, write_tensors},
    recipe::{OnSaveError, Stage},
    stage::trains,
};

/// Stage-1 weights in a run folder.
const PROJECTOR_FILE: &str = "mm_projector.safetensors";

impl Trainer {
    /// Saves the present state; then old checkpoints go. All ranks call it.
    pub(super) fn save_checkpoint(
        &mut self,
        observer: &mut dyn Observer,
    ) -> Result<PathBuf, TrainError> {
        self.gather_worst()?;
        self.round_state()?;
        let state = TrainState {
            worst_samples: self.worst.samples().to_vec(),
            bad_samples: self.quarantine.bad().iter().copied().collect(),
            ..self.state.clone()
        };
        let path = match self.group.is_first() {
            true => self.publish(&state)?,
            false => self.publish_with_first(&state)?,
        };
        self.held = Some(state.step);
        if self.group.is_first()
            && self.worst.is_on()
            && let Err(error) = self.write_worst()
        {
            observer.on_warning(&crate::error::chain(&error));
        }
        // The folder copied from until now may be a checkpoint that is deleted next.
        self.tokenizer_folder = path.join("model");
        observer.on_checkpoint(state.step, &path);
        let train = &self.recipe.train;
        let metric = train.metric_for_best_model.as_deref();
        let best = metric.map(|metric| Best::new(metric, train.greater_is_better));
        // Weights that may have diverged are no reason to let go of those before.
        if self.group.is_first()
            && state.not_finite_in_a_row == 0
            && let Err(error) = self.store.retain(train.save_total_limit, best.as_ref())
        {
            // The new checkpoint is safe; an old one too many is no reason to stop.
            observer.on_warning(&format!("old checkpoints could not be deleted: {error}"));
        }
        Ok(path)
    }

    /// Takes over what a compact checkpoint can hold, whether it is then written or not: a run that resumes from it
    /// and one that goes on are the same.
    fn round_state(&mut self) -> Result<(), TrainError> {
        if !self.recipe.train.compact_checkpoints {
            return Ok(());
        }
        self.optimizer.round(!self.model.has_lora())?;
        self.zero.finish_update()
    }

    /// Rank 0's part: the folder, and its place among the checkpoints.
    fn publish(&self, state: &TrainState) -> Result<PathBuf, TrainError> {
        let alone = self.group.size() == 1;
        let mut asked = alone;
        let path = self.store.path_of(state.step);
        // What this run has saved, or goes on from, is there already.
        let published = match self.held == Some(state.step) && is_published(&path) {
            true => Ok(path),
            false => self.store.publish(state.step, |dir| {
                if !alone {
                    asked = true;
                    self.group.exchange(dir.to_string_lossy().as_bytes())?;
                }
                self.write_checkpoint(dir, state)
            }),
        };
        if alone {
            return published;
        }
        if !asked {
            self.group.exchange(&[])?;
        }
        let said = match &published {
            Ok(path) => format!("+{}", path.display()),
            Err(error) => format!("-{}", chain(error)),
        };
        self.group.exchange(said.as_bytes())?;
        published
    }

    /// The part of every other rank.
    fn publish_with_first(&self, state: &TrainState) -> Result<PathBuf, TrainError> {
        let first = |all: Vec<Vec<u8>>| {
            let words = all
                .first()
                .map(|words| String::from_utf8_lossy(words).into_owned());
            words.unwrap_or_default()
        };
        let dir = first(self.group.exchange(&[])?);
        let written = match dir.is_empty() {
            true => Ok(()),
            false => self.write_checkpoint(Path::new(&dir), state),
        };
        let said = first(self.group.exchange(&[])?);
        written?;
        match said.strip_prefix('+') {
            Some(path) => Ok(path.into()),
            None => Err(TrainError::Peer {
                rank: 0,
                reason: said.trim_start_matches('-').to_owned(),
            }),
        }
    }

    /// Writes this rank's files of a checkpoint; an error of any rank is one of all.
    fn write_checkpoint(&self, dir: &Path, state: &TrainState) -> Result<(), TrainError> {
        let first = self.group.is_first();
        let mut written = self.save_model(&dir.join("model"), true);
        if written.is_ok() && (first || self.zero.stage() > 0) {
            written = self.optimizer.save(dir);
        }
        if written.is_ok() && first {
            written = serde_json::to_vec_pretty(state)
                .map_err(|e| TrainError::save(dir, e))
                .and_then(|text| write(&dir.join("state.json"), &text))
                .and_then(|()| write(&dir.join("recipe.toml"), self.recipe.to_toml()?.as_bytes()));
        }
        if self.group.size() == 1 {
            return written;
        }
        let said = written.as_ref().err().map(|e| chain(e)).unwrap_or_default();
        let all = self.group.exchange(said.as_bytes())?;
        written?;
        let mut failed = all.iter().enumerate().filter(|(_, said)| !said.is_empty());
        match failed.next() {
            None => Ok(()),
            Some((rank, said)) => Err(TrainError::Peer {
                rank,
                reason: String::from_utf8_lossy(said).into_owned(),
            }),
        }
    }

    /// Saves steps that no checkpoint holds yet, before an error ends the run: a bad sample must not
    /// cost the work done before it. A failure is a warning, the first error is the one to report.
    pub(super) fn keep(&mut self, observer: &mut dyn Observer) {
        let held = self
            .store
            .list()
            .map(|all| all.last().map_or(0, |info| info.step));
        let held = held.is_ok_and(|step| step >= self.state.step);
        // A rank may see the folder later than rank 0, which therefore decides.
        if self.first_says(held).unwrap_or(true) {
            return;
        }
        if let Err(error) = self.save_checkpoint(observer) {
            observer.on_warning(&crate::error::chain(&error));
        }
    }

    /// As [`Trainer::save_checkpoint`], going on after a failure where the recipe says so.
    pub(super) fn save_or_warn(&mut self, observer: &mut dyn Observer) -> Result<(), TrainError> {
        match self.save_checkpoint(observer) {
            Ok(_) => Ok(()),
            // A full disk may have room later; a lost rank does not come back.
            Err(error) if self.group.check().is_err() => Err(error),
            Err(error) if self.recipe.train.on_save_error == OnSaveError::Continue => {
                observer.on_warning(&crate::error::chain(&error));
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Last checkpoint, `model/`, and for stage 1 `mm_projector.safetensors`.
    pub(super) fn finish(&mut self, observer: &mut dyn Observer) -> Result<PathBuf, TrainError> {
        self.save_or_warn(observer)?;
        // A rank that was lost in the last step left the others a sum without its part.
        self.group.check()?;
        if self.recipe.train.stage == Stage::Pretrain {
            let path = self.run_dir.join(PROJECTOR_FILE);
            let kept = self.save_projector(&path)?;
            tell_kept(kept, &path, observer);
        }
        let model = self.run_dir.join("model");
        match self.group.is_first() {
            true => {
                let kept = publish(&model, |dir| self.save_model(dir, false))?;
                tell_kept(kept, &model, observer);
            }
            false => self.save_model(&model, false)?,
        }
        if let Some(averages) = self.optimizer.averages() {
            let model = self.run_dir.join("model-ema");
            let format = self.recipe.train.weight_format(false);
            match self.group.is_first() {
                true => {
                    let kept = publish(&model, |dir| self.save_values(dir, &averages, format))?;
                    tell_kept(kept, &model, observer);
                }
                false => self.save_values(&model, &averages, format)?,
            }
        }
        Ok(model)
    }

    /// Writes the model folder on rank 0, to which all ranks give what they keep: the whole model, or its
    /// adapters and what trains beside them; of a checkpoint, or of the finished run.
    fn save_model(&self, folder: &Path, checkpoint: bool) -> Result<(), TrainError> {
        let format = self.recipe.train.weight_format(checkpoint);
        self.save_values(folder, &self.optimizer.masters(), format)
    }

    /// As [`Trainer::save_model`] with the values of `masters` where it has them.
    fn save_values(
        &self,
        folder: &Path,
        masters: &HashMap<String, Tensor>,
        format: WeightFormat,
    ) -> Result<(), TrainError> {
        self.zero.write_values(masters, |value| {
            let from = Some(self.tokenizer_folder.as_path());
            let saved = match self.model.has_lora() {
                false => self.model.save_with(folder, from, format, value),
                true => {
                    let base = base_folder(&self.recipe)?;
                    self.model
                        .save_adapter(folder, &base.to_string_lossy(), from, value)
                }
            };
            saved.map_err(|e| {
                let full = matches!(e, ModelError::Save(SaveError::DiskFull { .. }));
                match TrainError::save(folder, e) {
                    TrainError::Save { path, source, .. } if full => TrainError::Save {
                        path,
                        disk_full: true,
                        source,
                    },
                    other => other,
                }
            })
        })
    }

    /// Projector and fusion under their published names; gives the name of an earlier file that differs.
    fn save_projector(&self, path: &Path) -> Result<Option<PathBuf>, TrainError> {
        let mut kept = None;
        self.zero.write_values(&self.optimizer.masters(), |value| {
            let mut tensors = Vec::new();
            for param in self.model.params() {
                if trains(Stage::Pretrain, param.name()) {
                    let value = value(&param).to_device(&Device::Cpu)?.cast(DType::F32)?;
                    tensors.push((param.name().to_owned(), Stored::Tensor(value)));
                }
            }
            kept = publish(path, |aside| write_tensors(aside, tensors))?;
            Ok(())
        })?;
        Ok(kept)
    }
}

/// Says where what was there before is now.
fn tell_kept(kept: Option<PathBuf>, path: &Path, observer: &mut dyn Observer) {
    if let Some(kept) = kept {
        observer.on_warning(&format!(
            "{} was there with other weights; it is kept as {}",
            path.display(),
            kept.display()
        ));
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    fs::write(path, bytes).map_err(|e| TrainError::save(path, e))
}
