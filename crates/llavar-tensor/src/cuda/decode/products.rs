//! `y = f(x) w^T (+ y)` for a few rows, f an RMS norm or nothing; `silu(f(x) gate^T) * (f(x) up^T)`.
//!
//! A kernel of our own streams the weight and does what stands around the product: with plain arithmetic for one
//! row and for up to four in f32, with tensor cores for up to 16 in bf16. From there on, and where shared memory
//! is too small for the rows, cuBLASLt does the product and small kernels the rest.

use std::sync::Arc;

use crate::{
    DType, Param, Result, Tensor,
    cpu::Layout,
    cuda::{Arg, Cuda, Epilogue, Grid, Kernel, Source, args},
};
use wide::Wide;

pub(super) mod wide;

pub(super) static SOURCE: Source = super::source!("decode_products");

const PRODUCT: [Kernel; STREAMED_ROWS] = [
    SOURCE.kernel("product_1"),
    SOURCE.kernel("product_2"),
    SOURCE.kernel("product_3"),
    SOURCE.kernel("product_4"),
];
const LOGITS: [Kernel; STREAMED_ROWS] = [
    SOURCE.kernel("logits_1"),
    SOURCE.kernel("logits_2"),
    SOURCE.kernel("logits_3"),
    SOURCE.kernel("logits_4"),
];
const GATED: [Kernel; STREAMED_ROWS] = [
    SOURCE.kernel("gated_1"),
    SOURCE.kernel("gated_2"),
    SOURCE.kernel("gated_3"),
    SOURCE.kernel("gated_4"),
];
const TILES: Kernel = SOURCE.kernel("tiled");
const TILES_LOGITS: Kernel = SOURCE.kernel("tiled_logits");
const TILES_GATED: Kernel = SOURCE.kernel("tiled_gated");
const EMBED_ROWS: Kernel = SOURCE.kernel("embed_rows");
const NORM_ROWS: Kernel = SOURCE.kernel("norm_rows");
const GATE_ROWS: Kernel = SOURCE.kernel("gate_rows");

/// Most rows of the kernels that stream the weight without keeping x.
const STREAMED_ROWS: usize = 4;

/// Rows of the weight that a block with tensor cores takes; half of them of each matrix for a gate.
const TILE_ROWS: usize = 32;

/// Threads of a streaming block, and vectors of the norm's weight that each keeps, as in the kernel.
const THREADS: usize = 256;
const GAINS: usize = 4;

/// Rows of x in shared memory are filled up to this many elements, as in the kernel.
const PADDING: usize = 4 * 32 * 8;

/// Shared memory that x may take, bytes: two blocks fit on a multiprocessor.
const SHARED: usize = 112 << 10;

/// Input of a product: rows, and the norm that they pass through.
#[derive(Clone, Copy)]
pub(super) struct Input<'a> {
    /// `[rows, k]`.
    pub(super) x: &'a Tensor,
    /// Weight of the norm and its epsilon.
    pub(super) norm: Option<(&'a Param, f32)>,
    pub(super) rows: usize,
    pub(super) k: usize,
    /// Outputs of a row, before a gate halves them.
    pub(super) n: usize,
    /// Whether the weight is gate and up.
    pub(super) is_gate: bool,
}

/// A kernel of our own for a product.
#[derive(Clone, Copy)]
enum Way {
    /// One of the kernels for a number of rows.
    Rows(usize),
    /// The kernels with tensor cores for up to 16 rows.
    Wide(Wide),
    /// Those for up to four, on cards with too little shared memory for the others.
    Tiles,
}

