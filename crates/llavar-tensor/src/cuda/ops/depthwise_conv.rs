//! Depthwise convolution: tiles in shared memory for 7 x 7 (in bf16 on Hopper by the tensor cores), one thread an
//! output for other filters.

pub(in crate::cuda) mod hopper;

use std::sync::Arc;

use super::rows::expect_dtype;
use crate::{
    DType, Error, Param, Result, Tape, Tensor, Var,
    cuda::{Cuda, Grid, Kernel, SHARED_OF_THE_SYSTEM, Source, args},
};

pub(in crate::cuda) static SOURCE: Source = Source {
    name: "depthwise_conv",
    code: include_str!("../kernels/depthwise_conv.cu"),
};
const CONV7: Kernel = SOURCE.kernel("conv7");
const CONV7_WEIGHT_GRAD: Kernel = SOURCE.kernel("conv7_weight_grad");
const PACK_FILTER: Kernel = SOURCE.kernel("pack_filter");
const CONV_ANY: Kernel = SOURCE.kernel("conv_any");
const ANY_WEIGHT_GRAD: Kernel = SOURCE.kernel("any_weight_grad");
const FINISH_F32: Kernel = SOURCE.kernel("finish_f32");
const FINISH_BF16: Kernel = SOURCE.kernel("finish_bf16");

/// Channels of a block, pixels of a tile's row, and the same with halo: as in the source file.
const CHANNELS: usize = 64;
const WIDTH: usize = 16;
const SPAN: usize = WIDTH + 6;

/// Warps of a block of a convolution in bf16, and as many rows of its tile; f32 has half of both, so that a tile fits
/// everywhere.
const CONV_WARPS: usize = 16;

/// The same of a weight gradient.
const GRAD_WARPS: usize = 12;

/// Sizes of one convolution.
#[derive(Clone, Copy)]
struct Conv {
    batch: usize,
    h: usize,
    w: usize,
    c: usize,
    k: usize,
    dtype: DType,
}

/// As [`Tape::depthwise_conv`], with checked shapes.
pub(crate) fn depthwise_conv(
    tape: &Tape,
    cuda: &Arc<Cuda>,
    x: &Var,
    weight: &Param,
    bias: Option<&Param>,
    k: usize,
) -> Result<Var> {
    let &[batch, h, w, c] = x.shape() else {
        return Ok(x.clone());
    };
    let conv = Conv {
        batch,
        h,
        w,
        c,
        k,
        dtype: x.value().dtype(),
    };
    let filters = weight.value();
    let b = bias.map(Param::value);
    expect_dtype("depthwise_conv weight", conv.dtype, &filters)?;
    if let Some(b) = &b {
        expect_dtype("depthwise_conv bias", conv.dtype, b)?;
    }
    let out = conv.correlate(cuda, x.value(), &filters, false, b.as_ref(), None)?;
    let params: Vec<&Param> = std::iter::once(weight).chain(bias).collect();
    if !tape.needs_grad(&[x], &params) {
        return Ok(Var::constant(out));
    }
    let (cuda, x, weight, bias) = (cuda.clone(), x.clone(), weight.clone(), bias.cloned());
    Ok(tape.record(out, move |dy, grads| {
        let bias = bias.filter(Param::requires_grad);
        if weight.requires_grad() || bias.is_some() {
            let (part, parts) = conv.weight_gradient(&cuda, x.value(), &dy)?;
            let taps = k * k;
            if weight.requires_grad() {
                weight.accumulate_tensor(|out, beta| {
                    conv.finish(&cuda, &part, parts, 0, taps, out, beta)
                })?;
            }
            if let Some(bias) = bias {
                bias.accumulate_tensor(|out, beta| {
                    conv.finish(&cuda, &part, parts, taps, 1, out, beta)
                })?;
            }
        }
        if x.requires_grad() {
            let adds = conv.is_fast(&[&dy])? && hopper::takes(&cuda, &filters)?;
            let arrived = grads.arrived_if(&x, |arrived| adds && hopper::adds(arrived));
            let dx = conv.correlate(&cuda, &dy, &filters, true, None, arrived.as_ref())?;
            grads.add(&x, dx)?;
        }
        Ok(())
    }))
}

/// A launch whose blocks walk through tiles.
struct Walk {
    grid: Grid,
    /// Blocks that share the tiles of 64 channels.
    parts: usize,
    /// Tiles in shared memory.
    buffers: i32,
}

