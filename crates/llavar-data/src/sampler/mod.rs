//! The order in which an epoch visits its samples, and where in it a run stands.

mod grouped;
mod mixture;

pub use grouped::{GroupingVariant, group_by_modality_length};
pub use mixture::Mixture;

use crate::error::Error;
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// A random permutation of `0..len` for one epoch.
///
/// # Determinism
/// A function of its arguments alone, equal on all systems: ChaCha8 seeded with `seed`, stream
/// `epoch`, Fisher-Yates from the end with unbiased bounds.
pub fn epoch_permutation(len: usize, seed: u64, epoch: u64) -> Vec<usize> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(epoch);
    permutation(len, &mut rng)
}

fn permutation(len: usize, rng: &mut ChaCha8Rng) -> Vec<usize> {
    let mut order: Vec<usize> = (0..len).collect();
    for i in (1..len).rev() {
        order.swap(i, below(rng, i as u64 + 1) as usize);
    }
    order
}

/// A number below `bound`, without modulo bias. Written out because library versions differ in how
/// they draw, and a resumed run must draw the same.
fn below(rng: &mut ChaCha8Rng, bound: u64) -> u64 {
    let zone = u64::MAX - u64::MAX % bound;
    loop {
        let draw = rng.next_u64();
        if draw < zone {
            return draw % bound;
        }
    }
}

/// How an epoch is ordered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum SampleOrder {
    /// File order.
    Sequential,
    /// A new permutation each epoch.
    Shuffled,
    /// Batches of one modality and of similar length.
    ModalityGrouped {
        /// Samples a device takes at once.
        batch: usize,
        /// Batches in one megabatch: ranks times gradient accumulation.
        chunks: usize,
        /// Whose rule for the remainder.
        variant: GroupingVariant,
    },
}

/// Where a run stands: enough, with the data, to go on exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SamplerState {
    /// Seed of all epochs.
    pub seed: u64,
    /// Current epoch, from 0.
    pub epoch: u64,
    /// Samples of this epoch already handed out.
    pub position: usize,
}

/// Hands out sample numbers, epoch after epoch.
#[derive(Debug, Clone)]
pub struct Sampler {
    kind: SampleOrder,
    lengths: Vec<i64>,
    state: SamplerState,
    order: Vec<usize>,
}

impl Sampler {
    /// A sampler over samples with the given [`crate::Sample::modality_length`]s, at `state`.
    ///
    /// # Errors
    /// [`Error::Invalid`] for no samples, a position beyond the epoch, or lengths that the grouping
    /// refuses.
    pub fn new(kind: SampleOrder, lengths: Vec<i64>, state: SamplerState) -> Result<Self, Error> {
        if lengths.is_empty() || state.position > lengths.len() {
            return Err(Error::Invalid {
                what: "sampler",
                reason: format!(
                    "position {} in an epoch of {} samples",
                    state.position,
                    lengths.len()
                ),
            });
        }
        let order = order(&kind, &lengths, &state)?;
        Ok(Self {
            kind,
            lengths,
            state,
            order,
        })
    }

    /// Where the run stands. A sampler made from it hands out the same numbers from here on.
    pub fn state(&self) -> SamplerState {
        self.state
    }

    /// The order of the current epoch.
    pub fn order(&self) -> &[usize] {
        &self.order
    }

    /// Samples of one epoch.
    pub fn epoch_len(&self) -> usize {
        self.order.len()
    }

    /// The next `count` sample numbers; an epoch that ends is followed by the next one.
    ///
    /// # Errors
    /// [`Error::Invalid`], as [`Sampler::new`].
    pub fn next_batch(&mut self, count: usize) -> Result<Vec<usize>, Error> {
        let mut batch = Vec::with_capacity(count);
        while batch.len() < count {
            if self.state.position >= self.order.len() {
                self.state.epoch += 1;
                self.state.position = 0;
                self.order = order(&self.kind, &self.lengths, &self.state)?;
            }
            let rest = &self.order[self.state.position..];
            let taken = rest.len().min(count - batch.len());
            batch.extend_from_slice(&rest[..taken]);
            self.state.position += taken;
        }
        Ok(batch)
    }
}

fn order(kind: &SampleOrder, lengths: &[i64], state: &SamplerState) -> Result<Vec<usize>, Error> {
    match kind {
        SampleOrder::Sequential => Ok((0..lengths.len()).collect()),
        SampleOrder::Shuffled => Ok(epoch_permutation(lengths.len(), state.seed, state.epoch)),
        SampleOrder::ModalityGrouped {
            batch,
            chunks,
            variant,
        } => {
            let mut rng = ChaCha8Rng::seed_from_u64(state.seed);
            rng.set_stream(state.epoch);
            group_by_modality_length(lengths, *batch, *chunks, *variant, &mut |len| {
                permutation(len, &mut rng)
            })
        }
    }
}
