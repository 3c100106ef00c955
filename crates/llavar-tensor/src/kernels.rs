//! Building blocks for crates that run networks of their own shape on the CPU, without tape or devices:
//! products, element functions, and [`kernel!`](crate::kernel) for loops over them.

use crate::cpu::{self, Layout, Rows};

#[doc(hidden)]
pub fn dispatch<R>(f: impl FnOnce() -> R) -> R {
    cpu::dispatch(f)
}

/// e^x, relative error below 2e-7.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    cpu::exp(x)
}

/// 1 / (1 + e^-x).
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    cpu::sigmoid(x)
}

/// Error function.
#[inline(always)]
pub fn erf(x: f32) -> f32 {
    cpu::erf(x)
}

/// `C = A B` on the calling thread; with `add` `C = C + A B`.
///
/// # Shapes
/// `a` `[m, k]` by `b` `[k, n]`, row-major; `c` `[m, n]` with rows `c_stride` elements apart.
///
/// # Panics
/// When a slice is shorter than its shape.
pub fn matmul(
    [m, n, k]: [usize; 3],
    a: &[f32],
    b: &[f32],
    c: &mut [f32],
    c_stride: usize,
    add: bool,
) {
    let a = Rows { data: a, stride: k };
    let b = Rows { data: b, stride: n };
    let beta = if add { 1.0 } else { 0.0 };
    cpu::gemm_serial(Layout::NN, m, n, k, a, b, c, c_stride, beta);
}
