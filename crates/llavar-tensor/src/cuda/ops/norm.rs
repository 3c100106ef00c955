//! What RMS norm and layer norm share: the kernels for a row width, the blocks of a backward pass, checks.

use std::sync::Arc;

use crate::{
    DType, Error, Param, Result, Tensor, Var,
    cuda::{Cuda, Grid, Kernel, Source},
    error::ensure_shape,
    tape::Grads,
};

use super::rows::expect_dtype;

pub(in crate::cuda) static SOURCE: Source = Source {
    name: "norm",
    code: include_str!("../kernels/norm.cu"),
};

/// Threads of a block.
const THREADS: usize = 256;

/// Blocks of a backward pass over many rows: two for each multiprocessor of the largest Hopper cards. Fixed,
/// so that sums over rows do not depend on the card.
const BLOCKS: usize = 2 * 132;

/// The kernels of one norm for rows of up to `width` elements, so many threads a row each.
pub(super) struct Kernels {
    width: usize,
    forward_group: usize,
    backward_group: usize,
    pub(super) forward: Kernel,
    pub(super) backward: Kernel,
}

/// All kernels of a norm, narrow rows first, the one for any row last.
macro_rules! kernels {
    ($norm:literal) => {
        [
            $crate::cuda::ops::norm::kernels!($norm, "256", 256, [32, 32]),
            $crate::cuda::ops::norm::kernels!($norm, "512", 512, [32, 32]),
            $crate::cuda::ops::norm::kernels!($norm, "768", 768, [32, 64]),
            $crate::cuda::ops::norm::kernels!($norm, "1024", 1024, [32, 64]),
            $crate::cuda::ops::norm::kernels!($norm, "1536", 1536, [64, 64]),
            $crate::cuda::ops::norm::kernels!($norm, "2048", 2048, [128, 128]),
            $crate::cuda::ops::norm::kernels!($norm, "3072", 3072, [128, 128]),
            $crate::cuda::ops::norm::kernels!($norm, "4096", 4096, [256, 256]),
            $crate::cuda::ops::norm::kernels!($norm, "6144", 6144, [256, 256]),
            $crate::cuda::ops::norm::kernels!($norm, "8192", 8192, [256, 256]),
            $crate::cuda::ops::norm::kernels!($norm, "any", usize::MAX, [256, 256]),
        ]
    };
    ($norm:literal, $name:literal, $width:expr, $groups:expr) => {
        $crate::cuda::ops::norm::Kernels::new(
            $width,
            $groups,
            [
                concat!($norm, "_forward_", $name),
                concat!($norm, "_backward_", $name),
            ],
        )
    };
}
pub(super) use kernels;

impl Kernels {
    pub(super) const fn new(
        width: usize,
        [forward_group, backward_group]: [usize; 2],
        [forward, backward]: [&'static str; 2],
    ) -> Self {
        Self {
            width,
            forward_group,
            backward_group,
            forward: SOURCE.kernel(forward),
            backward: SOURCE.kernel(backward),
        }
    }

    /// The kernels for rows of `c` elements in `tensors`: 16-byte accesses where every row starts on one.
    pub(super) fn choose<'a>(
        all: &'a [Self; 11],
        c: usize,
        tensors: &[&Tensor],
    ) -> Result<&'a Self> {
        let [vectors @ .., any] = all;
        let mut aligned = c.is_multiple_of(8);
        for tensor in tensors {
            aligned &= tensor.cuda_address()?.is_multiple_of(16);
        }
        let fits = |kernels: &&Self| aligned && c <= kernels.width;
        Ok(vectors.iter().find(fits).unwrap_or(any))
    }

    /// The grid of a forward pass: a group of threads for every row.
    pub(super) fn forward_grid(&self, rows: usize) -> Grid {
        Grid::new(rows.div_ceil(THREADS / self.forward_group), THREADS)
    }

    /// Blocks of a backward pass, each with a part of the sums over rows; none without rows.
    pub(super) fn backward_blocks(&self, rows: usize) -> usize {
        rows.div_ceil(THREADS / self.backward_group).min(BLOCKS)
    }

    pub(super) fn backward_grid(&self, rows: usize) -> Grid {
        Grid::new(self.backward_blocks(rows), THREADS)
    }
}

/// Length of a row as the kernels take it.
pub(super) fn width(op: &'static str, c: usize) -> Result<i32> {
    i32::try_from(c).map_err(|_| Error::InvalidArgument {
        op,
        reason: format!("rows of {c} elements"),
    })
}

/// `x` is f32 or bf16, and so are the others.
pub(super) fn check_types(op: &'static str, x: &Tensor, others: &[&Tensor]) -> Result<()> {
    let expected = match x.dtype() {
        DType::BF16 => DType::BF16,
        _ => DType::F32,
    };
    let mut all = std::iter::once(&x).chain(others);
    all.try_for_each(|tensor| expect_dtype(op, expected, tensor))
}

/// A gradient has the type and the size of what it belongs to.
pub(super) fn check_gradient(
    op: &'static str,
    dy: &Tensor,
    y: &[usize],
    dtype: DType,
) -> Result<()> {
    ensure_shape(
        op,
        dy.numel() == y.iter().product(),
        || format!("gradient {y:?}"),
        dy.shape(),
    )?;
    expect_dtype(op, dtype, dy)
}

/// Where the gradient of a norm's input goes. The input of a norm is a residual stream nearly always, whose
/// other gradient has arrived already: the kernel adds to it, in its place if nobody else holds it.
pub(super) struct Target {
    pub(super) dx: Option<Tensor>,
    /// What has arrived, or null.
    pub(super) arrived: u64,
    /// Keeps what has arrived alive where it is not `dx` itself.
    _held: Option<Tensor>,
}

impl Target {
    pub(super) fn new(cuda: &Arc<Cuda>, grads: &mut Grads, x: &Var, dtype: DType) -> Result<Self> {
        let (mut target, mut arrived) = (None, 0);
        let mut held = None;
        if x.requires_grad() {
            if let Some(old) = grads.arrived(x) {
                let address = old.cuda_address()?;
                if old.dtype() != dtype || !address.is_multiple_of(16) {
                    grads.add(x, old)?;
                } else {
                    arrived = address;
                    match old.is_unique() {
                        true => target = Some(old),
                        false => held = Some(old),
                    }
                }
            }
            if target.is_none() {
                target = Some(cuda.empty(x.shape(), dtype)?);
            }
        }
        Ok(Self {
            dx: target,
            arrived,
            _held: held,
        })
    }
}

/// Adds the parts of a weight's gradient to it, if it wants one.
pub(super) fn add_parts(
    grads: &mut Grads,
    param: &Param,
    part: Option<Tensor>,
    parts: usize,
) -> Result<()> {
    match part {
        Some(part) if param.requires_grad() => grads.add_parts(param, part, parts),
        _ => Ok(()),
    }
}