impl Input<'_> {
    /// Outputs of a row.
    fn outputs(&self) -> usize {
        if self.is_gate { self.n / 2 } else { self.n }
    }

    /// Shared memory of x with plain arithmetic, bytes.
    fn bytes(&self) -> usize {
        self.rows * self.k.next_multiple_of(PADDING) * self.x.dtype().size()
    }

    fn way(&self) -> Option<Way> {
        let Self { rows, k, .. } = *self;
        if rows == 0 || !k.is_multiple_of(8) {
            return None;
        }
        if let Some(wide) = Wide::of(self) {
            return Some(Way::Wide(wide));
        }
        if rows > 1 && rows <= STREAMED_ROWS && self.x.dtype() == DType::BF16 {
            return Some(Way::Tiles);
        }
        let fits = self.bytes() <= SHARED && (self.norm.is_none() || k <= 8 * THREADS * GAINS);
        (rows <= STREAMED_ROWS && fits).then_some(Way::Rows(rows - 1))
    }
}

impl Way {
    /// Blocks, threads and shared memory.
    fn grid(self, input: &Input<'_>) -> Grid {
        let blocks = |each| Grid::new(input.outputs().div_ceil(each), THREADS);
        match self {
            Self::Wide(wide) => wide.grid(),
            Self::Tiles if input.is_gate => blocks(TILE_ROWS / 2),
            Self::Tiles => blocks(TILE_ROWS),
            Self::Rows(kernel) => {
                let rows_a_warp = if kernel == 0 || input.is_gate { 1 } else { 2 };
                let bytes = input.bytes();
                blocks(THREADS / 32 * rows_a_warp).shared(bytes)
            }
        }
    }
}

/// How the kernels of a step are launched.
#[derive(Clone)]
pub(super) struct Launcher {
    pub(super) cuda: Arc<Cuda>,
    pub(super) dtype: DType,
}

impl Launcher {
    /// Launches a kernel that waits by itself for the one in front.
    pub(super) fn launch(&self, kernel: &Kernel, grid: Grid, args: &[Arg]) -> Result<()> {
        let overlaps = self.cuda.info().capability.0 >= 9;
        let grid = if overlaps { grid.overlapping() } else { grid };
        self.cuda.launch(kernel, self.dtype, grid, args)
    }

    /// `x [rows, d]` = rows of the table at `ids`. The first kernel of a step: it starts when all before it
    /// is done.
    pub(super) fn embed(
        &self,
        table: &Param,
        ids: &Tensor,
        x: &mut Tensor,
        rows: usize,
    ) -> Result<()> {
        let table = table.value();
        let (vocab, d) = (table.rows(), table.last_dim());
        self.cuda.launch(
            &EMBED_ROWS,
            self.dtype,
            Grid::new(rows, 256),
            args![&table, ids, vocab as i32, x, d as i32],
        )
    }

    /// `y [rows, k]` = norm of `x`.
    pub(super) fn norm(
        &self,
        x: &Tensor,
        gain: &Param,
        eps: f32,
        y: &mut Tensor,
        rows: usize,
    ) -> Result<()> {
        let gain = gain.value();
        let k = gain.numel();
        let grid = Grid::new(rows, 256);
        self.launch(&NORM_ROWS, grid, args![x, &gain, eps, y, k as i32])
    }

    /// `y [rows, n] (+)= f(x) w^T`, where a kernel of our own takes it; `weights` lie one behind the other as rows.
    /// Whether one does.
    pub(super) fn streamed(
        &self,
        input: Input<'_>,
        weights: &[Param],
        y: &mut Tensor,
        add: bool,
    ) -> Result<bool> {
        let Some(way) = input.way() else {
            return Ok(false);
        };
        let is_logits = y.dtype() != self.dtype;
        let kernel = match way {
            Way::Wide(wide) => wide.kernel(&input, is_logits),
            Way::Tiles if is_logits => &TILES_LOGITS,
            Way::Tiles => &TILES,
            Way::Rows(i) if is_logits => &LOGITS[i],
            Way::Rows(i) => &PRODUCT[i],
        };
        self.stream(kernel, way.grid(&input), input, weights, None, y, add)?;
        Ok(true)
    }

