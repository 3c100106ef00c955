//! One optimizer step: load, accumulate, clip, update.
//!
//! On a GPU nothing of it waits for the device: forward and backward passes, norm and updates are queued,
//! and loss and norm of a step are read when the next one has been queued behind it.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::{Duration, Instant},
};

use llavar_model::Checkpointing;
use llavar_tensor::{
    DType, Tape, Tensor, Var,
    cuda::Readback,
    memory,
    optim::{StepLimits, StepReadback},
};

use super::{Trainer, ranks::Losses};
use crate::{
    Observer, StepReport, TrainError,
    data::{Batch, Feed, Item, Pictures},
    guard::Usual,
    logs::{Logs, SampleLosses},
    observer::resident_bytes,
    recipe::{LossWeighting, OnSpike},
};

/// How long to wait for data before looking at the device and the stop flag again.
const PATIENCE: Duration = Duration::from_millis(1);

/// What goes on from one step to the next.
pub(super) struct Pipeline {
    /// Absent on ranks that do not log.
    log: Option<Logs>,
    checkpointing: Checkpointing,
    /// When this run began, and after which step.
    begun: (Instant, u64),
    /// When the end of the last step was seen.
    last_end: Instant,
    /// A step that is queued and not reported yet.
    pending: Option<PendingStep>,
}

/// A step on its way through the device.
struct PendingStep {
    step: u64,
    start: Instant,
    /// Seconds in which the device waited for data.
    waited: f64,
    /// Losses of the step's micro-batches.
    losses: Losses,
    result: StepReadback,
    /// When it was first seen that the device had done it.
    ended: Option<Instant>,
    /// Losses of this rank's samples, where they are wanted.
    samples: Vec<SampleLosses>,
    /// Operations of the model on this rank.
    operations: f64,
    /// What loss and norm were judged by.
    usual: Usual,
    learning_rate: f64,
    supervised: usize,
    tokens: usize,
    images: usize,
}

/// A loss that is known or on its way.
pub(super) enum LossValue {
    Known(f64),
    Coming(Readback),
}

/// Loss of a micro-batch.
struct MicroLoss {
    /// Summed over its tokens.
    value: LossValue,
    /// Where that is.
    sum: Tensor,
    /// Of its samples, where they are wanted.
    samples: Option<SampleLosses>,
}

impl LossValue {
    /// Asks for a scalar.
    pub(super) fn of(value: &Tensor) -> Result<Self, TrainError> {
        let value = value.cast(DType::F32)?;
        Ok(match value.device().as_cuda() {
            Some(cuda) => Self::Coming(cuda.read_back(&value)?),
            None => Self::Known(f64::from(value.item()?)),
        })
    }

    fn is_ready(&self) -> bool {
        match self {
            Self::Known(_) => true,
            Self::Coming(readback) => readback.is_ready(),
        }
    }

    pub(super) fn wait(self) -> Result<f64, TrainError> {
        Ok(match self {
            Self::Known(value) => value,
            Self::Coming(readback) => readback
                .wait()?
                .first()
                .copied()
                .map_or(f64::NAN, f64::from),
        })
    }
}

impl Pipeline {
    /// For a run that goes on after `step`.
    pub(super) fn new(log: Option<Logs>, step: u64, checkpointing: Checkpointing) -> Self {
        let now = Instant::now();
        Self {
            log,
            checkpointing,
            begun: (now, step),
            last_end: now,
            pending: None,
        }
    }

    /// Looks whether the step under way has ended. Queueing the next one may take the host longer than the device
    /// needs, so it is asked for in between; else a step's time would go on to its record.
    fn look(&mut self) {
        if let Some(pending) = &mut self.pending
            && pending.ended.is_none()
            && pending.result.is_ready()
        {
            pending.ended = Some(Instant::now());
        }
    }

