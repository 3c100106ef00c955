//! 7 x 7 in bf16 on Hopper: tensor cores, and tiles by the copy unit.

use std::sync::Arc;

use cudarc::driver::sys::CUtensorMapSwizzle_enum as Swizzle;

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
        include_str!("../../kernels/depthwise_conv_hopper.cu")
    ),
};
const CONV7: Kernel = SOURCE.kernel("conv7_hopper");

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

/// Whether it is for this card, type and place of the filters; what else it asks for is asked for by the other
/// kernels too.
pub(super) fn takes(cuda: &Arc<Cuda>, filters: &Tensor) -> Result<bool> {
    Ok(filters.dtype() == DType::BF16
        && cuda.info().is_hopper()
        && filters.cuda_address()?.is_multiple_of(16))
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
    let map = TensorMap {
        address: x.cuda_address()?,
        sizes: sizes.map(|size| size as u64),
        strides: [conv.c, conv.w * conv.c, conv.h * conv.w * conv.c].map(|step| 2 * step as u64),
        shape: [CHANNELS as u32, SPAN as u32, SPAN as u32, 1],
        swizzle: Swizzle::CU_TENSOR_MAP_SWIZZLE_64B,
    };
    let tiles = conv.batch * conv.h.div_ceil(SIDE) * conv.w.div_ceil(SIDE);
    let groups = conv.c.div_ceil(CHANNELS);
    let parts = parts(tiles, AT_ONCE * cuda.info().multiprocessors / groups);
    cuda.launch(
        &CONV7,
        DType::BF16,
        Grid::cube([parts, groups, 1], 32 * WARPS).shared(SHARED),
        args![
            map.encode()?,
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
