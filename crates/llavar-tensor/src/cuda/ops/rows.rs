//! How kernels over rows of channels are laid out: which threads see which channels.

use crate::{
    DType, Error, Result, Tensor,
    cuda::{Grid, Kernel, Source},
};

/// Threads of a block, at most.
const THREADS: usize = 256;

/// A kernel in its two versions: runs of one element, and of eight (16-byte accesses in bf16).
pub(super) struct ByRun {
    pub(super) one: Kernel,
    pub(super) eight: Kernel,
}

impl ByRun {
    pub(super) const fn new(
        source: &'static Source,
        one: &'static str,
        eight: &'static str,
    ) -> Self {
        Self {
            one: source.kernel(one),
            eight: source.kernel(eight),
        }
    }

    /// The version for runs of `width`.
    pub(super) fn of(&self, width: usize) -> &Kernel {
        if width == 8 { &self.eight } else { &self.one }
    }
}

/// Eight where `len` and the addresses of all tensors allow accesses of eight elements, else one.
pub(super) fn run_width(len: usize, tensors: &[&Tensor]) -> Result<usize> {
    let mut wide = len.is_multiple_of(8);
    for tensor in tensors {
        wide &= tensor.cuda_address()?.is_multiple_of(16);
    }
    Ok(if wide { 8 } else { 1 })
}

/// Rows of `c` channels over blocks of `lanes` runs side by side times `groups` rows. A thread keeps its
/// channels and walks down the rows, so what belongs to a channel is read once and sums stay in registers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rows {
    /// Elements of a run.
    pub(super) width: usize,
    /// Runs of one row in a block.
    pub(super) lanes: usize,
    /// Rows of a block.
    groups: usize,
    /// Blocks side by side.
    columns: usize,
}

impl Rows {
    /// For rows of `c` channels of tensors that a kernel reads or writes in runs.
    pub(super) fn new(c: usize, tensors: &[&Tensor]) -> Result<Self> {
        let width = run_width(c, tensors)?;
        let runs = c / width;
        let columns = runs.div_ceil(THREADS);
        let lanes = runs.div_ceil(columns.max(1)).max(1);
        Ok(Self {
            width,
            lanes,
            groups: THREADS / lanes,
            columns,
        })
    }

    /// Blocks along the rows when there shall be about `wanted` blocks; it depends on sizes alone.
    pub(super) fn parts(&self, rows: usize, wanted: usize) -> usize {
        let most = (wanted / self.columns.max(1)).clamp(1, 65_535);
        rows.div_ceil(self.groups).clamp(1, most)
    }

    /// The launch, with as many blocks along the rows as [`Rows::parts`] says and `batch` such layers.
    pub(super) fn grid(&self, parts: usize, batch: usize) -> Grid {
        Grid::cube([self.columns, parts, batch], self.lanes * self.groups)
    }
}

/// Refuses a tensor of another element type than the activations.
pub(super) fn expect_dtype(op: &'static str, expected: DType, tensor: &Tensor) -> Result<()> {
    let got = tensor.dtype();
    if got == expected {
        return Ok(());
    }
    Err(Error::DTypeMismatch { op, expected, got })
}
