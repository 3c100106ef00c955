//! Tensors, fused ops, tape and devices: the only crate with kernels and `unsafe`.
pub mod mapped;
