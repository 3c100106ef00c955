//! One optimizer step: load, accumulate, clip, update.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Instant,
};

use llavar_tensor::{Tape, memory};

use super::Trainer;
use crate::{
    Observer, StepReport, TrainError,
    data::{Batch, Loader, Prepared, split_by_tokens},
    observer::resident_bytes,
    optimizer::Rates,
    recipe::LossWeighting,
    run_log::RunLog,
};

impl Trainer {
    /// Does the next step; `None` when `stop` was set before it was done (nothing is changed then).
    pub(super) fn step(
        &mut self,
        loader: &mut Loader,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
        begun: (Instant, u64),
    ) -> Result<Option<StepReport>, TrainError> {
        let start = Instant::now();
        let counts = self.plan.micro_batches(self.state.step);
        let Some(samples) = self.take(loader, counts.iter().sum(), observer, stop)? else {
            return Ok(None);
        };
        let waited = start.elapsed().as_secs_f64();
        let parts = self.micro_batches(&samples, &counts);
        let supervised: usize = samples.iter().map(Prepared::supervised).sum();

        // A step that failed half-way may have left some.
        self.optimizer.zero_grad();
        let (mut loss, mut tokens, mut images) = (0.0, 0, 0);
        for part in &parts {
            if stop.load(Relaxed) {
                self.optimizer.zero_grad();
                return Ok(None);
            }
            // Built one by one: pixels as floats take four times the room of the pictures.
            let batch = self.batch(part)?;
            let weight = match self.recipe.train.loss_weighting {
                LossWeighting::Token => 1.0 / supervised.max(1) as f64,
                LossWeighting::MicroBatch => 1.0 / (batch.supervised.max(1) * parts.len()) as f64,
            };
            loss += weight * self.forward_backward(&batch, weight as f32)?;
            tokens += batch.tokens;
            images += batch.images;
        }

        let factor = self.schedule.factor(self.state.step);
        let train = &self.recipe.train;
        let done = self.optimizer.step(Rates {
            lr: factor * train.learning_rate,
            projector_lr: factor * train.mm_projector_lr.unwrap_or(train.learning_rate),
        })?;
        let (norm, skipped) = (done.norm, done.skipped);
        self.state.updates = done.updates;
        if skipped {
            self.state.skipped_steps += 1;
            observer.on_warning(&format!(
                "step {}: the gradient is not finite (loss {loss}); the update was skipped",
                self.state.step + 1
            ));
        }
        self.optimizer.zero_grad();

        let seconds = start.elapsed().as_secs_f64();
        let state = &mut self.state;
        state.step += 1;
        let next = self.plan.first_sample(state.step);
        let samples = self.orders.epoch_len() as u64;
        (state.epoch, state.position) = (next / samples, next % samples);
        state.tokens += tokens as u64;
        state.supervised_tokens += supervised as u64;
        state.images += images as u64;
        state.seconds += seconds;
        state.log_loss += loss;
        state.log_steps += 1;
        let done = (state.step - begun.1) as f64;
        let left = (self.plan.total_steps() - state.step) as f64;
        Ok(Some(StepReport {
            step: state.step,
            total_steps: self.plan.total_steps(),
            epoch: self.plan.epochs(state.step),
            loss,
            learning_rate: factor * self.recipe.train.learning_rate,
            grad_norm: norm.is_finite().then_some(norm),
            skipped,
            supervised_tokens: supervised,
            supervised_tokens_per_second: supervised as f64 / seconds,
            tokens_per_second: tokens as f64 / seconds,
            images_per_second: images as f64 / seconds,
            data_wait_percent: 100.0 * waited / seconds,
            tensor_peak_bytes: memory::stats().peak,
            resident_bytes: resident_bytes(),
            seconds,
            eta_seconds: begun.0.elapsed().as_secs_f64() / done * left,
        }))
    }

    /// Writes the step to the log if its turn has come.
    pub(super) fn log(&mut self, log: &mut RunLog, report: &StepReport) -> Result<(), TrainError> {
        let state = &mut self.state;
        let last = report.step == report.total_steps;
        if last || report.step.is_multiple_of(self.recipe.log.logging_steps) {
            log.write(report, state.log_loss / state.log_steps.max(1) as f64)?;
            (state.log_loss, state.log_steps) = (0.0, 0);
        }
        Ok(())
    }

    /// The next `count` samples; `None` when `stop` was set.
    fn take(
        &mut self,
        loader: &mut Loader,
        count: usize,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
    ) -> Result<Option<Vec<Prepared>>, TrainError> {
        let mut samples = Vec::with_capacity(count);
        while samples.len() < count {
            let Some(loaded) = loader.next(stop)? else {
                return Ok(None);
            };
            for fault in loaded.skipped {
                if !self.quarantine.bad().contains(&fault.index) {
                    observer.on_warning(&format!("{fault}; the next sample stands in"));
                }
                self.quarantine.add(fault)?;
            }
            samples.push(loaded.sample?);
        }
        Ok(Some(samples))
    }

    /// Cuts the samples of a step into micro-batches.
    fn micro_batches<'s>(&self, samples: &'s [Prepared], counts: &[usize]) -> Vec<&'s [Prepared]> {
        let budget = self.recipe.train.max_tokens_per_micro_batch;
        let by_tokens = (budget > 0).then(|| {
            let image_tokens = self.model.tokens_per_image().unwrap_or(0);
            let length = |s: &Prepared| s.encoded.expanded_len(image_tokens);
            let lengths: Vec<usize> = samples.iter().map(length).collect();
            split_by_tokens(&lengths, budget)
        });
        let mut rest = samples;
        let mut cut = |&count: &usize| {
            let (part, left) = rest.split_at(count.min(rest.len()));
            rest = left;
            part
        };
        by_tokens
            .as_deref()
            .unwrap_or(counts)
            .iter()
            .map(&mut cut)
            .collect()
    }

    fn batch(&self, samples: &[Prepared]) -> Result<Batch, TrainError> {
        let image_tokens = self.model.tokens_per_image().unwrap_or(0);
        let (tokenizer, processor) = (self.source.tokenizer(), self.source.processor());
        Batch::new(
            samples,
            self.recipe.train.layout,
            image_tokens,
            tokenizer,
            processor,
        )
    }

    /// Adds the gradient of `weight` times the batch's summed loss; gives the summed loss.
    fn forward_backward(&self, batch: &Batch, weight: f32) -> Result<f64, TrainError> {
        let tape = Tape::training();
        let loss = self
            .model
            .loss(
                &tape,
                &batch.ids,
                &batch.labels,
                &batch.segments,
                batch.pixels.as_ref(),
                self.recipe.train.gradient_checkpointing,
            )
            .map_err(|e| TrainError::model(None, e))?;
        let sum = f64::from(loss.sum.value().item()?);
        // A batch of text alone has nothing to teach the projector in stage 1.
        if loss.sum.requires_grad() {
            tape.backward(&loss.sum, weight)?;
        }
        Ok(sum)
    }
}
