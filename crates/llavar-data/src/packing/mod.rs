//! Joining samples into sequences: which go together ([`pack`], [`pack_in_windows`] for sets of
//! any size) and what the model gets
//! ([`PackedBatch`], or [`PaddedBatch`] as the reference has it).

mod batch;
mod plan;
mod sums;
mod windows;

pub use batch::{ImageSlot, PackedBatch, PaddedBatch};
pub use plan::{PackPlan, pack};
pub use windows::{PACK_WINDOW, Packs, pack_in_windows};
