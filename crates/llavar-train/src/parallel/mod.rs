//! One run on many ranks.
//!
//! Every rank takes every N-th micro-batch of a step; gradients are those of the loss over the supervised
//! tokens of all ranks' samples. ZeRO says what a rank keeps of the states (DeepSpeed's numbers):
//!
//! | stage | weights | gradients | moments, master weights |
//! |---|---|---|---|
//! | 0 | all | all, summed at the end of a step | all |
//! | 1 | all | all, summed at the end of a step | 1/N |
//! | 2 | all | 1/N, summed block by block in the backward pass | 1/N |
//! | 3 | 1/N, fetched block by block | 1/N | 1/N |
//!
//! - `agree`: what ranks tell each other before a step.
//! - `bucket`: the weights of a block as one run of elements, and a rank's part of it.
//! - `schedule`: when blocks are fetched and reduced, the same on all ranks whatever their samples are.
//! - `zero`: the above put together for the trainer.

mod agree;
mod bucket;
mod device;
mod save;
mod schedule;
mod zero;

pub(crate) use agree::{Round, Voice, agree};
pub(crate) use bucket::Piece;
pub use device::join_ranks;
pub(crate) use zero::{Sharding, Zero};

/// Which micro-batches of a step are a rank's: those whose number leaves `rank` when divided by `ranks`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) rank: u64,
    pub(crate) ranks: u64,
}

impl Share {
    /// Of one rank alone.
    pub(crate) const ALL: Self = Self { rank: 0, ranks: 1 };

    /// Whether the micro-batch of this number in its step is the rank's.
    pub(crate) fn has(self, part: u64) -> bool {
        part % self.ranks == self.rank
    }
}
