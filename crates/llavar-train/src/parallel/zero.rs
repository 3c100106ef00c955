//! `Sharding` and `Zero`: what a rank keeps of weights, gradients and states, and how ranks come to the same
//! update.

use std::{collections::BTreeSet, sync::Arc};

use llavar_model::LlavaModel;
use llavar_tensor::{DType, Device, Gate, Param, collective::Group, optim::Precision};

use super::{
    bucket::{Bucket, Piece},
    schedule::BlockSchedule,
};
use crate::{TrainError, memory_plan::held};

/// ZeRO's stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Sharding(pub(crate) u8);

impl Sharding {
    /// Whether moments and master weights are kept in parts.
    pub(crate) fn states(self) -> bool {
        self.0 >= 1
    }

    /// Whether gradients are summed block by block and kept in parts.
    pub(crate) fn grads(self) -> bool {
        self.0 >= 2
    }

    /// Whether weights are kept in parts.
    pub(crate) fn weights(self) -> bool {
        self.0 >= 3
    }
}

/// The weights of a model over all ranks.
#[derive(Debug)]
pub(crate) struct Zero {
    pub(super) group: Arc<Group>,
    pub(super) sharding: Sharding,
    pub(super) buckets: Arc<Vec<Bucket>>,
    /// Bucket of each weight in [`LlavaModel::forward_order`].
    order: Vec<Vec<Param>>,
    precision: Precision,
    pub(super) device: Device,
    schedule: Option<Arc<BlockSchedule>>,
    /// Names of all weights that train, in order.
    trained: Vec<String>,
}

impl Zero {
    /// For a model whose weights are on the CPU and know whether they train.
    pub(crate) fn new(
        group: Arc<Group>,
        sharding: Sharding,
        model: &LlavaModel,
        precision: Precision,
        device: &Device,
    ) -> Result<Self, TrainError> {
        let mut order = model.forward_order();
        if !sharding.weights() {
            // Weights that do not train are whole on every rank.
            order
                .iter_mut()
                .for_each(|b| b.retain(Param::requires_grad));
            order.retain(|block| !block.is_empty());
        }
        let mut buckets: Vec<Bucket> = Vec::new();
        for block in &order {
            if bucket_of(&buckets, block).is_none() {
                let (rank, ranks) = (group.rank(), group.size());
                buckets.push(Bucket::new(block, rank, ranks, sharding.states())?);
            }
        }
        let all = buckets.iter().flat_map(Bucket::params);
        let trained = all.filter(|p| p.requires_grad());
        Ok(Self {
            trained: trained.map(|p| p.name().to_owned()).collect(),
            group,
            sharding,
            buckets: Arc::new(buckets),
            order,
            precision,
            device: device.clone(),
            schedule: None,
        })
    }

    /// The pieces that the optimizer of this rank updates; `None` where it updates whole weights.
    pub(crate) fn pieces(&self) -> Option<Vec<Piece>> {
        let pieces = self.buckets.iter().flat_map(Bucket::pieces);
        let trained = pieces.filter(|piece| piece.param.requires_grad());
        self.sharding.states().then(|| trained.cloned().collect())
    }

    /// ZeRO's stage.
    pub(crate) fn stage(&self) -> u8 {
        self.sharding.0
    }

    /// Whether every block must be computed again: what a block keeps for its backward pass is, beside its
    /// activations, its weights.
    pub(crate) fn recomputes_all(&self) -> bool {
        self.sharding.weights()
    }

    /// Names of all weights that train, on all ranks.
    pub(crate) fn trained(&self) -> &[String] {
        &self.trained
    }

    /// Moves pieces to the device, lets go of what is kept in parts, and stands before the weights from now
    /// on. The model itself has moved already, unless its weights are kept in parts.
    pub(crate) fn take_over(&mut self) -> Result<(), TrainError> {
        let (weights, grads) = (self.precision.weights(), self.precision.grads());
        if self.sharding.states() {
            for piece in self.buckets.iter().flat_map(Bucket::pieces) {
                piece.param.to_device(&self.device, weights, grads)?;
            }
        }
        if self.sharding.weights() {
            for param in self.buckets.iter().flat_map(Bucket::params) {
                // Nothing of the old value is moved: what is missing is where its parts are.
                param.release_to(&self.device, weights, grads);
            }
            llavar_tensor::memory::trim();
        }
        if !self.sharding.grads() {
            return Ok(());
        }
        let order = self.order.iter();
        let order = order.filter_map(|block| bucket_of(&self.buckets, block));
        let schedule = Arc::new(BlockSchedule::new(
            Arc::clone(&self.group),
            Arc::clone(&self.buckets),
            order.collect(),
            self.sharding.weights(),
            [weights, self.grad_type()],
            &self.device,
        ));
        for (number, bucket) in self.buckets.iter().enumerate() {
            for param in bucket.params() {
                param.set_gate(Some((Arc::clone(&schedule) as Arc<dyn Gate>, number)));
            }
        }
        self.schedule = Some(schedule);
        Ok(())
    }

