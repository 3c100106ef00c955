//! cuDNN's flash attention through its graph interface.
//!
//! - `graph`: descriptors, operations and plans, as typed Rust.
//! - `sdpa`: the graphs of attention forward and backward.
//! - `attention`: which problems it takes, cached plans, execution.

mod attention;
mod graph;
mod sdpa;

pub(crate) use attention::{Fit, Statistics, backward, fit, forward, heads_of_rows};
