//! `Orders`: what an epoch visits, and in which order, computed when it is first asked for.

use std::sync::{Arc, Mutex, PoisonError};

use llavar_data::{
    packing::{Packs, pack_in_windows},
    sampler::{GroupingVariant, Mixture, SampleOrder, Sampler, SamplerState, epoch_permutation},
};

use super::SampleSource;
use crate::{PackingReport, Recipe, TrainError};

/// Units (samples, or packs of them) by place in the stream of all epochs. A function of recipe, data and
/// seed alone, so a run resumes at any place without replaying what came before.
#[derive(Debug)]
pub(crate) struct Orders {
    kind: SampleOrder,
    /// Of every sample; empty where the order does not need it.
    modality_lengths: Vec<i64>,
    units: Units,
    mixture: Mixture,
    seed: u64,
    /// The last two epochs: workers stand on both sides of a boundary.
    recent: Mutex<Vec<(u64, Arc<Vec<usize>>)>>,
}

#[derive(Debug)]
enum Units {
    Samples,
    Packs {
        /// Sets with whole weights together, and each set with another weight.
        groups: Vec<Packs>,
        /// Tokens of every sample; 0 for one that cannot be used.
        lengths: Vec<u32>,
    },
}

impl Orders {
    /// The orders of a recipe whose steps have so many micro-batches over all ranks. Reads every record when it
    /// groups by length; with packs, `lengths` has the tokens of every sample.
    pub(crate) fn new(
        recipe: &Recipe,
        source: &SampleSource,
        lengths: Option<Vec<u32>>,
        micro_batches: usize,
    ) -> Result<Self, TrainError> {
        let train = &recipe.train;
        let kind = if train.group_by_modality_length {
            SampleOrder::ModalityGrouped {
                batch: train.per_device_train_batch_size,
                chunks: micro_batches,
                variant: GroupingVariant::Llava,
            }
        } else if recipe.data.shuffle {
            SampleOrder::Shuffled
        } else {
            SampleOrder::Sequential
        };
        let modality_lengths = match kind {
            SampleOrder::ModalityGrouped { .. } => source.modality_lengths(),
            _ => Vec::new(),
        };
        let (units, mixture) = match lengths {
            None => (Units::Samples, Mixture::new(&source.weighted())?),
            Some(lengths) => {
                let (groups, weights) = packs(source, &lengths, train.pack_tokens, train.seed)?;
                let sets: Vec<_> = groups.iter().map(Packs::len).zip(weights).collect();
                (Units::Packs { groups, lengths }, Mixture::new(&sets)?)
            }
        };
        let orders = Self {
            kind,
            modality_lengths,
            units,
            mixture,
            seed: train.seed,
            recent: Mutex::default(),
        };
        orders.epoch(0)?;
        Ok(orders)
    }

    /// Units of an epoch.
    pub(crate) fn epoch_len(&self) -> usize {
        self.mixture.epoch_len()
    }

    /// Numbers of the samples of a unit.
    pub(crate) fn samples(&self, unit: usize) -> Vec<usize> {
        let Units::Packs { groups, .. } = &self.units else {
            return vec![unit];
        };
        let mut local = unit;
        for packs in groups {
            if local < packs.len() {
                return packs.get(local).iter().map(|&i| i as usize).collect();
            }
            local -= packs.len();
        }
        Vec::new()
    }

    /// Whether sample `other` may stand where `index` was planned: it must not be longer.
    pub(crate) fn may_replace(&self, index: usize, other: usize) -> bool {
        match &self.units {
            Units::Samples => true,
            Units::Packs { lengths, .. } => {
                let length = |i: usize| lengths.get(i).copied().unwrap_or(0);
                length(other) > 0 && length(other) <= length(index)
            }
        }
    }

    /// What was planned, where packs were.
    pub(crate) fn packing(&self) -> Option<PackingReport> {
        let Units::Packs { groups, lengths } = &self.units else {
            return None;
        };
        let packs: usize = groups.iter().map(Packs::len).sum();
        let tokens: u64 = groups.iter().map(|g| g.tokens).sum();
        let budget = groups.first().map_or(0, |g| g.budget);
        Some(PackingReport {
            samples: lengths.iter().filter(|&&l| l > 0).count(),
            unusable: lengths.iter().filter(|&&l| l == 0).count(),
            packs,
            pack_tokens: budget,
            tokens,
            utilisation: tokens as f64 / (packs as f64 * budget as f64).max(1.0),
        })
    }

    /// The order of an epoch, from 0.
    pub(crate) fn epoch(&self, epoch: u64) -> Result<Arc<Vec<usize>>, TrainError> {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, order)) = recent.iter().find(|(e, _)| *e == epoch) {
            return Ok(Arc::clone(order));
        }
        let order = Arc::new(self.compute(epoch)?);
        if recent.len() >= 2 {
            recent.remove(0);
        }
        recent.push((epoch, Arc::clone(&order)));
        Ok(order)
    }

    fn compute(&self, epoch: u64) -> Result<Vec<usize>, TrainError> {
        let drawn = match self.mixture.is_plain() {
            true => None,
            false => Some(self.mixture.units(self.seed, epoch)),
        };
        let len = self.mixture.epoch_len();
        let order = match &self.kind {
            SampleOrder::Sequential => (0..len).collect(),
            SampleOrder::Shuffled => epoch_permutation(len, self.seed, epoch),
            grouped @ SampleOrder::ModalityGrouped { .. } => {
                let lengths = match &drawn {
                    None => self.modality_lengths.clone(),
                    Some(drawn) => {
                        let length = |&i: &usize| self.modality_lengths.get(i).copied();
                        drawn.iter().filter_map(length).collect()
                    }
                };
                let state = SamplerState {
                    seed: self.seed,
                    epoch,
                    position: 0,
                };
                Sampler::new(grouped.clone(), lengths, state)?
                    .order()
                    .to_vec()
            }
        };
        Ok(match drawn {
            None => order,
            Some(drawn) => order.into_iter().map(|place| drawn[place]).collect(),
        })
    }
}

/// Packs of all sets, and the weight of each group of packs.
fn packs(
    source: &SampleSource,
    lengths: &[u32],
    budget: usize,
    seed: u64,
) -> Result<(Vec<Packs>, Vec<f64>), TrainError> {
    if source.image_tokens() >= budget {
        return Err(TrainError::Setting {
            key: "train.pack_tokens",
            reason: format!(
                "{budget} leave no room for text beside an image of {} tokens",
                source.image_tokens()
            ),
        });
    }
    // Sets with whole weights are packed as one, so that a pack holds samples of all of them.
    let mut whole = Vec::new();
    let (mut groups, mut weights) = (Vec::new(), Vec::new());
    let mut first = 0;
    for (len, weight) in source.weighted() {
        let own: Vec<u32> = (first as u32..(first + len) as u32).collect();
        first += len;
        if weight.fract() == 0.0 {
            for _ in 0..weight as usize {
                whole.extend_from_slice(&own);
            }
        } else {
            groups.push(pack_in_windows(&own, lengths, budget, seed)?);
            weights.push(weight);
        }
    }
    if !whole.is_empty() {
        groups.insert(0, pack_in_windows(&whole, lengths, budget, seed)?);
        weights.insert(0, 1.0);
    }
    Ok((groups, weights))
}
