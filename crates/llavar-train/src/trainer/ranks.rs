//! What a training step does for other ranks: agreement before it, losses of all behind it.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use llavar_tensor::{DType, Tensor, cuda::Readback};

use super::{
    Trainer,
    step::{LossValue, Pipeline},
};
use crate::{
    Observer, TrainError,
    data::{Feed, Item},
    error::chain,
    parallel::{Round, Voice, agree},
};

/// A step that all ranks have agreed to do.
pub(super) struct AgreedStep {
    pub(super) all: Round,
    /// Micro-batches of this rank.
    pub(super) own_parts: usize,
}

/// Losses of a step.
pub(super) enum Losses {
    /// Summed loss of every micro-batch with its weight, of one rank alone.
    Own(Vec<(f64, LossValue)>),
    /// Of every rank its weighted loss.
    Known(Vec<f32>),
    /// As [`Losses::Known`], of every micro-batch first the sums, then the weights.
    Coming(Readback),
}

impl Losses {
    /// The loss of the step.
    pub(super) fn wait(self) -> Result<f64, TrainError> {
        match self {
            Self::Own(losses) => {
                let mut loss = 0.0;
                for (weight, value) in losses {
                    loss += weight * value.wait()?;
                }
                Ok(loss)
            }
            Self::Known(values) => Ok(weighted(&values)),
            Self::Coming(values) => Ok(weighted(&values.wait()?)),
        }
    }
}

/// Sum of the products of pairs.
fn weighted(pairs: &[f32]) -> f64 {
    let pairs = pairs.chunks_exact(2);
    pairs
        .map(|pair| f64::from(pair[0]) * f64::from(pair[1]))
        .sum()
}

impl Trainer {
    /// The head of the next step, agreed with all ranks, with the seconds that this rank's device waited for
    /// it; `None` when all stop. An error that one rank has ends the step on all.
    pub(super) fn next_round(
        &mut self,
        feed: &mut Feed,
        pipe: &mut Pipeline,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
    ) -> Result<Option<(AgreedStep, f64)>, TrainError> {
        let (mut voice, mut failed, mut waited) = (Voice::default(), None, 0.0);
        let head = match stop.load(Relaxed) {
            true => Ok(None),
            false => self.next_item(feed, pipe, None, observer, stop),
        };
        match head {
            Ok(Some((Item::Step(head), seconds))) => {
                waited = seconds;
                voice = Voice {
                    supervised: head.supervised,
                    tokens: head.tokens,
                    images: head.images,
                    with_images: head.with_images,
                    faults: head.faults.into_iter().map(Into::into).collect(),
                    cuts: head.cuts,
                    ..voice
                };
                failed = head.failed;
            }
            Ok(Some(_)) => failed = Some(TrainError::Workers),
            Ok(None) => voice.stop = true,
            Err(error) => failed = Some(error),
        }
        voice.failed = failed.as_ref().map(|e| chain(e));
        let own_parts = voice.with_images.len();
        let mut all = agree(&self.group, voice)?;
        // From here to the first collective operation an error is the same on all ranks.
        self.agreed = true;
        for fault in std::mem::take(&mut all.faults) {
            if let Some(warning) = self.quarantine.warning(&fault) {
                observer.on_warning(&warning);
            }
            if let Err(error) = self.quarantine.add(fault) {
                // Writing the list fails on rank 0 alone; the limit is reached on all.
                self.agreed &= self.group.size() == 1 || !matches!(error, TrainError::Io { .. });
                return Err(error);
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
        if let Some((rank, reason)) = all.failed {
            return Err(TrainError::Peer { rank, reason });
        }
        if all.stop {
            return Ok(None);
        }
        self.agreed = self.group.size() == 1;
        if self.group.is_first() {
            for cut in all.cuts.drain(..) {
                self.cuts.add(cut, observer)?;
            }
        }
        Ok(Some((AgreedStep { all, own_parts }, waited)))
    }

    /// Puts the losses of all ranks together; `parts` is the most micro-batches that any rank has. The second are
    /// the same as pairs on the device, where somebody wants them there.
    pub(super) fn losses_of_all(
        &self,
        losses: Vec<(f64, LossValue, Tensor)>,
        parts: usize,
    ) -> Result<(Losses, Option<Tensor>), TrainError> {
        let alone = self.group.size() == 1;
        let pairs = match alone && self.guard.is_none() {
            true => None,
            false => Some(self.pairs(&losses, parts)?),
        };
        let Some(row) = pairs.as_ref().filter(|_| !alone) else {
            let own = losses.into_iter().map(|(weight, value, _)| (weight, value));
            return Ok((Losses::Own(own.collect()), pairs));
        };
        let all = self.group.collective().all_gather(row)?.wait()?;
        let losses = match self.place.device.as_cuda() {
            Some(cuda) => Losses::Coming(cuda.read_back(&all)?),
            None => Losses::Known(all.to_f32_vec()?),
        };
        Ok((losses, Some(all)))
    }

    /// Pairs of summed loss and weight on the device, zeros for micro-batches that this rank has not.
    fn pairs(
        &self,
        losses: &[(f64, LossValue, Tensor)],
        parts: usize,
    ) -> Result<Tensor, TrainError> {
        let device = &self.place.device;
        // Pairs of sum and weight, so that nothing is computed before they are read.
        let mut row = Vec::with_capacity(2 * parts);
        for (weight, _, sum) in losses {
            row.push(sum.reshape(&[1])?.cast(DType::F32)?);
            row.push(Tensor::from_vec(vec![*weight as f32], &[1])?.to_device(device)?);
        }
        let missing = 2 * (parts - losses.len());
        if missing > 0 {
            row.push(Tensor::zeros(&[missing]).to_device(device)?);
        }
        Ok(Tensor::concat(&row)?)
    }

    /// Forgets the gradients of a step that is not done.
    pub(super) fn forget_gradients(&self) {
        self.optimizer.zero_grad();
        self.zero.drop_gradients();
    }

    /// Whether rank 0 says so.
    pub(super) fn first_says(&self, yes: bool) -> Result<bool, TrainError> {
        let said = self.group.exchange(&[u8::from(yes)])?;
        Ok(said.first().is_some_and(|words| words == &[1]))
    }
}
