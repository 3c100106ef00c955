//! CPU building blocks shared by the operations: parallel row loops, vector dispatch, products.

mod gemm;
mod math;
mod parallel;
mod reduce;
mod simd;
mod transpose;

pub(crate) use gemm::{Layout, Rows, gemm, gemm_serial, gemv_bf16};
#[cfg(test)]
pub(crate) use math::erfc_f64;
pub(crate) use math::{add, add_assign, add_to, axpy, erf, exp, sigmoid, tanh};
pub(crate) use parallel::{
    Kernel, par_chunks, par_items, par_reduce, par_rows, par_rows2, simd_kernel,
};
pub(crate) use reduce::{dot, max, sum};
pub(crate) use simd::{dispatch, kernel};
pub(crate) use transpose::transpose;