    /// Whether the device has done all that was queued; `newest` is the last loss of the present step.
    fn is_idle(&self, newest: Option<&LossValue>) -> bool {
        match (newest, &self.pending) {
            (Some(loss), _) => loss.is_ready(),
            (None, Some(pending)) => pending.result.is_ready(),
            (None, None) => true,
        }
    }
}

impl Trainer {
    /// Queues the next step and reports the one before; false when `stop` was set before it was queued
    /// (nothing is changed then). On the CPU the step is done and reported at once.
    pub(super) fn step(
        &mut self,
        feed: &mut Feed,
        pipe: &mut Pipeline,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
    ) -> Result<bool, TrainError> {
        let start = Instant::now();
        let Some((round, mut waited)) = self.next_round(feed, pipe, observer, stop)? else {
            return Ok(false);
        };
        // Ranks stop together, before a step; one alone may stop between micro-batches too.
        let never = AtomicBool::new(false);
        let stop = if self.group.size() > 1 { &never } else { stop };

        pipe.look();
        // A step that failed half-way may have left some.
        self.forget_gradients();
        let mut losses = Vec::with_capacity(round.own_parts);
        let (mut samples, mut operations) = (Vec::new(), 0.0);
        for (part, images) in round.all.with_images.iter().enumerate() {
            self.zero.begin_micro_batch(*images);
            if part < round.own_parts {
                let newest = losses.last().map(|(_, loss, _)| loss);
                let next = match stop.load(Relaxed) {
                    true => None,
                    false => self.next_item(feed, pipe, newest, observer, stop)?,
                };
                let Some((item, seconds)) = next else {
                    self.forget_gradients();
                    return Ok(false);
                };
                let Item::Micro(batch) = item else {
                    return Err(TrainError::Workers);
                };
                waited += seconds;
                let weight = match self.recipe.train.loss_weighting {
                    LossWeighting::Token => 1.0 / round.all.supervised.max(1) as f64,
                    LossWeighting::MicroBatch => {
                        1.0 / (batch.supervised.max(1) * round.all.parts) as f64
                    }
                };
                let seed = self.dropout_seed(part);
                let loss = self.forward_backward(&batch, weight as f32, seed, pipe);
                let loss = loss.map_err(|error| self.zero.explained(error))?;
                samples.extend(loss.samples);
                losses.push((weight, loss.value, loss.sum));
                if let Some(utilisation) = &self.utilisation {
                    let (count, images) = (batch.supervised, batch.images());
                    operations +=
                        utilisation.operations(&self.model, &batch.segments, count, images);
                }
            }
            self.zero.finish_micro_batch()?;
            pipe.look();
        }
        let (losses, pairs) = self.losses_of_all(losses, round.all.with_images.len())?;
        self.zero.finish_gradients()?;
        let (tokens, images, supervised) =
            (round.all.tokens, round.all.images, round.all.supervised);

        let factor = self.schedule.factor(self.state.step);
        let learning_rate = factor * self.recipe.train.learning_rate;
        let (mut usual, mut limits) = (Usual::default(), None);
        if let (Some(guard), Some(pairs)) = (self.guard, &pairs) {
            usual = guard.before(&self.state.guard, self.state.step + 1);
            let [loss, norm] = usual.limits();
            limits = Some(StepLimits {
                losses: pairs,
                loss,
                norm,
                skip: guard.on_spike != OnSpike::Warn,
            });
        }
        let result = self.optimizer.step(factor, limits)?;
        self.optimizer.zero_grad();
        self.zero.finish_update()?;
        pipe.look();

        let state = &mut self.state;
        state.step += 1;
        let next = self.plan.first_sample(state.data_step());
        let units = self.orders.epoch_len() as u64;
        (state.epoch, state.position) = (next / units, next % units);
        state.tokens += tokens as u64;
        state.supervised_tokens += supervised as u64;
        state.images += images as u64;
        let pending = PendingStep {
            step: state.step,
            start,
            waited,
            losses,
            result,
            ended: None,
            samples,
            operations,
            usual,
            learning_rate,
            supervised,
            tokens,
            images,
        };
        self.settle(pipe, observer)?;
        pipe.pending = Some(pending);
        if !self.place.device.is_cuda() {
            self.settle(pipe, observer)?;
        }
        Ok(true)
    }

