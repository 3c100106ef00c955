//! `Trainer`: a run from its first step to its model folder.

mod device;
mod model;
mod open;
#[cfg(test)]
mod parity;
mod save;
mod step;

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use device::Place;
use llavar_model::LlavaModel;
use step::Pipeline;

use crate::{
    Observer, Recipe, RunInfo, TrainError,
    checkpoint::{Store, TrainState},
    data::{Cut, CutLog, Feed, Loader, Orders, Quarantine, SampleSource},
    optimizer::Optimizer,
    run_log::RunLog,
    schedule::{Schedule, StepPlan},
};

/// Where a run starts from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resume {
    /// A new run; an error where the run folder holds checkpoints or a model.
    No,
    /// The newest valid checkpoint of the run folder; a new run where there is none. Checkpoints that
    /// are damaged are renamed and passed over.
    Auto,
    /// This checkpoint (or the newest valid one of this run folder).
    From(PathBuf),
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// All steps are done.
    Finished {
        /// Steps done.
        step: u64,
        /// The trained model, an HF folder.
        model: PathBuf,
    },
    /// The stop flag was set; the run can be resumed. Exit code 130 by convention.
    Interrupted {
        /// Steps done.
        step: u64,
        /// The checkpoint that was saved.
        checkpoint: PathBuf,
    },
}

/// One training run in its folder.
///
/// # Determinism
/// With the same recipe, data and thread count the weights after a step are the same bits, whether the
/// run was interrupted before or not.
#[derive(Debug)]
pub struct Trainer {
    recipe: Recipe,
    model: LlavaModel,
    /// Where the tokenizer's files are copied from.
    tokenizer_folder: PathBuf,
    run_dir: PathBuf,
    store: Store,
    source: Arc<SampleSource>,
    orders: Arc<Orders>,
    optimizer: Optimizer,
    place: Place,
    plan: StepPlan,
    schedule: Schedule,
    state: TrainState,
    quarantine: Quarantine,
    cuts: CutLog,
    resumed_from: Option<PathBuf>,
    warnings: Vec<String>,
    /// Held for the life of the run; the system lets go of it however the process ends.
    _lock: File,
}

impl Trainer {
    /// Opens model, data and run folder as the recipe says.
    ///
    /// # Errors
    /// Everything that can be found wrong before the first step.
    pub fn new(recipe: Recipe, run_dir: &Path, resume: Resume) -> Result<Self, TrainError> {
        Self::open(recipe, None, run_dir, resume)
    }

    /// As [`Trainer::new`] with a model that is there already; `tokenizer_folder` holds its
    /// `tokenizer.json`. When the run resumes, the weights are the checkpoint's.
    ///
    /// # Errors
    /// As [`Trainer::new`].
    pub fn with_model(
        recipe: Recipe,
        model: LlavaModel,
        tokenizer_folder: &Path,
        run_dir: &Path,
        resume: Resume,
    ) -> Result<Self, TrainError> {
        Self::open(recipe, Some((model, tokenizer_folder)), run_dir, resume)
    }

    /// The model, as trained so far.
    pub fn model(&self) -> &LlavaModel {
        &self.model
    }

    /// Gives the model out of the run.
    pub fn into_model(self) -> LlavaModel {
        self.model
    }

    /// The resolved recipe.
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// Position of the run.
    pub fn state(&self) -> &TrainState {
        &self.state
    }

    /// What is known before the next step.
    pub fn info(&self) -> RunInfo {
        RunInfo {
            total_steps: self.plan.total_steps(),
            first_step: self.state.step,
            warmup_steps: self.schedule.warmup(),
            samples: self.orders.epoch_len(),
            parameters: self.model.params().iter().map(|p| p.numel()).sum(),
            trainable_parameters: self.optimizer.numel(),
            device: self.place.describe(),
            device_note: self.place.note.clone(),
            memory: self.memory_plan(),
            packing: self.orders.packing(),
            resumed_from: self.resumed_from.clone(),
            warnings: self.warnings.clone(),
        }
    }

