//! `BlockSchedule`: when the weights of a block are fetched and its gradients summed (ZeRO 2 and 3).
//!
//! All ranks must ask for the same collective operations in the same order, although one has pictures in a
//! micro-batch and another has not. So the order is fixed before the micro-batch: the blocks forward, then
//! back as far as anything trains. The model moves the schedule on when it reads a weight of a later block or
//! adds a gradient to it; blocks in between, which this rank has no use for, are passed on the way. On a GPU
//! the next block is on its way while the present one computes, and so are the gradients of the one before.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use llavar_tensor::{
    DType, Device, Error, Gate, Param, Result,
    collective::{Group, Pending},
};

use super::bucket::Bucket;

/// Stands before the weights of a model.
#[derive(Debug)]
pub(crate) struct BlockSchedule {
    group: Arc<Group>,
    buckets: Arc<Vec<Bucket>>,
    /// Numbers of the buckets in the order of the forward pass.
    order: Vec<usize>,
    /// Whether weights are kept in parts (ZeRO 3), or gradients alone.
    shards_weights: bool,
    weights: DType,
    grads: DType,
    device: Device,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Empty between two micro-batches.
    phases: Vec<Phase>,
    /// The present one.
    at: Option<usize>,
    /// By bucket: on its way, or there.
    fetched: Vec<Fetched>,
    /// Gradients that are being summed.
    reducing: Option<(usize, Pending)>,
    /// Weights that received a gradient since the last [`BlockSchedule::take_seen`].
    seen: BTreeSet<String>,
    failure: Option<Error>,
}

#[derive(Debug, Default)]
enum Fetched {
    #[default]
    No,
    Coming(Pending),
    There,
}

#[derive(Debug, Clone, Copy)]
struct Phase {
    bucket: usize,
    backward: bool,
}

impl BlockSchedule {
    pub(crate) fn new(
        group: Arc<Group>,
        buckets: Arc<Vec<Bucket>>,
        order: Vec<usize>,
        shards_weights: bool,
        [weights, grads]: [DType; 2],
        device: &Device,
    ) -> Self {
        let fetched = buckets.iter().map(|_| Fetched::No).collect();
        Self {
            group,
            buckets,
            order,
            shards_weights,
            weights,
            grads,
            device: device.clone(),
            state: Mutex::new(State {
                fetched,
                ..State::default()
            }),
        }
    }

    /// Begins a micro-batch in which `images` says whether any rank has pictures.
    pub(crate) fn begin(&self, images: bool) {
        let used = |bucket: &&usize| images || !self.buckets[**bucket].vision;
        let order: Vec<usize> = self.order.iter().filter(used).copied().collect();
        let trained = order.iter().position(|b| self.buckets[*b].trains);
        let trained = trained.unwrap_or(order.len());
        let last = order.len().saturating_sub(1);
        let forward = order.iter().enumerate().map(|(place, bucket)| Phase {
            bucket: *bucket,
            // The pass turns round in the last block.
            backward: place == last && place >= trained,
        });
        let back = (trained..last).rev().map(|place| Phase {
            bucket: order[place],
            backward: true,
        });
        let mut state = self.lock();
        state.phases = forward.chain(back).collect();
        state.at = None;
    }

    /// Ends a micro-batch: passes what this rank had no use for, and waits (on the device) for the sums.
    pub(crate) fn finish(&self) -> Result<()> {
        let mut state = self.lock();
        if let Some(error) = &state.failure {
            return Err(error.clone());
        }
        while state.at.is_none_or(|at| at < state.phases.len()) {
            self.next(&mut state)?;
        }
        self.settle(&mut state)?;
        state.phases.clear();
        state.at = None;
        Ok(())
    }

    /// What went wrong while the model read its weights, if anything did.
    pub(crate) fn failure(&self) -> Option<Error> {
        self.lock().failure.clone()
    }

