//! What follows the convolution of a ConvNeXt block in one kernel for Hopper: norm, two products, GELU, residual.
//!
//! In the first stage rows are narrow (192 elements) and many, so that writing and reading the hidden layer, four times
//! as wide, takes longer than the products. The kernel (`kernels/convnext_mlp.cu`) keeps it in registers.

use std::sync::Arc;

use cudarc::driver::sys::CUtensorMapSwizzle_enum as Swizzle;

use super::{
    Cuda, Grid, Kernel, Source, args,
    product::{LINE_BYTES, MIN_ROWS, Matrix, THREADS},
    tensor_map::TensorMap,
};
use crate::{DType, Result, Tensor};

pub(super) static SOURCE: Source = Source {
    name: "convnext_mlp",
    code: concat!(
        include_str!("kernels/activation.cuh"),
        include_str!("kernels/hopper.cuh"),
        include_str!("kernels/convnext_mlp.cu")
    ),
};
const MLP: Kernel = SOURCE.kernel("convnext_mlp");

/// Width of rows, rows of a group of warps, columns of the hidden layer at a time, steps of the ring, boxes that a group
/// writes: as in the source file.
const WIDTH: usize = 192;
const ROWS: usize = 64;
const CHUNK: usize = 96;
const STEPS: usize = 11;
const BUFFERS: usize = 2;
/// Columns of the second weight in a step.
const COLUMNS: usize = 32;
/// Widest hidden layer whose bias has room.
const MAX_HIDDEN: usize = 2304;
/// Tiles, barriers, vectors, and what it takes to begin at a multiple of 1,024.
fn shared(hidden: usize) -> usize {
    let lines = 2 * (WIDTH / 64 + BUFFERS) * ROWS + STEPS * CHUNK;
    lines * LINE_BYTES + 16 * STEPS + 16 + 2 * (3 * WIDTH + hidden) + 1024
}

/// Rows, and the weights behind the convolution.
pub(crate) struct ConvNextRows<'a> {
    /// What is added at the end, and what the convolution gives, `[rows, width]`.
    pub(crate) rows: [&'a Tensor; 2],
    /// Weight and bias of the norm, of the first layer `[hidden, width]` and, under its layer scale, of the second
    /// `[width, hidden]`.
    pub(crate) layers: [[&'a Tensor; 2]; 3],
    pub(crate) eps: f32,
}

impl ConvNextRows<'_> {
    /// Number of rows, width of the hidden layer.
    fn sizes(&self) -> [usize; 2] {
        [self.rows[0].rows(), self.layers[1][1].numel()]
    }
}

impl Cuda {
    /// Whether there is a kernel for these on this card.
    pub(crate) fn takes_convnext_mlp(&self, mlp: &ConvNextRows<'_>) -> Result<bool> {
        let [rows, hidden] = mlp.sizes();
        let mut fits = self.info().is_hopper()
            && mlp.rows[0].last_dim() == WIDTH
            && (MIN_ROWS..1 << 28).contains(&rows)
            && hidden.is_multiple_of(CHUNK)
            && (CHUNK..=MAX_HIDDEN).contains(&hidden);
        for tensor in mlp.rows.iter().chain(mlp.layers.iter().flatten()) {
            fits =
                fits && tensor.dtype() == DType::BF16 && tensor.cuda_address()?.is_multiple_of(16);
        }
        Ok(fits)
    }

    /// `x + GELU(norm(v) w1^T + b1) w2^T + b2`, for what [`Cuda::takes_convnext_mlp`] takes.
    pub(crate) fn convnext_mlp(self: &Arc<Self>, mlp: &ConvNextRows<'_>) -> Result<Tensor> {
        let ([rows, hidden], [x, v]) = (mlp.sizes(), mlp.rows);
        let [norm, first, second] = mlp.layers;
        let y = self.empty(x.shape(), DType::BF16)?;
        // Lines of 64 bytes, so that a step of either weight has as many.
        let columns = TensorMap {
            address: second[0].cuda_address()?,
            sizes: [hidden as u64, WIDTH as u64],
            strides: [2 * hidden as u64],
            shape: [COLUMNS as u32, WIDTH as u32],
            swizzle: Swizzle::CU_TENSOR_MAP_SWIZZLE_64B,
        };
        let arguments = args![
            Matrix::of(v, [rows, WIDTH])?.boxes(ROWS)?,
            Matrix::of(first[0], [hidden, WIDTH])?.boxes(CHUNK)?,
            columns.encode()?,
            Matrix::of(&y, [rows, WIDTH])?.boxes(ROWS)?,
            x,
            norm[0],
            norm[1],
            first[1],
            second[1],
            mlp.eps,
            rows as i32,
            hidden as i32
        ];
        let blocks = self.info().multiprocessors.min(rows.div_ceil(2 * ROWS));
        let grid = Grid::new(blocks, THREADS).shared(shared(hidden));
        self.launch(&MLP, DType::BF16, grid, arguments)?;
        Ok(y)
    }
}