    /// `y [rows, f] = silu(f(x) gate^T) * (f(x) up^T)`, where a kernel of our own takes it. Whether one does.
    pub(super) fn streamed_gate(
        &self,
        input: Input<'_>,
        gate_up: &[Param],
        y: &mut Tensor,
    ) -> Result<bool> {
        let Some(way) = input.way() else {
            return Ok(false);
        };
        let kernel = match way {
            Way::Wide(wide) => wide.kernel(&input, false),
            Way::Tiles => &TILES_GATED,
            Way::Rows(i) => &GATED[i],
        };
        // One matrix that holds gate and up: the second half is the other one.
        let up = match gate_up {
            [both] => {
                let bytes = input.outputs() * input.k * self.dtype.size();
                Some(both.value().cuda_address()? + bytes as u64)
            }
            _ => None,
        };
        self.stream(kernel, way.grid(&input), input, gate_up, up, y, false)?;
        Ok(true)
    }

    /// Launches a streaming kernel.
    fn stream(
        &self,
        kernel: &Kernel,
        grid: Grid,
        input: Input<'_>,
        weights: &[Param],
        second: Option<u64>,
        y: &mut Tensor,
        add: bool,
    ) -> Result<()> {
        let Input {
            x, norm, rows, k, ..
        } = input;
        let values: Vec<Tensor> = weights.iter().map(Param::value).collect();
        let mut addresses = [0; 3];
        for (address, value) in addresses.iter_mut().zip(&values) {
            *address = value.cuda_address()?;
        }
        if let Some(second) = second {
            addresses[1] = second;
        }
        let mut end = 0;
        let mut ends = values.iter().map(|value| {
            end += value.shape().first().copied().unwrap_or(1);
            end as i32
        });
        let (end0, end1) = (ends.next().unwrap_or(0), ends.next().unwrap_or(i32::MAX));
        let gain = norm.map(|(gain, _)| gain.value());
        let [w0, w1, w2] = addresses.map(Arg::Address);
        let eps = norm.map_or(0.0, |(_, eps)| eps);
        let n = input.outputs() as i32;
        let (rows, k, add) = (rows as i32, k as i32, i32::from(add));
        self.launch(
            kernel,
            grid,
            &[
                Arg::from(x),
                Arg::from(gain.as_ref()),
                eps.into(),
                w0,
                w1,
                w2,
                end0.into(),
                end1.into(),
                rows.into(),
                n.into(),
                k.into(),
                y.into(),
                add.into(),
            ],
        )
    }

    /// `y [rows, n] (+)= x w^T` by cuBLASLt.
    pub(super) fn product(
        &self,
        x: &Tensor,
        weight: &Param,
        [rows, k]: [usize; 2],
        y: &mut Tensor,
        add: bool,
    ) -> Result<()> {
        let weight = weight.value();
        let sizes = [rows, weight.numel() / k.max(1), k];
        let beta = if add { 1.0 } else { 0.0 };
        let plain = Epilogue::default();
        self.cuda
            .gemm_epilogue(Layout::NT, sizes, x, &weight, y, beta, plain)
    }

    /// `y [rows, f] = silu(gate) * up`, with both in one tensor `[rows, 2 f]`, or in one each.
    pub(super) fn gate(
        &self,
        gate_up: &[Tensor],
        [rows, f]: [usize; 2],
        y: &mut Tensor,
    ) -> Result<()> {
        let bytes = (f * self.dtype.size()) as u64;
        let (gate, up, stride) = match gate_up {
            [both] => (both.cuda_address()?, both.cuda_address()? + bytes, 2 * f),
            [gate, up, ..] => (gate.cuda_address()?, up.cuda_address()?, f),
            [] => return Ok(()),
        };
        let (gate, up) = (Arg::Address(gate), Arg::Address(up));
        let sizes = [stride, rows, f].map(|n| Arg::I64(n as i64));
        let [stride, rows_, f_] = sizes;
        let args = [gate, up, stride, y.into(), rows_, f_];
        self.launch(&GATE_ROWS, Grid::items(rows * f / 8), &args)
    }
}
