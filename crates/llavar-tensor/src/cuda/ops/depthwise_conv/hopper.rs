//! 7 x 7 in bf16 on Hopper: tensor cores, and tiles by the copy unit.

use std::sync::Arc;

use cudarc::driver::sys::{CUtensorMap, CUtensorMapSwizzle_enum as Swizzle};

use super::{Conv, parts};
use crate::{
    DType, Result, Tensor,
    cuda::{Cuda, Grid, Kernel, Source, args, tensor_map::TensorMap},
};

pub(in crate::cuda) static SOURCE: Source = Source {
    name: "depthwise_conv_hopper",
    code: concat!(
        include_str!("../../kernels/mma.cuh"),
        include_str!("../../kernels/hopper.cuh"),
        include_str!("../../kernels/depthwise_conv_hopper.cu"),
        include_str!("../../kernels/depthwise_conv_hopper_grad.cu")
    ),
};
const CONV7: Kernel = SOURCE.kernel("conv7_hopper");
const CONV7_WEIGHT_GRAD: Kernel = SOURCE.kernel("conv7_weight_grad_hopper");

/// Rows and columns of a tile and of its halo, channels and warps of a block, words of a channel's plane, what the
/// tile in shared memory is aligned to: as in the source file.
const SIDE: usize = 16;
const SPAN: usize = SIDE + 6;
const CHANNELS: usize = 32;
const WARPS: usize = CHANNELS / 4;
const PLANE: usize = 268;
const ALIGNMENT: usize = 512;
/// The tile as it arrives, its planes, its outputs, a barrier.
const SHARED: usize =
    SPAN * SPAN * CHANNELS * 2 + CHANNELS * PLANE * 4 + SIDE * SIDE * CHANNELS * 2 + 16 + ALIGNMENT;
/// Blocks of a multiprocessor.
const AT_ONCE: usize = 2;

/// The same of a gradient of filters: rows and columns of a tile, pixels of a row of x and of dy with their halos, tiles
/// that have arrived or are on their way, and their bytes with barriers.
const GRAD_SIDE: [usize; 2] = [16, 24];
const GRAD_LINES: [usize; 2] = [GRAD_SIDE[1] + 1, GRAD_SIDE[1] + 7];
const GRAD_STAGES: usize = 3;
const GRAD_SHARED: usize = GRAD_STAGES
    * (tile_bytes((GRAD_SIDE[0] + 6) * GRAD_LINES[0]) + tile_bytes(GRAD_SIDE[0] * GRAD_LINES[1]))
    + ALIGNMENT
    + ALIGNMENT;

/// Bytes of so many pixels in shared memory.
const fn tile_bytes(pixels: usize) -> usize {
    (pixels * CHANNELS * 2).next_multiple_of(ALIGNMENT)
}

/// Whether it is for this card and type.
pub(super) fn is_for(cuda: &Cuda, dtype: DType) -> bool {
    dtype == DType::BF16 && cuda.info().is_hopper()
}

/// Whether it is for this card, type and place of the filters; what else it asks for is asked for by the other
/// kernels too.
pub(super) fn takes(cuda: &Arc<Cuda>, filters: &Tensor) -> Result<bool> {
    Ok(is_for(cuda, filters.dtype()) && filters.cuda_address()?.is_multiple_of(16))
}

/// Whether what [`correlate`] adds can be this.
pub(super) fn adds(added: &Tensor) -> bool {
    added.dtype() == DType::BF16 && added.cuda_address().is_ok_and(|a| a.is_multiple_of(16))
}

/// As [`Conv::correlate`], into a fresh tensor.
pub(super) fn correlate(
    cuda: &Arc<Cuda>,
    conv: Conv,
    x: &Tensor,
    filters: &Tensor,
    [bias, added]: [Option<&Tensor>; 2],
    out: &mut Tensor,
    turned: i32,
) -> Result<()> {
    let sizes = [conv.c, conv.w, conv.h, conv.batch];
    if sizes.contains(&0) {
        return Ok(());
    }
    let map = map(conv, x, [SPAN, SPAN])?;
    let tiles = conv.batch * conv.h.div_ceil(SIDE) * conv.w.div_ceil(SIDE);
    let groups = conv.c.div_ceil(CHANNELS);
    let parts = parts(tiles, AT_ONCE * cuda.info().multiprocessors / groups);
    cuda.launch(
        &CONV7,
        DType::BF16,
        Grid::cube([parts, groups, 1], 32 * WARPS).shared(SHARED),
        args![
            map,
            filters,
            bias,
            added,
            out,
            conv.batch as i32,
            conv.h as i32,
            conv.w as i32,
            conv.c as i32,
            turned
        ],
    )
}

/// As [`Conv::weight_gradient`], of tensors with elements.
pub(super) fn weight_gradient(
    cuda: &Arc<Cuda>,
    conv: Conv,
    x: &Tensor,
    dy: &Tensor,
) -> Result<(Tensor, usize)> {
    let [rows, columns] = GRAD_SIDE;
    let tiles = conv.batch * conv.h.div_ceil(rows) * conv.w.div_ceil(columns);
    let groups = conv.c.div_ceil(CHANNELS);
    let parts = parts(tiles, cuda.info().multiprocessors / groups);
    let mut part = cuda.empty(&[parts, 7 * 7 + 1, conv.c], DType::F32)?;
    cuda.launch(
        &CONV7_WEIGHT_GRAD,
        DType::BF16,
        Grid::cube([parts, groups, 1], 32 * WARPS).shared(GRAD_SHARED),
        args![
            map(conv, x, [GRAD_LINES[0], rows + 6])?,
            map(conv, dy, [GRAD_LINES[1], rows])?,
            &mut part,
            conv.batch as i32,
            conv.h as i32,
            conv.w as i32,
            conv.c as i32
        ],
    )?;
    Ok((part, parts))
}

/// How the copy unit sees an image: boxes of so many columns and rows of [`CHANNELS`] channels.
fn map(conv: Conv, image: &Tensor, [columns, rows]: [usize; 2]) -> Result<CUtensorMap> {
    TensorMap {
        address: image.cuda_address()?,
        sizes: [conv.c, conv.w, conv.h, conv.batch].map(|size| size as u64),
        strides: [conv.c, conv.w * conv.c, conv.h * conv.w * conv.c].map(|step| 2 * step as u64),
        shape: [CHANNELS as u32, columns as u32, rows as u32, 1],
        swizzle: Swizzle::CU_TENSOR_MAP_SWIZZLE_64B,
    }
    .encode()
}
