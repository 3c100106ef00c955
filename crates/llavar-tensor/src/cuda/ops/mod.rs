//! The operations on the GPU. What each computes stands in the file of the same name under [`crate::ops`],
//! which checks shapes and calls in here; tensors are f32 or bf16, parameters of the same type.

mod basic;
mod linear;
mod linear_layer_scale;

#[cfg(test)]
use super::Source;

pub(crate) use basic::{add, add_assign, cast, column_sums, sum_parts};
pub(crate) use linear::linear;
pub(crate) use linear_layer_scale::linear_layer_scale;

/// All files of kernels.
#[cfg(test)]
pub(super) const SOURCES: &[&Source] = &[&basic::SOURCE, &linear_layer_scale::SOURCE];