    /// Waits for the step that is under way, if there is one, and reports it.
    pub(super) fn settle(
        &mut self,
        pipe: &mut Pipeline,
        observer: &mut dyn Observer,
    ) -> Result<(), TrainError> {
        let Some(pending) = pipe.pending.take() else {
            return Ok(());
        };
        let loss = pending.losses.wait()?;
        let result = pending.result.wait()?;
        let ended = pending.ended.unwrap_or_else(Instant::now);
        // On a GPU a step begins when the one before it ends, not when it was queued.
        let seconds = ended
            .duration_since(pending.start.max(pipe.last_end))
            .as_secs_f64()
            .max(1e-9);
        pipe.last_end = ended;
        let state = &mut self.state;
        state.updates = result.updates;
        state.skipped_steps += u64::from(result.skipped);
        state.seconds += seconds;
        // One loss that is not finite is told of, and hides no other in the mean.
        if loss.is_finite() {
            state.log_loss += loss;
            state.log_steps += 1;
        }
        state.add_loss(loss);
        self.worst.observe(pending.step, loss, pending.samples)?;
        let state = &mut self.state;
        let spike = result.loss_spike || result.norm_spike;
        let scores = pending.usual.scores(loss, result.norm);
        if let Some(guard) = self.guard {
            let (usual, step) = (pending.usual, pending.step);
            guard.observe(&mut state.guard, usual, step, loss, result.norm);
        }
        let lost = result.skipped && !spike;
        state.not_finite_in_a_row = match lost {
            true => state.not_finite_in_a_row + 1,
            false => 0,
        };
        // A run that is to go back forgets what it does until then.
        if spike && self.spiked.is_none() {
            state.guard.spikes += 1;
            let spikes = [result.loss_spike, result.norm_spike];
            let what = pending.usual.describe(loss, result.norm, spikes);
            self.on_spike(pending.step, &what, observer);
        } else if lost {
            observer.on_warning(&format!(
                "step {}: the gradient is not finite (loss {loss}); the update was skipped",
                pending.step
            ));
        }
        let done = (pending.step - pipe.begun.1) as f64;
        let left = (self.plan.total_steps() - pending.step) as f64;
        let report = StepReport {
            step: pending.step,
            total_steps: self.plan.total_steps(),
            epoch: self
                .plan
                .epochs(pending.step + self.state.guard.passed_steps),
            loss,
            learning_rate: pending.learning_rate,
            grad_norm: result.norm.is_finite().then_some(result.norm),
            loss_z: scores.loss,
            grad_norm_z: scores.norm,
            spike,
            skipped: result.skipped,
            supervised_tokens: pending.supervised,
            supervised_tokens_per_second: pending.supervised as f64 / seconds,
            tokens_per_second: pending.tokens as f64 / seconds,
            images_per_second: pending.images as f64 / seconds,
            mfu_percent: self
                .utilisation
                .map(|u| u.percent(pending.operations, seconds)),
            data_wait_percent: (100.0 * pending.waited / seconds).min(100.0),
            tensor_peak_bytes: match self.place.device.as_cuda() {
                Some(cuda) => cuda.memory().peak,
                None => memory::stats().peak,
            },
            resident_bytes: resident_bytes(),
            seconds,
            eta_seconds: ended.duration_since(pipe.begun.0).as_secs_f64() / done * left,
        };
        if let Some(warning) = self.features.as_ref().and_then(|f| f.take_warning()) {
            observer.on_warning(&warning);
        }
        self.log(pipe.log.as_mut(), &report)?;
        observer.on_step(&report);
        self.look_for_divergence(pending.step, observer)
    }

