//! `Trainer`: a run from its first step to its model folder.

mod adapters;
mod device;
mod model;
mod open;
#[cfg(test)]
mod parity;
mod ranks;
mod resumed;
mod rollback;
mod save;
mod step;
mod trace;
mod worst;

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
};

use device::Place;
pub(crate) use device::fp8_bytes;
use llavar_model::LlavaModel;
use llavar_tensor::collective::Group;
pub(crate) use model::makes_adapters;
use serde_json::json;
use step::Pipeline;

pub use trace::TraceSummary;

use crate::{
    FeatureReport, Observer, Recipe, RunInfo, TrainError,
    checkpoint::{Store, TrainState},
    data::{Cut, CutLog, Feed, Loader, Orders, Quarantine, SampleSource},
    features::FeatureCache,
    guard::SpikeGuard,
    logs::{Logs, Recording, Worst, mfu::Utilisation},
    optimizer::Optimizer,
    parallel::{Share, Zero},
    schedule::{Schedule, StepPlan},
};

/// Where a run starts from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resume {
    /// A new run; an error where the run folder holds checkpoints or a model.
    No,
    /// The newest valid checkpoint of the run folder; a new run where there is no checkpoint and no model. Newer
    /// ones that are damaged are renamed and passed over.
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
    /// Step of the run folder's checkpoint that this run has saved last, or goes on from.
    held: Option<u64>,
    source: Arc<SampleSource>,
    features: Option<Arc<FeatureCache>>,
    feature_report: Option<FeatureReport>,
    orders: Arc<Orders>,
    optimizer: Optimizer,
    /// All ranks of the run.
    group: Arc<Group>,
    zero: Zero,
    /// Whether an error at this point is the same on all ranks, so that they can still work together.
    agreed: bool,
    place: Place,
    plan: StepPlan,
    schedule: Schedule,
    state: TrainState,
    guard: Option<SpikeGuard>,
    /// A step whose spike asks to go back.
    spiked: Option<u64>,
    worst: Worst,
    utilisation: Option<Utilisation>,
    quarantine: Quarantine,
    cuts: CutLog,
    resumed_from: Option<PathBuf>,
    warnings: Vec<String>,
    /// Held for the life of the run; the system lets go of it however the process ends.
    _lock: Option<File>,
}

impl Trainer {
    /// Opens model, data and run folder as the recipe says.
    ///
    /// # Errors
    /// Everything that can be found wrong before the first step.
    pub fn new(recipe: Recipe, run_dir: &Path, resume: Resume) -> Result<Self, TrainError> {
        Self::open(recipe, None, run_dir, resume, Arc::new(Group::single()))
    }

