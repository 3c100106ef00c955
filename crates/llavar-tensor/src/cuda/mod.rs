//! The CUDA device: NVIDIA's libraries, loaded at run time, and our own kernels.
//!
//! Nothing of CUDA is needed to build. [`Cuda::open`] finds the driver, cuBLASLt and NVRTC (cuDNN where
//! it is) and says which one is missing. All work of a device goes to one stream, so that operations,
//! allocations and copies happen in the order in which they were asked for and nothing waits.
//!
//! - `libraries`: finding shared libraries, also those that pip installs.
//! - `context`: the device, its stream and handles.
//! - `memory`: stream-ordered buffers, copies through pinned memory, constants that are uploaded once.
//! - `kernel`: our kernels (`kernels/*.cu`), compiled by NVRTC for f32 and bf16, kept on disk.
//! - `gemm`: cuBLASLt products, plans cached by shape.
//! - `product`: products of our own for Hopper, with the activation inside (`product_slope`, `product_swiglu` and
//!   `product_weight`: with what else belongs to them; `product_wide`: in tiles that fill the card).
//! - `convnext_mlp`: what follows the convolution of a ConvNeXt block, for narrow rows.
//! - `tensor_map`: what Hopper's copy unit is told of a tensor.
//! - `trust`: whether a compiler made of a kernel what it should be.
//! - `attention_hopper`: attention for Hopper; `cudnn`: cuDNN's flash attention.
//! - `nccl`: collective operations between GPUs.
//! - `graph`: work that is recorded once and queued again with one call.
//! - [`decode`]: the decoding step of a language model.
//! - `ops`: the operations, one file each as in [`crate::ops`], where their formulas stand.

mod attention_hopper;
mod context;
mod convnext_mlp;
mod cudnn;
pub mod decode;
mod gemm;
mod graph;
mod kernel;
mod libraries;
mod measure;
mod memory;
mod nccl;
pub(crate) mod ops;
mod product;
mod product_slope;
mod product_swiglu;
mod product_weight;
mod product_wide;
mod tensor_map;
#[cfg(test)]
pub(crate) mod testing;
mod trust;

pub(crate) use context::SHARED_OF_THE_SYSTEM;
pub use context::{Cuda, DeviceInfo};
pub(crate) use convnext_mlp::ConvNextRows;
pub(crate) use gemm::Epilogue;
pub(crate) use kernel::{Arg, Grid, Kernel, Source, args};
pub use measure::{EXCHANGE_WAIT, Lane, Share, Span, Trace};
pub(crate) use memory::DeviceBuffer;
pub use memory::{DeviceMemory, Readback};
pub(crate) use nccl::NcclCollective;
pub(crate) use product::{Product, TILE};
pub(crate) use product_weight::WeightGradient;