    /// Trains to the end, or until `stop` is set. The flag is looked at before each micro-batch; then
    /// the state after the last whole step is saved. After an error the state in memory is that of the
    /// last whole step: once its cause is gone (a full disk, say), calling this again goes on from there.
    ///
    /// # Errors
    /// [`TrainError::BadSample`], [`TrainError::TooManyBadSamples`] and [`TrainError::BadSamplesInARow`],
    /// [`TrainError::Save`], and what the model says.
    pub fn run(
        &mut self,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
    ) -> Result<Outcome, TrainError> {
        match self.place.device.as_cuda() {
            Some(cuda) => cuda.reset_peak(),
            None => llavar_tensor::memory::reset_peak(),
        }
        observer.on_start(&self.info());
        for warning in self.warnings.drain(..) {
            observer.on_warning(&warning);
        }
        let total = self.plan.total_steps();
        if self.state.step < total {
            let log = RunLog::open(&self.run_dir.join("train.jsonl"), self.state.step)?;
            let mut pipe = Pipeline::new(log, self.state.step, self.checkpointing());
            let mut feed = self.start_feed()?;
            while self.state.step < total {
                let done = match stop.load(Relaxed) {
                    true => Ok(false),
                    false => self.step(&mut feed, &mut pipe, observer, stop),
                };
                match done {
                    Ok(true) => {}
                    Ok(false) => {
                        drop(feed);
                        self.settle(&mut pipe, observer)?;
                        let checkpoint = self.save_checkpoint(observer)?;
                        let step = self.state.step;
                        return Ok(Outcome::Interrupted { step, checkpoint });
                    }
                    Err(error) => {
                        drop(feed);
                        if let Err(more) = self.settle(&mut pipe, observer) {
                            observer.on_warning(&crate::error::chain(&more));
                        }
                        self.keep(observer);
                        return Err(self.explained(error));
                    }
                }
                let every = self.recipe.train.save_steps;
                if every > 0 && self.state.step.is_multiple_of(every) && self.state.step < total {
                    self.settle(&mut pipe, observer)?;
                    self.save_or_warn(observer)?;
                }
            }
            self.settle(&mut pipe, observer)?;
            if let Some(summary) = self.cuts.summary() {
                observer.on_warning(&summary);
            }
        }
        let model = self.finish(observer)?;
        Ok(Outcome::Finished {
            step: self.state.step,
            model,
        })
    }

    fn start_feed(&self) -> Result<Feed, TrainError> {
        let (train, data) = (&self.recipe.train, &self.recipe.data);
        let cut = Cut {
            plan: self.plan,
            layout: train.layout,
            max_tokens: train.max_tokens_per_micro_batch,
            image_tokens: self.model.tokens_per_image().unwrap_or(0),
        };
        let (loader, source) = (self.start_loader()?, Arc::clone(&self.source));
        let ahead = data.dataloader_num_workers > 0;
        Ok(Feed::start(loader, source, cut, self.state.step, ahead))
    }

    fn start_loader(&self) -> Result<Loader, TrainError> {
        let data = &self.recipe.data;
        let places = self.plan.first_sample(self.state.step)
            ..self.plan.first_sample(self.plan.total_steps());
        let most_in_a_row = match data.on_bad_sample {
            crate::recipe::OnBadSample::Stop => 0,
            // One more than is allowed in all, so that that limit itself is what stops the run.
            crate::recipe::OnBadSample::Skip => data
                .max_consecutive_bad_samples
                .min(data.max_bad_samples + 1),
        };
        Loader::start(
            Arc::clone(&self.source),
            Arc::clone(&self.orders),
            places,
            data.dataloader_num_workers,
            data.prefetch_bytes,
            most_in_a_row,
        )
    }
}
