//! AdamW, the global gradient norm and clipping, on the device that the weights live on.
//!
//! One step of an optimizer: [`StepState::begin`] measures the gradients, then each weight is added to its
//! [`Updates`], and [`StepState::read_back`] tells afterwards what happened. On a GPU all of this is
//! queued: norm, clip factor and the decision to skip a step whose gradient is not finite, or whose loss or norm
//! is beyond [`StepLimits`], stay on the device, and the host waits only for what it reads back.

mod adamw;
mod clip;
mod ema;
mod precision;
mod rounding;
mod step;
#[cfg(test)]
pub(crate) mod testing;
mod updates;

pub use adamw::{AdamW, Moments};
pub(crate) use adamw::{Kind, RoundingKey};
pub use clip::{clip_factor, global_grad_norm};
pub use ema::update_average;
pub use precision::Precision;
pub use step::{StepLimits, StepReadback, StepResult, StepState};
pub use updates::Updates;
