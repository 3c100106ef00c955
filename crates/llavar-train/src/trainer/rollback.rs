//! Spikes: telling of them, and going back to a checkpoint.

use std::{path::PathBuf, sync::Arc};

use llavar_tensor::{DType, Device};

use super::{Resume, Trainer};
use crate::{Observer, TrainError, checkpoint::verify, recipe::OnSpike};

/// So many steps in a row without a finite gradient are no accident: no step of them changed the weights, and none
/// to come will.
const DIVERGED: u64 = 8;

impl Trainer {
    /// Ends a run whose weights have diverged, or lets it go back where it may.
    pub(super) fn look_for_divergence(
        &mut self,
        step: u64,
        observer: &mut dyn Observer,
    ) -> Result<(), TrainError> {
        let steps = self.state.not_finite_in_a_row;
        if steps < DIVERGED || self.spiked.is_some() {
            return Ok(());
        }
        let first = step + 1 - steps;
        if !self
            .guard
            .is_some_and(|guard| guard.on_spike == OnSpike::Rollback)
        {
            return Err(TrainError::Diverged { first, step });
        }
        observer.on_warning(&format!(
            "steps {first} to {step}: the gradient was not finite, the weights have diverged; the run goes back"
        ));
        // What failed from there on are the weights that the update before it made.
        self.spiked = Some(first - 1);
        Ok(())
    }

    /// Says that the run ends with weights that its last steps did not change.
    pub(super) fn tell_of_lost_steps(&self, observer: &mut dyn Observer) {
        let steps = self.state.not_finite_in_a_row;
        if steps > 0 {
            let step = self.state.step;
            observer.on_warning(&format!(
                "the last {steps} steps had no finite gradient: the model is that of step {}, whose weights have likely diverged; a lower learning_rate helps",
                step - steps.min(step)
            ));
        }
    }

    /// Tells of a spike at `step`, and remembers it where the run is to go back.
    pub(super) fn on_spike(&mut self, step: u64, what: &str, observer: &mut dyn Observer) {
        let guard = self.guard.map(|guard| guard.on_spike);
        let done = match guard {
            Some(OnSpike::Skip) => "; the update was skipped",
            Some(OnSpike::Rollback) => "; the update was skipped, and the run goes back",
            _ => "",
        };
        observer.on_warning(&format!("step {step}: spike: {what}{done}"));
        if guard == Some(OnSpike::Rollback) {
            self.spiked = Some(step);
        }
    }

    /// Goes back to a checkpoint if a spike asks for it; the steps after it take the data that follow
    /// those of the spike. False where there was none, or where there is no checkpoint yet. All ranks call it.
    pub(super) fn go_back(&mut self, observer: &mut dyn Observer) -> Result<bool, TrainError> {
        let Some(spike) = self.spiked.take() else {
            return Ok(false);
        };
        // What comes next is the same on all ranks, but there is nothing worth keeping in memory.
        self.agreed = false;
        let from = match self.group.is_first() {
            true => self.good_checkpoint(spike)?,
            false => None,
        };
        let any = match self.group.size() {
            1 => from.is_some(),
            _ => self.first_says(from.is_some())?,
        };
        let lost = self.state.not_finite_in_a_row;
        if !any && lost >= DIVERGED {
            let step = self.state.step;
            let first = step + 1 - lost;
            return Err(TrainError::Diverged { first, step });
        }
        if !any {
            observer.on_warning(&format!(
                "step {spike}: there is no checkpoint yet to go back to; the run goes on (train.save_steps is {})",
                self.recipe.train.save_steps
            ));
            return Ok(false);
        }
        let before = self.state.guard.clone();
        let limit = self.recipe.train.max_rollbacks;
        if before.rollbacks >= limit {
            return Err(TrainError::TooManyRollbacks { step: spike, limit });
        }
        if let Some(path) = &from {
            self.store.abandon_after(path)?;
        }
        self.let_go();
        let (group, recipe) = (Arc::clone(&self.group), self.recipe.clone());
        let run_dir = self.run_dir.clone();
        let resumed_from = self.resumed_from.take();
        let resume = from.map_or(Resume::Auto, Resume::From);
        *self = Self::open_in(group, recipe, None, &run_dir, resume)?;
        self.resumed_from = resumed_from;
        for warning in self.warnings.drain(..) {
            observer.on_warning(&warning);
        }
        let step = self.state.step;
        let guard = &mut self.state.guard;
        guard.spikes = before.spikes;
        guard.rollbacks = before.rollbacks + 1;
        guard.passed_steps = before.passed_steps + spike.saturating_sub(step);
        observer.on_rollback(spike, step);
        Ok(true)
    }

    /// The newest checkpoint before a spike among those that the recipe plans: one that an interruption left would
    /// make the run another than an unbroken one. Where there is none, the one that the run began with.
    fn good_checkpoint(&self, spike: u64) -> Result<Option<PathBuf>, TrainError> {
        let every = self.recipe.train.save_steps;
        let planned = |step: u64| every > 0 && step.is_multiple_of(every) && step < spike;
        let own = self.store.list()?.into_iter().rev();
        let own = own.filter(|info| planned(info.step)).map(|info| info.path);
        let mut good = own.chain(self.resumed_from.clone());
        Ok(good.find(|path| verify(path).is_ok()))
    }

    /// Gives memory and the lock of the run folder back before the run is opened again.
    fn let_go(&mut self) {
        self.forget_gradients();
        self.optimizer.let_go();
        for param in self.model.params() {
            param.set_gate(None);
            param.release_to(&Device::Cpu, DType::F32, DType::F32);
        }
        self.zero.let_go();
        llavar_tensor::memory::trim();
        self._lock = None;
    }
}
