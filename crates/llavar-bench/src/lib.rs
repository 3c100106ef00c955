//! What the program reaches on a machine, beside what the machine allows.
//!
//! [`gpu::run`] measures the work of a model shape on one GPU: training step, vision tower, prefill and
//! decoding. Each row carries its floor, the time that the operations or bytes of the work need at the
//! rates measured on the same card in the same run.

pub mod estimate;
pub mod gpu;
mod report;

pub use llavar_model::flops;
pub use report::{Machine, Report, Row};
