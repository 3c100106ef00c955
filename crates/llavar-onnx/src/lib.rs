//! Small convolutional networks out of ONNX files, run on the CPU: what text detection, recognition and
//! classification need, and nothing else.
//!
//! It calls `llavar-tensor` for products and vector loops. A picture runs with its channels last, so that
//! every convolution is a product of rows as they lie or a loop over channels; biases, normalisations and
//! activations are computed while their rows are in the cache.
//!
//! | Start here | For |
//! |---|---|
//! | [`Network::load`] | a network from the bytes of a file |
//! | [`Network::run`] | its output for one picture |
//! | [`Network::keep_classes`] | a classifier of fewer classes |

#![forbid(unsafe_code)]

mod conv;
mod error;
mod lower;
mod model;
mod network;
mod op;
mod pointwise;
mod shapes;
mod value;
mod window;
mod wire;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

pub use error::{OnnxError, Result};
pub use network::{Network, Output};
