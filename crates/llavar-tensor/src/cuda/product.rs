//! Products of our own for Hopper with the activation behind them inside, or three of one input in one
//! launch: `c = f(a b^T + bias)`.
//!
//! cuBLASLt has neither the exact GELU nor CLIP's as an epilogue, and an epilogue of its keeps the tensor
//! cores waiting. The kernel (`kernels/product.cu`) lets two groups of warps take turns: one multiplies,
//! the other finishes its tile. Three products that do not fill the card one by one do together.

use std::sync::Arc;

use cudarc::driver::sys::{CUtensorMap, CUtensorMapSwizzle_enum as Swizzle};

use super::{Cuda, Grid, Kernel, Source, args, tensor_map::TensorMap};
use crate::{DType, Result, Tensor, ops::Activation};

pub(super) static SOURCE: Source = Source {
    name: "product",
    code: concat!(
        include_str!("kernels/activation.cuh"),
        include_str!("kernels/hopper.cuh"),
        include_str!("kernels/product.cu")
    ),
};
const GELU: Kernel = SOURCE.kernel("product_gelu");
const GELU_KEPT: Kernel = SOURCE.kernel("product_gelu_kept");
const QUICK_GELU: Kernel = SOURCE.kernel("product_quick_gelu");
const QUICK_GELU_KEPT: Kernel = SOURCE.kernel("product_quick_gelu_kept");
const THREE: Kernel = SOURCE.kernel("product_three");

/// Rows and columns of a tile, steps of the ring, buffers of a group: as in the source file.
pub(crate) const TILE: usize = 128;
const STEPS: usize = 5;
const BUFFERS: usize = 2;
/// Threads of a block: one group of warps that copies, two that multiply.
pub(super) const THREADS: usize = 384;
/// Elements of k in a line of shared memory, and its bytes.
const LINE: usize = 64;
pub(super) const LINE_BYTES: usize = 128;
/// Tiles, barriers, and what it takes to begin at a multiple of 1,024.
const SHARED: usize = (STEPS * 2 * TILE + 2 * BUFFERS * TILE) * LINE_BYTES + 16 * STEPS + 16 + 1024;

/// Rows from which on the tiles keep the card busy.
pub(super) const MIN_ROWS: usize = 512;

/// `a [m, k]` times weights `[n, k]`, turned, plus their biases `[n]`.
pub(crate) struct Product<'a> {
    pub(crate) a: &'a Tensor,
    pub(crate) layers: &'a [(&'a Tensor, Option<&'a Tensor>)],
    /// m, n, k.
    pub(crate) sizes: [usize; 3],
}

impl Cuda {
    /// Whether there is a kernel for it on this card.
    pub(crate) fn takes_product(&self, product: &Product<'_>) -> Result<bool> {
        let ([m, n, k], info) = (product.sizes, self.info());
        let mut fits = info.is_hopper()
            && m >= MIN_ROWS
            && n > 0
            && k > 0
            && n.is_multiple_of(8)
            && k.is_multiple_of(8)
            && m.max(n).max(k) < 1 << 28;
        let layers = product.layers.iter();
        let operands = layers.flat_map(|(w, b)| std::iter::once(*w).chain(*b));
        for tensor in std::iter::once(product.a).chain(operands) {
            fits &= tensor.dtype() == DType::BF16 && tensor.cuda_address()?.is_multiple_of(16);
        }
        Ok(fits)
    }