    /// Gradients are f32 on the CPU whatever the precision.
    fn grad_type(&self) -> DType {
        match self.device {
            Device::Cpu => DType::F32,
            Device::Cuda(_) => self.precision.grads(),
        }
    }

    /// A micro-batch begins on all ranks; `images`: any of them has pictures.
    pub(crate) fn begin_micro_batch(&self, images: bool) {
        if let Some(schedule) = &self.schedule {
            schedule.begin(images);
        }
    }

    /// It ends, on a rank without samples too.
    pub(crate) fn finish_micro_batch(&self) -> Result<(), TrainError> {
        Ok(self.schedule.as_ref().map_or(Ok(()), |s| s.finish())?)
    }

    /// The cause of an error in a forward or backward pass, where it lies between the ranks.
    pub(crate) fn explained(&self, error: TrainError) -> TrainError {
        let between = self.schedule.as_ref().and_then(|s| s.failure());
        let lost = self.group.check().err();
        match between.or(lost) {
            Some(cause) => TrainError::Tensor(cause),
            None => error,
        }
    }

    /// Sums the gradients of all ranks, before the update. A weight that got none anywhere gets none.
    pub(crate) fn finish_gradients(&self) -> Result<(), TrainError> {
        if self.group.size() == 1 {
            return Ok(());
        }
        let mut seen: BTreeSet<String> = match &self.schedule {
            Some(schedule) => schedule.take_seen(),
            None => {
                let all = self.buckets.iter().flat_map(Bucket::params);
                let filled = all.filter(|p| p.grad().is_some());
                filled.map(|p| p.name().to_owned()).collect()
            }
        };
        let mask: Vec<u8> = self
            .trained
            .iter()
            .map(|n| u8::from(seen.contains(n)))
            .collect();
        for other in self.group.exchange(&mask)? {
            let names = self.trained.iter().zip(other).filter(|(_, has)| *has != 0);
            seen.extend(names.map(|(name, _)| name.clone()));
        }
        let collective = self.group.collective();
        for bucket in self
            .buckets
            .iter()
            .filter(|b| b.trains && self.schedule.is_none())
        {
            let mut run = bucket.take_grads(self.grad_type(), &self.device, |_| {})?;
            if self.sharding.states() {
                bucket.add_part(collective.reduce_scatter(run)?.wait()?)?;
            } else {
                collective.all_reduce(&mut run)?;
                bucket.put_grads(&run, |name| seen.contains(name))?;
            }
        }
        if self.sharding.states() {
            for bucket in self.buckets.iter() {
                bucket.hand_out(|name| seen.contains(name))?;
            }
        }
        Ok(())
    }

    /// After the update: weights that are whole on every rank are put together again from their pieces, and
    /// gradients are let go of.
    pub(crate) fn finish_update(&self) -> Result<(), TrainError> {
        if self.group.size() == 1 && !self.sharding.states() {
            return Ok(());
        }
        self.buckets.iter().for_each(Bucket::drop_grads);
        if !self.sharding.states() || self.sharding.weights() {
            return Ok(());
        }
        let collective = self.group.collective();
        let gather = |bucket: &Bucket| {
            let part = bucket.part(self.precision.weights(), &self.device, Param::value)?;
            collective.all_gather(&part)
        };
        let mut coming = None;
        for bucket in self.buckets.iter().filter(|b| b.trains) {
            // One is on its way while the one before it is put in place.
            let next = (bucket, gather(bucket)?);
            if let Some((bucket, run)) = coming.replace(next) {
                let run: llavar_tensor::collective::Pending = run;
                Bucket::spread(bucket, &run.wait()?)?;
            }
        }
        if let Some((bucket, run)) = coming {
            bucket.spread(&run.wait()?)?;
        }
        Ok(())
    }

    /// Forgets all gradients, of a step that is given up.
    pub(crate) fn drop_gradients(&self) {
        if self.group.size() > 1 || self.sharding.states() {
            self.buckets.iter().for_each(Bucket::drop_grads);
        }
    }

    /// Lets go of what this rank keeps of weights and gradients, before another takes its place.
    pub(crate) fn let_go(&self) {
        for piece in self.buckets.iter().flat_map(Bucket::pieces) {
            let (weights, grads) = (self.precision.weights(), self.precision.grads());
            piece.param.release_to(&self.device, weights, grads);
        }
        self.drop_gradients();
    }

    /// Elements of weights and of gradients that this rank holds at the same time, of `weights` in all.
    pub(crate) fn held(&self, weights: usize, trained: usize) -> (usize, usize) {
        let ranks = self.group.size();
        let largest = self.buckets.iter().map(Bucket::len).max().unwrap_or(0);
        held(self.sharding.0, ranks, weights, trained, largest)
    }
}

/// The bucket that holds the weights of a block.
fn bucket_of(buckets: &[Bucket], block: &[Param]) -> Option<usize> {
    let name = block.first()?.name();
    buckets
        .iter()
        .position(|bucket| bucket.params().any(|p| p.name() == name))
}
