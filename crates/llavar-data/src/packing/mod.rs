//! Joining samples into sequences: which go together ([`pack`]) and what the model gets
//! ([`PackedBatch`], or [`PaddedBatch`] as the reference has it).

mod batch;
mod plan;

pub use batch::{ImageSlot, PackedBatch, PaddedBatch};
pub use plan::{PackPlan, pack};