impl Conv {
    /// Whether the kernels for 7 x 7 take tensors at these addresses.
    fn is_fast(self, tensors: &[&Tensor]) -> Result<bool> {
        let mut fast = self.k == 7
            && self.c.is_multiple_of(8)
            && self.h * self.w * self.c <= i32::MAX as usize;
        for tensor in tensors {
            fast &= tensor.cuda_address()?.is_multiple_of(16);
        }
        Ok(fast)
    }

    /// Bytes of a row of a tile, `pixels` wide.
    fn row_bytes(self, pixels: usize) -> usize {
        pixels * CHANNELS * self.dtype.size()
    }

    /// Warps of a block, and rows of its tile, of a kernel that has so many in bf16.
    fn warps(self, in_bf16: usize) -> usize {
        match self.dtype {
            DType::BF16 => in_bf16,
            _ => in_bf16 / 2,
        }
    }

    /// How tiles of `rows` rows are shared out to blocks, for a kernel that needs `tile` bytes a tile and `once`
    /// beside them.
    fn walk(self, cuda: &Arc<Cuda>, rows: usize, tile: usize, once: usize) -> Walk {
        let info = cuda.info();
        let two = 2 * tile + once + SHARED_OF_THE_SYSTEM;
        let buffers = 1 + usize::from(two <= info.shared_memory);
        let shared = buffers * tile + once;
        let tiles = self.batch * self.h.div_ceil(rows) * self.w.div_ceil(WIDTH);
        let groups = self.c.div_ceil(CHANNELS);
        let parts = parts(tiles, info.multiprocessors / groups);
        Walk {
            grid: Grid::cube([parts, groups, 1], 32 * rows).shared(shared),
            parts,
            buffers: buffers as i32,
        }
    }

    /// Correlation with the filters, `turned` by 180 degrees for the gradient of the input. `added`, of the output's
    /// shape, is for [`hopper`] alone.
    fn correlate(
        self,
        cuda: &Arc<Cuda>,
        x: &Tensor,
        filters: &Tensor,
        turned: bool,
        bias: Option<&Tensor>,
        added: Option<&Tensor>,
    ) -> Result<Tensor> {
        let Self {
            batch,
            h,
            w,
            c,
            k,
            dtype,
        } = self;
        let taps = k * k;
        let turned = i32::from(turned);
        let mut out = cuda.empty(&[batch, h, w, c], dtype)?;
        let sizes = [h as i32, w as i32, c as i32];
        if !self.is_fast(&[x])? {
            let n = out.numel();
            let mut packed = cuda.empty(&[taps, c], DType::F32)?;
            cuda.launch(
                &PACK_FILTER,
                dtype,
                Grid::items(taps * c),
                args![filters, &mut packed, taps as i32, c as i32, turned],
            )?;
            cuda.launch(
                &CONV_ANY,
                dtype,
                Grid::items(n),
                args![
                    x, &packed, bias, &mut out, n as i64, sizes[0], sizes[1], sizes[2], k as i32
                ],
            )?;
            return Ok(out);
        }
        if hopper::takes(cuda, filters)? {
            hopper::correlate(cuda, self, x, filters, [bias, added], &mut out, turned)?;
            return Ok(out);
        }
        let warps = self.warps(CONV_WARPS);
        let walk = self.walk(
            cuda,
            warps,
            (warps + 6) * self.row_bytes(SPAN),
            taps * CHANNELS * 4,
        );
        cuda.launch(
            &CONV7,
            dtype,
            walk.grid,
            args![
                x,
                filters,
                bias,
                &mut out,
                batch as i32,
                sizes[0],
                sizes[1],
                sizes[2],
                turned,
                walk.buffers
            ],
        )?;
        Ok(out)
    }

