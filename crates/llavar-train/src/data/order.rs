//! `Orders`: the order of samples in any epoch, computed when it is first asked for.

use std::sync::{Arc, Mutex, PoisonError};

use llavar_data::sampler::{GroupingVariant, SampleOrder, Sampler, SamplerState};

use super::SampleSource;
use crate::{Recipe, TrainError};

/// Sample numbers by place in the stream of all epochs. A function of recipe, data and seed alone, so
/// a run resumes at any place without replaying what came before.
#[derive(Debug)]
pub(crate) struct Orders {
    kind: SampleOrder,
    lengths: Vec<i64>,
    seed: u64,
    /// The last two epochs: workers stand on both sides of a boundary.
    recent: Mutex<Vec<(u64, Arc<Vec<usize>>)>>,
}

impl Orders {
    /// The orders of a recipe. Reads every record when it groups by length.
    pub(crate) fn new(recipe: &Recipe, source: &SampleSource) -> Result<Self, TrainError> {
        let train = &recipe.train;
        let kind = if train.group_by_modality_length {
            SampleOrder::ModalityGrouped {
                batch: train.per_device_train_batch_size,
                chunks: train.gradient_accumulation_steps,
                variant: GroupingVariant::Llava,
            }
        } else if recipe.data.shuffle {
            SampleOrder::Shuffled
        } else {
            SampleOrder::Sequential
        };
        let lengths = match kind {
            SampleOrder::ModalityGrouped { .. } => source.modality_lengths(),
            _ => vec![1; source.len()],
        };
        let orders = Self {
            kind,
            lengths,
            seed: train.seed,
            recent: Mutex::default(),
        };
        orders.epoch(0)?;
        Ok(orders)
    }

    /// Samples of an epoch.
    pub(crate) fn epoch_len(&self) -> usize {
        self.lengths.len()
    }

    /// The order of an epoch, from 0.
    pub(crate) fn epoch(&self, epoch: u64) -> Result<Arc<Vec<usize>>, TrainError> {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, order)) = recent.iter().find(|(e, _)| *e == epoch) {
            return Ok(Arc::clone(order));
        }
        let state = SamplerState {
            seed: self.seed,
            epoch,
            position: 0,
        };
        let sampler = Sampler::new(self.kind.clone(), self.lengths.clone(), state)?;
        let order = Arc::new(sampler.order().to_vec());
        if recent.len() >= 2 {
            recent.remove(0);
        }
        recent.push((epoch, Arc::clone(&order)));
        Ok(order)
    }
}