    /// Queues `c = f(a b^T + bias)` of the first layer and, where `before` is given, the value before `f`
    /// into it, for a product that [`Cuda::takes_product`] takes; `c` and `before` are fresh tensors of bf16.
    pub(crate) fn product_activation(
        self: &Arc<Self>,
        product: &Product<'_>,
        kind: Activation,
        c: &mut Tensor,
        before: Option<&mut Tensor>,
    ) -> Result<()> {
        let [m, n, k] = product.sizes;
        let kernel = match (kind, before.is_some()) {
            (Activation::Gelu, false) => &GELU,
            (Activation::Gelu, true) => &GELU_KEPT,
            (Activation::QuickGelu, false) => &QUICK_GELU,
            (Activation::QuickGelu, true) => &QUICK_GELU_KEPT,
        };
        let map_c = tensor_map(c, [m, n])?;
        let map_before = match before {
            Some(before) => tensor_map(before, [m, n])?,
            None => map_c,
        };
        let Some((b, bias)) = product.layers.first() else {
            return Ok(());
        };
        let arguments = args![
            tensor_map(product.a, [m, k])?,
            tensor_map(b, [n, k])?,
            map_c,
            map_before,
            *bias,
            m as i32,
            n as i32,
            k as i32
        ];
        self.launch(
            kernel,
            DType::BF16,
            self.product_grid(m, n, SHARED),
            arguments,
        )
    }

    /// Queues `c = a b^T + bias` of three layers, for a product that [`Cuda::takes_product`] takes; the
    /// outputs are fresh tensors of bf16.
    pub(crate) fn product_three(
        self: &Arc<Self>,
        product: &Product<'_>,
        outputs: [&mut Tensor; 3],
    ) -> Result<()> {
        let [m, n, k] = product.sizes;
        let mut arguments = args![tensor_map(product.a, [m, k])?].to_vec();
        for (b, _) in product.layers {
            arguments.push(tensor_map(b, [n, k])?.into());
        }
        for c in outputs {
            arguments.push(tensor_map(c, [m, n])?.into());
        }
        arguments.extend(product.layers.iter().map(|(_, bias)| (*bias).into()));
        arguments.extend([m, n, k].map(|size| (size as i32).into()));
        let grid = self.product_grid(m, 3 * n.next_multiple_of(TILE), SHARED);
        self.launch(&THREE, DType::BF16, grid, &arguments)
    }

    /// Blocks stay: one a multiprocessor, each with so many bytes of shared memory.
    pub(super) fn product_grid(&self, m: usize, n: usize, shared: usize) -> Grid {
        let tiles = m.div_ceil(TILE) * n.div_ceil(TILE);
        Grid::new(self.info().multiprocessors.min(tiles), THREADS).shared(shared)
    }
}

/// A matrix of bf16 on the device, its rows `stride` elements apart.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Matrix {
    address: u64,
    height: usize,
    width: usize,
    stride: usize,
}

impl Matrix {
    /// All of a tensor as rows of `width`.
    pub(super) fn of(tensor: &Tensor, [height, width]: [usize; 2]) -> Result<Self> {
        Ok(Self {
            address: tensor.cuda_address()?,
            height,
            width,
            stride: width,
        })
    }

    /// The upper and the lower half of its rows.
    pub(super) fn upper_and_lower(self) -> [Self; 2] {
        let height = self.height / 2;
        let lower = self.address + (2 * height * self.stride) as u64;
        [self.address, lower].map(|address| Self {
            address,
            height,
            ..self
        })
    }

    /// The left and the right half of its columns.
    pub(super) fn left_and_right(self) -> [Self; 2] {
        let width = self.width / 2;
        let right = self.address + 2 * width as u64;
        [self.address, right].map(|address| Self {
            address,
            width,
            ..self
        })
    }

    /// How the card's copy unit sees it: boxes of so many rows by a line, in the 128 B swizzle; what lies
    /// beyond the matrix is read as 0 and not written.
    pub(super) fn boxes(self, rows: usize) -> Result<CUtensorMap> {
        TensorMap {
            address: self.address,
            sizes: [self.width as u64, self.height as u64],
            strides: [2 * self.stride as u64],
            shape: [LINE as u32, rows as u32],
            swizzle: Swizzle::CU_TENSOR_MAP_SWIZZLE_128B,
        }
        .encode()
    }
}

fn tensor_map(tensor: &Tensor, sizes: [usize; 2]) -> Result<CUtensorMap> {
    Matrix::of(tensor, sizes)?.boxes(TILE)
}
