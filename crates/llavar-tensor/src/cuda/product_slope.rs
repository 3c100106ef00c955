//! The gradient before an activation in one kernel for Hopper: `(dy W) f'(x)`, or of gate and up before SwiGLU.
//!
//! The kernels (`kernels/product_slope.cu`, `kernels/product_swiglu_slope.cu`) take slopes where a tile of the product
//! ends, so that the gradient behind the activation is neither written nor read.

use std::sync::Arc;

use super::{
    Arg, Cuda, Grid, Kernel, Source, args,
    product::{LINE_BYTES, Matrix, Product, THREADS, TILE},
};
use crate::{DType, Result, Tensor, ops::Activation};

pub(super) static SOURCE: Source = Source {
    name: "product_slope",
    code: concat!(
        include_str!("kernels/activation.cuh"),
        include_str!("kernels/hopper.cuh"),
        include_str!("kernels/product_slope.cu")
    ),
};
pub(super) static SWIGLU_SOURCE: Source = Source {
    name: "product_swiglu_slope",
    code: concat!(
        include_str!("kernels/activation.cuh"),
        include_str!("kernels/hopper.cuh"),
        include_str!("kernels/product_swiglu_slope.cu")
    ),
};
const GELU: Kernel = SOURCE.kernel("product_gelu_slope");
const QUICK_GELU: Kernel = SOURCE.kernel("product_quick_gelu_slope");
const SWIGLU: Kernel = SWIGLU_SOURCE.kernel("product_swiglu_slope");

/// Rows of a box of the weight, steps of the ring, buffers of a group, blocks that share the weight: as in the source
/// file.
const BOX_ROWS: usize = 64;
const STEPS: usize = 4;
const BUFFERS: usize = 2;
const PAIR: usize = 2;
/// Bytes for tiles, barriers, and what it takes to begin at a multiple of 1,024.
const SHARED: usize = (STEPS * 2 * TILE + 2 * BUFFERS * TILE) * LINE_BYTES + 16 * STEPS + 32 + 1024;

/// The same of SwiGLU's kernel, whose tiles are twice as wide and whose groups have 64 rows each.
const SWIGLU_COLUMNS: usize = 2 * TILE;
const SWIGLU_ROWS: usize = 64;
const SWIGLU_STEPS: usize = 3;
const SWIGLU_BUFFERS: usize = 4;
const SWIGLU_SHARED: usize =
    (SWIGLU_STEPS * (TILE + SWIGLU_COLUMNS) + 2 * SWIGLU_BUFFERS * SWIGLU_ROWS) * LINE_BYTES
        + 16 * SWIGLU_STEPS
        + 8 * SWIGLU_BUFFERS
        + 1024;

impl Cuda {
    /// Queues `dx [m, n] = (dy [m, k] W [k, n]) f'(x [m, n])` of a product that [`Cuda::takes_product`] takes, its layer
    /// the weight as it lies. With `sums`, each run of [`TILE`] rows gives a part of the sums over rows, `[runs, n]`
    /// in f32. All tensors but the last are of bf16, outputs are fresh.
    pub(crate) fn product_slope(
        self: &Arc<Self>,
        product: &Product<'_>,
        kind: Activation,
        x: &Tensor,
        dx: &mut Tensor,
        sums: Option<&mut Tensor>,
    ) -> Result<()> {
        let [m, n, _] = product.sizes;
        let kernel = match kind {
            Activation::Gelu => &GELU,
            Activation::QuickGelu => &QUICK_GELU,
        };
        let mut arguments = operands(product)?;
        for tensor in [x, dx] {
            arguments.push(Matrix::of(tensor, [m, n])?.boxes(TILE)?.into());
        }
        arguments.push(sums.into());
        arguments.extend(product.sizes.map(|size| Arg::from(size as i32)));
        // Blocks stay: one a multiprocessor, in pairs.
        let tiles = m.div_ceil(PAIR * TILE) * n.div_ceil(TILE);
        let pairs = tiles.min(self.info().multiprocessors / PAIR).max(1);
        let grid = Grid::new(PAIR * pairs, THREADS).shared(SHARED);
        self.launch(kernel, DType::BF16, grid, &arguments)
    }

    /// As [`Cuda::product_slope`] for SwiGLU: `x` and `dx` are gate and up, `[m, 2 n]` or two of `[m, n]`.
    pub(crate) fn product_swiglu_slope(
        self: &Arc<Self>,
        product: &Product<'_>,
        x: &[&Tensor],
        dx: &[Tensor],
    ) -> Result<()> {
        let [m, n, _] = product.sizes;
        let mut arguments = operands(product)?;
        let dx: Vec<&Tensor> = dx.iter().collect();
        for tensors in [x, &dx] {
            let sides = match tensors {
                [both] => Matrix::of(both, [m, 2 * n])?.left_and_right().to_vec(),
                two => two
                    .iter()
                    .map(|side| Matrix::of(side, [m, n]))
                    .collect::<Result<_>>()?,
            };
            for side in sides {
                arguments.push(side.boxes(SWIGLU_ROWS)?.into());
            }
        }
        arguments.extend(product.sizes.map(|size| Arg::from(size as i32)));
        let tiles = m.div_ceil(TILE) * n.div_ceil(SWIGLU_COLUMNS);
        let blocks = tiles.min(self.info().multiprocessors);
        let grid = Grid::new(blocks, THREADS).shared(SWIGLU_SHARED);
        self.launch(&SWIGLU, DType::BF16, grid, &arguments)
    }
}

/// Both sides of the product as the copy unit sees them.
fn operands(product: &Product<'_>) -> Result<Vec<Arg>> {
    let [m, n, k] = product.sizes;
    let mut all = args![Matrix::of(product.a, [m, k])?.boxes(TILE)?].to_vec();
    for (weight, _) in product.layers {
        all.push(Matrix::of(weight, [k, n])?.boxes(BOX_ROWS)?.into());
    }
    Ok(all)
}
