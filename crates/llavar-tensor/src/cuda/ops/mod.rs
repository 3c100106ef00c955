//! The operations on the GPU. What each computes stands in the file of the same name under [`crate::ops`],
//! which checks shapes and calls in here; tensors are f32 or bf16, parameters of the same type.

mod activation;
mod attention;
mod attention_tiles;
mod basic;
mod before;
mod broadcast;
mod convnext_mlp;
mod copy_rows;
mod depthwise_conv;
mod embed_merge;
mod fp8;
mod gated_add;
mod layer_norm;
mod linear;
mod linear_activation;
mod linear_cross_entropy;
mod linear_layer_scale;
mod linear_swiglu;
mod linear_three;
mod lora;
mod mean_tokens;
mod narrow_tokens;
mod nf4;
mod norm;
mod optim;
mod patchify;
mod pixels;
mod resample;
mod rms_norm;
mod rope;
mod rows;
mod sum_parts;
mod swiglu;
mod tokens;
mod updates;

#[cfg(test)]
use super::Source;

pub(crate) use activation::activation;
pub(crate) use attention::{attention, path_attention, rope_attention};
pub(crate) use basic::{add, add_assign, add_column_sums, cast, column_sums};
pub(crate) use before::Before;
pub(crate) use broadcast::{add_broadcast, concat_last, narrow_backward, param};
pub(crate) use convnext_mlp::convnext_mlp;
pub(crate) use copy_rows::copy_rows;
pub(crate) use depthwise_conv::depthwise_conv;
pub(crate) use embed_merge::embed_merge;
pub(crate) use fp8::{Fp8Copies, Fp8Matrix, Wanted, padded};
pub(crate) use gated_add::gated_add;
pub(crate) use layer_norm::layer_norm;
pub(crate) use linear::linear;
pub(crate) use linear_activation::linear_activation;
pub(crate) use linear_cross_entropy::linear_cross_entropy;
pub(crate) use linear_layer_scale::linear_layer_scale;
pub(crate) use linear_swiglu::linear_swiglu;
pub(crate) use linear_three::linear_three;
pub(crate) use lora::{dropout, row_norms, scale, scale_to, scale_to_backward};
pub(crate) use mean_tokens::mean_tokens;
pub(crate) use narrow_tokens::{concat, narrow_tokens, widen_tokens};
pub(crate) use nf4::widened;
pub(crate) use optim::{DeviceStep, update_average};
pub(crate) use patchify::patchify;
pub(crate) use pixels::from_rgb;
pub(crate) use resample::{TapsOnGpu, resample};
pub(crate) use rms_norm::rms_norm;
pub(crate) use rope::{Angles, DeviceTables, rope, split_qkv_rope};
pub(crate) use sum_parts::PartSums;
pub(crate) use swiglu::{swiglu, swiglu_fused};
pub(crate) use updates::DeviceUpdates;

/// All files of kernels.
#[cfg(test)]
pub(super) const SOURCES: &[&Source] = &[
    &activation::SOURCE,
    &attention::SOURCE,
    &attention_tiles::SOURCE,
    &basic::SOURCE,
    &broadcast::SOURCE,
    &copy_rows::SOURCE,
    &depthwise_conv::SOURCE,
    &depthwise_conv::hopper::SOURCE,
    &embed_merge::SOURCE,
    &fp8::SOURCE,
    &linear_cross_entropy::SOURCE,
    &linear_layer_scale::SOURCE,
    &lora::SOURCE,
    &optim::SOURCE,
    &narrow_tokens::SOURCE,
    &nf4::SOURCE,
    &norm::SOURCE,
    &patchify::SOURCE,
    &pixels::SOURCE,
    &resample::SOURCE,
    &rope::SOURCE,
    &sum_parts::SOURCE,
    &swiglu::SOURCE,
    &tokens::SOURCE,
];
