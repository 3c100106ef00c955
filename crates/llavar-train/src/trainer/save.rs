//! Writing checkpoints and the final model.

use std::{
    fs,
    path::{Path, PathBuf},
};

use llavar_model::{
    ModelError,
    weights::{Dtype, SaveError},
};
use llavar_tensor::{DType, Device, Param};

use super::Trainer;
use crate::{
    Observer, TrainError,
    checkpoint::{TrainState, replace_folder},
    lazy::write_tensors,
    recipe::{OnSaveError, Stage},
    stage::trains,
};

/// Stage-1 weights in a run folder.
const PROJECTOR_FILE: &str = "mm_projector.safetensors";

impl Trainer {
    /// Saves the present state; then old checkpoints go.
    pub(super) fn save_checkpoint(
        &mut self,
        observer: &mut dyn Observer,
    ) -> Result<PathBuf, TrainError> {
        let state = TrainState {
            bad_samples: self.quarantine.bad().iter().copied().collect(),
            ..self.state.clone()
        };
        let path = self.store.publish(state.step, |dir| {
            self.save_model(&dir.join("model"))?;
            self.optimizer.save(&dir.join("optimizer.safetensors"))?;
            let text = serde_json::to_vec_pretty(&state).map_err(|e| TrainError::save(dir, e))?;
            write(&dir.join("state.json"), &text)?;
            write(&dir.join("recipe.toml"), self.recipe.to_toml()?.as_bytes())
        })?;
        // The folder copied from until now may be a checkpoint that is deleted next.
        self.tokenizer_folder = path.join("model");
        observer.on_checkpoint(state.step, &path);
        if let Err(error) = self.store.retain(self.recipe.train.save_total_limit) {
            // The new checkpoint is safe; an old one too many is no reason to stop.
            observer.on_warning(&format!("old checkpoints could not be deleted: {error}"));
        }
        Ok(path)
    }

    /// Saves steps that no checkpoint holds yet, before an error ends the run: a bad sample must not
    /// cost the work done before it. A failure is a warning, the first error is the one to report.
    pub(super) fn keep(&mut self, observer: &mut dyn Observer) {
        let held = self
            .store
            .list()
            .map(|all| all.last().map_or(0, |info| info.step));
        if held.is_ok_and(|step| step >= self.state.step) {
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
        if self.recipe.train.stage == Stage::Pretrain {
            self.save_projector(&self.run_dir.join(PROJECTOR_FILE))?;
        }
        let model = self.run_dir.join("model");
        replace_folder(&model, |dir| self.save_model(dir))?;
        Ok(model)
    }

    fn save_model(&self, folder: &Path) -> Result<(), TrainError> {
        let masters = self.optimizer.masters();
        let value = |param: &Param| masters.get(param.name()).cloned().unwrap_or(param.value());
        self.model
            .save_with(folder, Some(&self.tokenizer_folder), Dtype::F32, value)
            .map_err(|e| {
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
    }

    /// Projector and fusion under their published names, written aside and renamed.
    fn save_projector(&self, path: &Path) -> Result<(), TrainError> {
        let masters = self.optimizer.masters();
        let mut tensors = Vec::new();
        for param in self.model.params() {
            if trains(Stage::Pretrain, param.name()) {
                let value = masters.get(param.name()).cloned().unwrap_or(param.value());
                let value = value.to_device(&Device::Cpu)?.cast(DType::F32)?;
                tensors.push((param.name().to_owned(), value));
            }
        }
        let aside = path.with_extension("partial");
        let written = write_tensors(&aside, tensors)
            .and_then(|()| fs::rename(&aside, path).map_err(|e| TrainError::save(path, e)));
        if written.is_err() {
            let _ = fs::remove_file(&aside);
        }
        written
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    fs::write(path, bytes).map_err(|e| TrainError::save(path, e))
}
