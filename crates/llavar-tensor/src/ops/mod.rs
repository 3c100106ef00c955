//! The operations: one file each with formula, shapes, forward and backward pass.
//!
//! Every operation is a method of [`crate::Tape`]. Activations are row-major with the channels last:
//! tokens `[T, D]`, images `[B, H, W, C]`. Unless a file says otherwise, tensors are f32.

mod activation;
mod arithmetic;
pub(crate) mod attention;
mod broadcast;
mod by_rows;
mod convnext_mlp;
mod depthwise_conv;
mod embed_merge;
mod gated_add;
mod gather_rows;
mod layer_norm;
mod linear;
mod linear_activation;
mod linear_cross_entropy;
mod linear_layer_scale;
mod linear_swiglu;
mod linear_three;
pub(crate) mod lora;
mod mean_tokens;
mod narrow_tokens;
mod patchify;
pub(crate) mod resample;
mod rms_norm;
mod rope;
mod rope_attention;
mod swiglu;
#[cfg(test)]
pub(crate) mod testing;

pub use activation::Activation;
pub use attention::{AttentionSpec, PathSpec};
pub use convnext_mlp::ConvNextMlp;
pub use linear_cross_entropy::{IGNORE_INDEX, TokenLoss};
pub use linear_swiglu::GateUp;
pub use lora::LoraAdapter;
pub(crate) use narrow_tokens::Span;
pub use resample::Resample;
pub use rope::RopeTable;