    /// Parts of the gradients of filters and bias, `[parts, k k + 1, C]`, and their number.
    fn weight_gradient(self, cuda: &Arc<Cuda>, x: &Tensor, dy: &Tensor) -> Result<(Tensor, usize)> {
        let Self {
            batch,
            h,
            w,
            c,
            k,
            dtype,
        } = self;
        let rows = k * k + 1;
        let sizes = [h as i32, w as i32, c as i32];
        if !self.is_fast(&[x, dy])? {
            let pixels = batch * h * w;
            let parts = pixels.div_ceil(1024).clamp(1, 64);
            let mut part = cuda.empty(&[parts, rows, c], DType::F32)?;
            cuda.launch(
                &ANY_WEIGHT_GRAD,
                dtype,
                Grid::cube([c.div_ceil(32), rows, parts], 256),
                args![
                    x,
                    dy,
                    &mut part,
                    pixels as i64,
                    sizes[0],
                    sizes[1],
                    sizes[2],
                    k as i32
                ],
            )?;
            return Ok((part, parts));
        }
        if hopper::is_for(cuda, dtype) && batch * h * w * c > 0 {
            return hopper::weight_gradient(cuda, self, x, dy);
        }
        let warps = self.warps(GRAD_WARPS);
        let bytes = (warps + 6) * self.row_bytes(SPAN) + warps * self.row_bytes(WIDTH);
        let walk = self.walk(cuda, warps, bytes, 0);
        let mut part = cuda.empty(&[walk.parts, rows, c], DType::F32)?;
        cuda.launch(
            &CONV7_WEIGHT_GRAD,
            dtype,
            walk.grid,
            args![
                x,
                dy,
                &mut part,
                batch as i32,
                sizes[0],
                sizes[1],
                sizes[2],
                walk.buffers
            ],
        )?;
        Ok((part, walk.parts))
    }

    /// `out [C, count] = beta out + sum over parts`, of rows `first..first + count` of each part.
    fn finish(
        self,
        cuda: &Arc<Cuda>,
        part: &Tensor,
        parts: usize,
        first: usize,
        count: usize,
        out: &mut Tensor,
        beta: f32,
    ) -> Result<()> {
        let kernel = match out.dtype() {
            DType::F32 => &FINISH_F32,
            DType::BF16 => &FINISH_BF16,
            got => {
                return Err(Error::DTypeMismatch {
                    op: "depthwise_conv gradient",
                    expected: DType::F32,
                    got,
                });
            }
        };
        let total = self.k * self.k + 1;
        cuda.launch(
            kernel,
            DType::F32,
            Grid::cube([self.c.div_ceil(32), count, 1], 256),
            args![
                part,
                out,
                parts as i32,
                total as i32,
                first as i32,
                self.c as i32,
                beta
            ],
        )
    }
}

/// Into how many parts `tiles` tiles are cut for blocks of which so many are at work at once: as many tiles each as
/// the one that has most. At least one.
fn parts(tiles: usize, at_once: usize) -> usize {
    let each = tiles.div_ceil(at_once.max(1)).max(1);
    tiles.div_ceil(each).max(1)
}

#[cfg(test)]
mod tests {
    use crate::{cuda::testing::compare, ops::testing::Rng};

    #[test]
    #[ignore = "needs a GPU"]
    fn depthwise_agrees_with_the_cpu() {
        let mut rng = Rng::new(580);
        // [batch, height, width, channels, filter]
        let mut sizes = vec![
            [2, 96, 96, 192, 7],
            // More tiles a block than are on their way at one time.
            [2, 96, 96, 384, 7],
            [1, 48, 48, 384, 7],
            [2, 24, 24, 768, 7],
            [3, 24, 24, 72, 7],
            [2, 17, 33, 8, 7],
            [1, 1, 1, 64, 7],
            [2, 5, 40, 66, 7],
            [1, 30, 20, 5, 9],
            [0, 4, 4, 8, 7],
        ];
        for k in [1, 3, 5, 7, 7, 7, 11] {
            let (b, h, w) = (rng.size(1, 3), rng.size(1, 40), rng.size(1, 40));
            sizes.push([b, h, w, 8 * rng.size(1, 20), k]);
            sizes.push([b, w, h, rng.size(1, 70), k]);
        }
        for [b, h, w, c, k] in sizes {
            let x = rng.tensor(&[b, h, w, c]);
            let (weight, bias) = (rng.tensor(&[c, 1, k, k]), rng.tensor(&[c]));
            let what = format!("depthwise {b} x {h} x {w} x {c}, k {k}");
            compare(
                &what,
                std::slice::from_ref(&x),
                &[weight.clone(), bias],
                |tape, x, p| Ok(vec![tape.depthwise_conv(&x[0], &p[0], Some(&p[1]))?]),
            );
            // Without a bias, and twice, so that gradients also add to what is there.
            compare(&what, &[x], &[weight], |tape, x, p| {
                Ok(vec![
                    tape.depthwise_conv(&x[0], &p[0], None)?,
                    tape.depthwise_conv(&x[0], &p[0], None)?,
                ])
            });
        }
    }
}