    /// As [`Trainer::new`] on one of several ranks ([`crate::join_ranks`]), all of which call it with the same
    /// arguments. Rank 0 reads and writes the run folder, which all of them see; with ZeRO every rank writes its
    /// part of a checkpoint. A checkpoint resumes on any number of ranks: steps keep their samples, so that losses
    /// differ by rounding alone; on the number that it was saved on the bits are those of an unbroken run. After an
    /// error the group has been left with it; after [`Trainer::run`] the caller leaves it.
    ///
    /// # Errors
    /// As [`Trainer::new`], and [`llavar_tensor::Error::RankLost`] in [`TrainError::Tensor`].
    pub fn on_ranks(
        recipe: Recipe,
        run_dir: &Path,
        resume: Resume,
        group: Arc<Group>,
    ) -> Result<Self, TrainError> {
        Self::open(recipe, None, run_dir, resume, group)
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
        let given = Some((model, tokenizer_folder));
        Self::open(recipe, given, run_dir, resume, Arc::new(Group::single()))
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
            trainable_parameters: self.trainable(),
            adapters: self.adapters(),
            ranks: self.group.size(),
            backend: self.group.collective().backend(),
            zero_stage: self.zero.stage(),
            device: self.place.describe(self.recipe.train.fp8),
            groups: self.optimizer.groups(),
            device_note: self.place.note.clone(),
            memory: self.memory_plan(),
            packing: self.orders.packing(),
            features: self.feature_report.clone(),
            resumed_from: self.resumed_from.clone(),
            warnings: self.warnings.clone(),
        }
    }

    /// Number of this process among those of the run; rank 0 logs and publishes.
    pub fn rank(&self) -> usize {
        self.group.rank()
    }

    /// Elements that train, over all ranks.
    fn trainable(&self) -> usize {
        let params = self.model.params().into_iter();
        let trained = params.filter(llavar_tensor::Param::requires_grad);
        trained.map(|p| p.numel()).sum()
    }

    /// Trains to the end, or until `stop` is set. The flag is looked at before each micro-batch; then
    /// the state after the last whole step is saved. After an error the state in memory is that of the
    /// last whole step: once its cause is gone (a full disk, say), calling this again goes on from there.
    ///
    /// # Errors
    /// [`TrainError::BadSample`], [`TrainError::TooManyBadSamples`] and [`TrainError::BadSamplesInARow`],
    /// [`TrainError::Save`], and what the model says. On several ranks an error of one ends all, each with an
    /// error that names it; the steps up to there are saved where the ranks can still work together.
    pub fn run(
        &mut self,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
    ) -> Result<Outcome, TrainError> {
        let path = self.run_dir.join("events.jsonl");
        let mut recording = Recording::new(observer, self.group.is_first().then_some(&path));
        let outcome = self.run_steps(&mut recording, stop);
        match &outcome {
            Ok(Outcome::Finished { step, .. }) => recording.add("finish", json!({"step": step})),
            Ok(Outcome::Interrupted { step, .. }) => {
                recording.add("interrupt", json!({"step": step}));
            }
            Err(error) => recording.add(
                "error",
                json!({"step": self.state.step, "message": crate::error::chain(error)}),
            ),
        }
        outcome.map_err(|error| {
            let error = self.zero.explained(error);
            // Saying farewell after a failure cannot fail; one rank alone has nobody to say it to.
            let _ = self.group.leave(Some(&crate::error::chain(&error)));
            error
        })
    }

    fn run_steps(
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
        while self.state.step < self.plan.total_steps() {
            if let Some(outcome) = self.run_stretch(observer, stop)? {
                self.tell_of_samples(observer);
                return Ok(outcome);
            }
        }
        self.tell_of_samples(observer);
        self.tell_of_lost_steps(observer);
        let model = self.finish(observer)?;
        Ok(Outcome::Finished {
            step: self.state.step,
            model,
        })
    }

    /// Says of which samples the run had a part alone, or nothing.
    fn tell_of_samples(&self, observer: &mut dyn Observer) {
        let summaries = [self.cuts.summary(), self.quarantine.summary()];
        for summary in summaries.into_iter().flatten() {
            observer.on_warning(&summary);
        }
    }

    /// Steps up to the end of the run, or up to a spike after which the run goes back. The outcome where `stop`
    /// was set.
    fn run_stretch(
        &mut self,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
    ) -> Result<Option<Outcome>, TrainError> {
        let total = self.plan.total_steps();
        let log = match self.group.is_first() {
            true => Some(Logs::open(&self.run_dir, &self.recipe, self.state.step)?),
            false => None,
        };
        let mut pipe = Pipeline::new(log, self.state.step, self.checkpointing());
        let mut feed = self.start_feed()?;
        while self.state.step < total {
            let trace = self.begin_trace(observer)?;
            match self.step(&mut feed, &mut pipe, observer, stop) {
                Ok(true) => {
                    if let Some(trace) = trace {
                        self.finish_trace(trace, observer)?;
                    }
                }
                Ok(false) => {
                    drop(feed);
                    self.settle(&mut pipe, observer)?;
                    self.go_back(observer)?;
                    let checkpoint = self.save_checkpoint(observer)?;
                    let step = self.state.step;
                    return Ok(Some(Outcome::Interrupted { step, checkpoint }));
                }
                Err(error) => {
                    drop(feed);
                    if let Err(more) = self.settle(&mut pipe, observer) {
                        observer.on_warning(&crate::error::chain(&more));
                    }
                    let sound = self.spiked.is_none() && self.state.not_finite_in_a_row == 0;
                    if self.agreed && sound {
                        self.keep(observer);
                    }
                    return Err(self.explained(error));
                }
            }
            let (step, every) = (self.state.step, self.recipe.train.save_steps);
            let due = every > 0 && step.is_multiple_of(every) && step < total;
            if due || step == total {
                self.settle(&mut pipe, observer)?;
            }
            // A spike is known one step late on a GPU, however early its numbers came.
            if self.go_back(observer)? {
                break;
            }
            if due {
                self.save_or_warn(observer)?;
            }
        }
        Ok(None)
    }

    fn start_feed(&self) -> Result<Feed, TrainError> {
        let (train, data) = (&self.recipe.train, &self.recipe.data);
        let cut = Cut {
            plan: self.plan,
            share: self.share(),
            layout: train.layout,
            max_tokens: train.max_tokens_per_micro_batch,
            image_tokens: self.model.tokens_per_image().unwrap_or(0),
        };
        let step = self.state.data_step();
        let (loader, source) = (self.start_loader()?, Arc::clone(&self.source));
        let ahead = data.dataloader_num_workers > 0;
        Ok(Feed::start(loader, source, cut, step, ahead))
    }

    fn start_loader(&self) -> Result<Loader, TrainError> {
        let data = &self.recipe.data;
        let last = self.plan.total_steps() + self.state.guard.passed_steps;
        let places = self.plan.first_sample(self.state.data_step())..self.plan.first_sample(last);
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
            (self.share(), self.plan),
        )
    }

    /// Which micro-batches of a step are this rank's.
    fn share(&self) -> Share {
        match self.group.size() {
            1 => Share::ALL,
            ranks => Share {
                rank: self.group.rank() as u64,
                ranks: ranks as u64,
            },
        }
    }
}
