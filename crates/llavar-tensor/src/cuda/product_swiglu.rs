//! Gate, up and SwiGLU in one kernel for Hopper: `y = silu(a gate^T) (a up^T)`.
//!
//! The kernel (`kernels/product_swiglu.cu`) is as fast as cuBLASLt's product alone, so that SwiGLU, and the
//! writing and reading of what is before it, cost nothing.

use std::sync::Arc;

use super::{
    Cuda, Kernel, Source, args,
    product::{LINE_BYTES, Matrix, Product, TILE},
};
use crate::{DType, Result, Tensor};

pub(super) static SOURCE: Source = Source {
    name: "product_swiglu",
    code: concat!(
        include_str!("kernels/activation.cuh"),
        include_str!("kernels/hopper.cuh"),
        include_str!("kernels/product_swiglu.cu")
    ),
};
const SWIGLU: Kernel = SOURCE.kernel("product_swiglu");
const SWIGLU_KEPT: Kernel = SOURCE.kernel("product_swiglu_kept");

/// Rows that a group writes, steps of the ring, buffers: as in the source file. A tile has as many columns of
/// gate, and of up, as rows.
const OUT_ROWS: usize = 64;
const STEPS: usize = 4;
const BUFFERS: usize = 2;
/// Tiles, barriers, and what it takes to begin at a multiple of 1,024.
const SHARED: usize = (STEPS * 3 * TILE + 2 * BUFFERS * OUT_ROWS) * LINE_BYTES + 16 * STEPS + 1024;

impl Cuda {
    /// Queues `y [m, f] = silu(a gate^T) (a up^T)` of a product that [`Cuda::takes_product`] takes, with
    /// sizes `m`, `f`, `k` and gate and up side by side in one layer `[2 f, k]` or in two `[f, k]`; `kept`
    /// receives what is before SwiGLU, `[m, 2 f]` or two of `[m, f]`. Outputs are fresh tensors of bf16.
    pub(crate) fn product_swiglu(
        self: &Arc<Self>,
        product: &Product<'_>,
        y: &mut Tensor,
        kept: &mut [Tensor],
    ) -> Result<()> {
        let [m, f, k] = product.sizes;
        let y = Matrix::of(y, [m, f])?;
        let [gate, up] = match product.layers {
            [(gate, _), (up, _)] => [Matrix::of(gate, [f, k])?, Matrix::of(up, [f, k])?],
            [(both, _)] => Matrix::of(both, [2 * f, k])?.upper_and_lower(),
            _ => return Ok(()),
        };
        let (kernel, [kept_gate, kept_up]) = match kept {
            [gate, up] => (
                &SWIGLU_KEPT,
                [Matrix::of(gate, [m, f])?, Matrix::of(up, [m, f])?],
            ),
            [both] => (&SWIGLU_KEPT, Matrix::of(both, [m, 2 * f])?.left_and_right()),
            _ => (&SWIGLU, [y, y]),
        };
        let arguments = args![
            Matrix::of(product.a, [m, k])?.boxes(TILE)?,
            gate.boxes(TILE)?,
            up.boxes(TILE)?,
            y.boxes(OUT_ROWS)?,
            kept_gate.boxes(OUT_ROWS)?,
            kept_up.boxes(OUT_ROWS)?,
            m as i32,
            f as i32,
            k as i32
        ];
        let grid = self.product_grid(m, f, SHARED);
        self.launch(kernel, DType::BF16, grid, arguments)
    }
}
