//! CPU building blocks shared by the operations: parallel row loops, vector dispatch, products.

mod gemm;
mod math;
mod parallel;

pub(crate) use gemm::{Layout, Rows, gemm, gemm_serial};
pub(crate) use math::{add_assign, axpy, dot, erf, exp, sigmoid, sum, tanh};
pub(crate) use parallel::{Kernel, par_chunks, par_reduce, par_rows, par_rows2, simd, simd_kernel};