    /// Names of the weights that received gradients here since the last call.
    pub(crate) fn take_seen(&self) -> BTreeSet<String> {
        std::mem::take(&mut self.lock().seen)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves on until the weights of `bucket` are there, in a phase of the backward pass where one is needed.
    fn advance(&self, bucket: usize, backward: bool) -> Result<()> {
        let mut state = self.lock();
        if let Some(error) = &state.failure {
            return Err(error.clone());
        }
        let fits = |phase: &Phase| phase.bucket == bucket && (phase.backward || !backward);
        let here = state.at.unwrap_or(0);
        let found = state.phases.iter().skip(here).position(fits);
        let Some(target) = found.map(|n| here + n) else {
            let name = self.buckets[bucket].params().next().map_or("", Param::name);
            let error = Error::InvalidArgument {
                op: "ZeRO",
                reason: format!("the block of `{name}` is read outside of its turn"),
            };
            state.failure = Some(error.clone());
            return Err(error);
        };
        while state.at.is_none_or(|at| at < target) {
            if let Err(error) = self.next(&mut state) {
                state.failure = Some(error.clone());
                return Err(error);
            }
        }
        Ok(())
    }

    /// Leaves the present phase and enters the next.
    fn next(&self, state: &mut State) -> Result<()> {
        let next = state.at.map_or(0, |at| at + 1);
        if let Some(phase) = state.at.and_then(|at| state.phases.get(at)).copied() {
            self.leave(state, phase, next)?;
        }
        state.at = Some(next);
        let Some(phase) = state.phases.get(next).copied() else {
            return Ok(());
        };
        if self.shards_weights {
            self.fetch(state, phase.bucket)?;
            let fetched = std::mem::replace(&mut state.fetched[phase.bucket], Fetched::There);
            if let Fetched::Coming(run) = fetched {
                self.buckets[phase.bucket].spread(&run.wait()?)?;
            }
            // On the CPU nothing runs beside the computation, and it would only take memory.
            if let (true, Some(after)) =
                (self.device.is_cuda(), state.phases.get(next + 1).copied())
            {
                self.fetch(state, after.bucket)?;
            }
        }
        Ok(())
    }

    fn fetch(&self, state: &mut State, bucket: usize) -> Result<()> {
        if let Fetched::No = state.fetched[bucket] {
            let part = self.buckets[bucket].part(self.weights, &self.device, Param::value)?;
            state.fetched[bucket] = Fetched::Coming(self.group.collective().all_gather(&part)?);
        }
        Ok(())
    }

    fn leave(&self, state: &mut State, phase: Phase, next: usize) -> Result<()> {
        let bucket = &self.buckets[phase.bucket];
        let again = state
            .phases
            .get(next)
            .is_some_and(|p| p.bucket == phase.bucket);
        if self.shards_weights && !again {
            bucket.params().for_each(Param::release);
            state.fetched[phase.bucket] = Fetched::No;
        }
        if phase.backward && bucket.trains {
            let seen = &mut state.seen;
            let run = bucket.take_grads(self.grads, &self.device, |name| {
                seen.insert(name.to_owned());
            })?;
            self.settle(state)?;
            let sum = self.group.collective().reduce_scatter(run)?;
            state.reducing = Some((phase.bucket, sum));
            if !self.device.is_cuda() {
                self.settle(state)?;
            }
        }
        Ok(())
    }

    /// Adds the sums that are on their way to this rank's pieces.
    fn settle(&self, state: &mut State) -> Result<()> {
        match state.reducing.take() {
            Some((bucket, sum)) => self.buckets[bucket].add_part(sum.wait()?),
            None => Ok(()),
        }
    }
}

impl Gate for BlockSchedule {
    fn read(&self, bucket: usize) {
        if self.shards_weights && !self.lock().phases.is_empty() {
            // The reader finds no value then, and the trainer asks for the reason.
            let _ = self.advance(bucket, false);
        }
    }

    fn accumulate(&self, bucket: usize) -> Result<()> {
        self.advance(bucket, true)
    }
}
