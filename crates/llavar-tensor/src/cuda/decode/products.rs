//! `y = f(x) w^T (+ y)` for a few rows, f an RMS norm or nothing; `silu(f(x) gate^T) * (f(x) up^T)`.
//!
//! Up to [`STREAMED_ROWS`] rows a kernel of our own streams the weight; from there on cuBLASLt does the
//! product and small kernels what stands around it.

use std::sync::Arc;

use crate::{
    DType, Param, Result, Tensor,
    cpu::Layout,
    cuda::{Arg, Cuda, Epilogue, Grid, Kernel, Source, args},
};

pub(super) static SOURCE: Source = super::source!("decode_products");

const fn kernel(name: &'static str) -> Kernel {
    Kernel {
        source: &SOURCE,
        name,
    }
}
const PRODUCT: [Kernel; STREAMED_ROWS] = [
    kernel("product_1"),
    kernel("product_2"),
    kernel("product_3"),
    kernel("product_4"),
];
const LOGITS: [Kernel; STREAMED_ROWS] = [
    kernel("logits_1"),
    kernel("logits_2"),
    kernel("logits_3"),
    kernel("logits_4"),
];
const GATED: [Kernel; STREAMED_ROWS] = [
    kernel("gated_1"),
    kernel("gated_2"),
    kernel("gated_3"),
    kernel("gated_4"),
];
const EMBED_ROWS: Kernel = kernel("embed_rows");
const NORM_ROWS: Kernel = kernel("norm_rows");
const GATE_ROWS: Kernel = kernel("gate_rows");

/// Most rows that are streamed.
pub(super) const STREAMED_ROWS: usize = 4;

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
}

impl Input<'_> {
    /// Whether our own kernel takes it.
    pub(super) fn is_streamed(&self) -> bool {
        let bytes = self.rows * self.k.next_multiple_of(PADDING) * self.x.dtype().size();
        self.rows <= STREAMED_ROWS
            && self.k.is_multiple_of(8)
            && bytes <= SHARED
            && (self.norm.is_none() || self.k <= 8 * THREADS * GAINS)
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

    /// `y [rows, n] (+)= f(x) w^T` by the streaming kernel; `weights` lie one behind the other as rows.
    pub(super) fn streamed(
        &self,
        input: Input<'_>,
        weights: &[Param],
        y: &mut Tensor,
        add: bool,
    ) -> Result<()> {
        let n = weights
            .iter()
            .map(|w| w.shape().first().copied().unwrap_or(1))
            .sum();
        let kernels = if y.dtype() == self.dtype {
            &PRODUCT
        } else {
            &LOGITS
        };
        let rows_a_warp = if input.rows == 1 { 1 } else { 2 };
        self.stream(
            &kernels[input.rows - 1],
            input,
            weights,
            n,
            rows_a_warp,
            y,
            add,
        )
    }

    /// `y [rows, f] = silu(f(x) gate^T) * (f(x) up^T)` by the streaming kernel.
    pub(super) fn streamed_gate(
        &self,
        input: Input<'_>,
        gate_up: &[Param],
        f: usize,
        y: &mut Tensor,
    ) -> Result<()> {
        self.stream(&GATED[input.rows - 1], input, gate_up, f, 1, y, false)
    }

    #[allow(clippy::too_many_arguments, reason = "the kernel's own")]
    fn stream(
        &self,
        kernel: &Kernel,
        input: Input<'_>,
        weights: &[Param],
        n: usize,
        rows_a_warp: usize,
        y: &mut Tensor,
        add: bool,
    ) -> Result<()> {
        let Input { x, norm, rows, k } = input;
        let values: Vec<Tensor> = weights.iter().map(Param::value).collect();
        let mut addresses = [0; 3];
        for (address, value) in addresses.iter_mut().zip(&values) {
            *address = value.cuda_address()?;
        }
        // One matrix that holds gate and up: the second half is the other one.
        if values.len() == 1 && kernel.name.starts_with("gated") {
            addresses[1] = addresses[0] + (n * k * self.dtype.size()) as u64;
        }
        let mut end = 0;
        let mut ends = values.iter().map(|value| {
            end += value.shape().first().copied().unwrap_or(1);
            end as i32
        });
        let (end0, end1) = (ends.next().unwrap_or(0), ends.next().unwrap_or(i32::MAX));
        let gain = norm.map(|(gain, _)| gain.value());
        let [w0, w1, w2] = addresses.map(Arg::Address);
        let grid = Grid::new(n.div_ceil(THREADS / 32 * rows_a_warp), THREADS)
            .shared(rows * k.next_multiple_of(PADDING) * self.dtype.size());
        let eps = norm.map_or(0.0, |(_, eps)| eps);
        let (n, k, add) = (n as i32, k as i32, i32::from(add));
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
