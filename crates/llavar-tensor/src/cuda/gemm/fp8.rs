//! Products of FP8 matrices: half the bytes of bf16 and twice its rate on Hopper.

use std::sync::Arc;

use super::{Extra, Key, Operands, align, failed};
use crate::{
    Error, Result, Tensor,
    cpu::Layout,
    cuda::{Cuda, ops::Fp8Matrix},
};

impl Cuda {
    /// `c = a b^T (+ residual) (+ beta c)`, unscaled: `a [m, k]`, `b [n, k]`, `c` and `residual [m, n]`. `n` and `k` are
    /// multiples of 16, `beta` is 0 or 1, a residual has the type of `c`. With `fast` sums stay in the tensor
    /// cores' own precision (about 14 bits); without it they are added to f32 outside of them as they grow.
    ///
    /// # Errors
    /// When a size does not fit, or the library has no algorithm.
    pub(crate) fn gemm_fp8(
        self: &Arc<Self>,
        [m, n, k]: [usize; 3],
        [a, b]: [Fp8Matrix<'_>; 2],
        c: &mut Tensor,
        beta: f32,
        residual: Option<&Tensor>,
        fast: bool,
    ) -> Result<()> {
        let bytes = |matrix: Fp8Matrix<'_>| matrix.words.numel() * 4;
        let fits = n.is_multiple_of(16)
            && k.is_multiple_of(16)
            && bytes(a) >= m * k
            && bytes(b) >= n * k
            && c.numel() == m * n
            && residual.is_none_or(|r| r.numel() == m * n && r.dtype() == c.dtype());
        if !fits {
            return Err(Error::InvalidArgument {
                op: "fp8 product",
                reason: format!(
                    "{} and {} bytes into {:?} are no [{m}, {k}] times [{n}, {k}]^T",
                    bytes(a),
                    bytes(b),
                    c.shape()
                ),
            });
        }
        let (pa, pb, pd) = (
            a.words.cuda_address()?,
            b.words.cuda_address()?,
            c.cuda_address_mut()?,
        );
        let (pc, beta) = match residual {
            Some(residual) => (residual.cuda_address()?, 1.0),
            None => (pd, beta),
        };
        let key = Key {
            layout: Layout::NT,
            sizes: [m, n, k],
            input: Operands::Fp8 {
                formats: [a.format, b.format],
                fast,
            },
            output: c.dtype(),
            extra: Extra::None,
            added: beta != 0.0,
            alignment: [align(pa), align(pb), align(pc), align(pd)],
        };
        let plan = self.plan(key)?;
        let plan = plan.ok_or_else(|| failed(key, "no algorithm".into()))?;
        // The first number of a scale is the one that undoes it.
        let scales = [a.scale.cuda_address()?, b.scale.cuda_address()?];
        self.run(key, plan, [pa, pb, pc, pd], 0, scales, beta)
    }
}
