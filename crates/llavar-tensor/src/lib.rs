//! Tensors, fused operations, the tape and devices: the only crate with kernels and `unsafe`.
//!
//! It calls no other crate of the workspace and knows nothing of images or language. Where to start:
//! [`Tape`] (operations are its methods, one file each under `ops/`), then [`Tensor`] and [`Param`].
//!
//! ```
//! use llavar_tensor::{Param, Tape, Tensor, Var};
//! # fn main() -> llavar_tensor::Result<()> {
//! let weight = Param::new("w", Tensor::from_vec(vec![1.0f32, 2.0, 3.0, 4.0], &[2, 2])?);
//! weight.set_requires_grad(true);
//! let tape = Tape::training();
//! let x = Var::constant(Tensor::from_vec(vec![1.0f32, 1.0], &[1, 2])?);
//! let y = tape.linear(&x, &weight, None)?; // [1, 2]
//! assert_eq!(y.value().data::<f32>()?, &[3.0, 7.0]);
//! # Ok(()) }
//! ```

pub mod collective;
pub mod compact;
pub(crate) mod cpu;
pub mod cuda;
mod device;
mod error;
mod fp8;
pub mod kernels;
pub mod mapped;
pub mod memory;
mod nf4;
pub mod ops;
pub mod optim;
mod param;
mod pixels;
mod rows;
mod segments;
mod tape;
mod tensor;

pub use cuda::decode;
pub use device::{Device, DeviceKind};
pub use error::{Error, Result};
pub use nf4::nf4_bytes;
pub use ops::{
    Activation, AttentionSpec, IGNORE_INDEX, LoraAdapter, Resample, RopeTable, TokenLoss,
};
pub use param::{Gate, Param};
pub use pixels::PixelLevels;
pub use segments::Segments;
pub use tape::{Grads, Tape, Var, VarId};
pub use tensor::{DType, Stored, Tensor};