    /// Writes the step to the log if its turn has come.
    fn log(&mut self, log: Option<&mut Logs>, report: &StepReport) -> Result<(), TrainError> {
        let state = &mut self.state;
        let last = report.step == report.total_steps;
        if last || report.step.is_multiple_of(self.recipe.log.logging_steps) {
            if let Some(log) = log {
                // Not a number where no loss was finite.
                log.write(report, state.log_loss / state.log_steps as f64)?;
            }
            (state.log_loss, state.log_steps) = (0.0, 0);
        }
        Ok(())
    }

    /// The next item of the feed, with the seconds in which the device had nothing to do for want of it;
    /// `None` when `stop` was set. A step that ends meanwhile is reported.
    pub(super) fn next_item(
        &mut self,
        feed: &mut Feed,
        pipe: &mut Pipeline,
        newest: Option<&LossValue>,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
    ) -> Result<Option<(Item, f64)>, TrainError> {
        let start = Instant::now();
        let mut idle_since = pipe.is_idle(newest).then_some(start);
        loop {
            let item = feed.next(PATIENCE, stop)?;
            if let Some(item) = item {
                // A feed without thread works on this one, and the device may have come to an end meanwhile.
                let unseen = !feed.is_ahead() && pipe.is_idle(newest);
                let since = idle_since.or(unseen.then_some(start));
                let waited = since.map_or(0.0, |since| since.elapsed().as_secs_f64());
                return Ok(Some((item, waited)));
            }
            if stop.load(Relaxed) {
                return Ok(None);
            }
            if idle_since.is_none() && pipe.is_idle(newest) {
                idle_since = Some(Instant::now());
            }
            if pipe.pending.as_ref().is_some_and(|p| p.result.is_ready()) {
                self.settle(pipe, observer)?;
            }
        }
    }

    /// Pictures as rows for the text: through the tower, or from the features that it made before.
    fn encode(
        &self,
        tape: &Tape,
        pictures: &Pictures,
        checkpointing: Checkpointing,
    ) -> Result<Var, TrainError> {
        let (device, dtype) = (&self.place.device, self.model.activation_dtype());
        let rows = match &self.features {
            Some(cache) => {
                let features = cache.features(&self.model, pictures, device, dtype)?;
                self.model.encode_features(tape, &features)
            }
            None => {
                let pixels = pictures.pixels(device, dtype)?;
                let pixels = pixels.ok_or(TrainError::Workers)?;
                self.model.encode_images(tape, &pixels, checkpointing)
            }
        };
        rows.map_err(|e| TrainError::model(None, e))
    }

    /// Adds the gradient of `weight` times the batch's summed loss; `seed` decides dropout.
    fn forward_backward(
        &self,
        batch: &Batch,
        weight: f32,
        seed: u64,
        pipe: &mut Pipeline,
    ) -> Result<MicroLoss, TrainError> {
        let checkpointing = pipe.checkpointing;
        let tape = Tape::training().with_dropout(seed);
        let rows = batch
            .pictures
            .as_ref()
            .map(|pictures| self.encode(&tape, pictures, checkpointing))
            .transpose()?;
        pipe.look();
        let loss = self
            .model
            .loss_of_rows(
                &tape,
                &batch.ids,
                &batch.labels,
                &batch.segments,
                rows.as_ref(),
                checkpointing,
            )
            .map_err(|e| TrainError::model(None, e))?;
        pipe.look();
        let sum = loss.sum.value().clone();
        // A batch of text alone has nothing to teach the projector in stage 1.
        if loss.sum.requires_grad() {
            tape.backward(&loss.sum, weight)?;
        }
        pipe.look();
        // Asked for behind the backward pass, so that its arrival tells that the device has come so far.
        let samples = match self.worst.is_on() {
            true => Some(SampleLosses::of(batch, &loss.per_token)?),
            false => None,
        };
        Ok(MicroLoss {
            value: LossValue::of(&sum)?,
            sum,
            samples,
        })
    }
}
