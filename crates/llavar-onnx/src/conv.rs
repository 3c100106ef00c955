//! Convolutions on pictures with channels last: products of gathered rows, or tap by tap for a kernel a
//! channel.

use llavar_tensor::{kernel, kernels::matmul, memory::Buffer};
use rayon::prelude::*;

use crate::{
    op::Refusal,
    pointwise::{Pointwise, add_rows, apply},
    value::elements,
    window::{Placed, Window, overlap},
};

/// What a convolution multiplies with.
#[derive(Debug, Clone)]
pub(crate) enum Kernels {
    /// `[kh * kw * in, out]`.
    Dense(Vec<f32>),
    /// `[kh * kw, channels]`: one kernel a channel.
    Depthwise(Vec<f32>),
}

/// A convolution with what follows it.
#[derive(Debug, Clone)]
pub(crate) struct Conv {
    pub(crate) window: Window,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    pub(crate) kernels: Kernels,
    pub(crate) bias: Vec<f32>,
}

const NO_FIT: &str = "the kernel does not fit the picture";
/// Multiply-adds of a tile: small enough that its rows stay in the cache, large enough that packing the
/// kernels again for every tile does not matter.
const TILE_WORK: usize = 6 << 20;
/// Elements of gathered rows in a tile.
const TILE_ROWS: usize = 96 << 10;

impl Conv {
    /// Multiplies the outputs by `scale` and adds `shift`, channel by channel.
    pub(crate) fn scaled(&mut self, scale: &[f32], shift: &[f32]) {
        let (Kernels::Dense(weights) | Kernels::Depthwise(weights)) = &mut self.kernels;
        for row in weights.chunks_exact_mut(self.outputs) {
            row.iter_mut().zip(scale).for_each(|(w, s)| *w *= s);
        }
        for ((bias, scale), shift) in self.bias.iter_mut().zip(scale).zip(shift) {
            *bias = *bias * scale + shift;
        }
    }

    /// The result, `[oh, ow, out]`, and its height and width; refused where the kernel does not fit.
    pub(crate) fn run(
        &self,
        x: &[f32],
        size: [usize; 2],
        then: &[Pointwise],
        parallel: bool,
    ) -> Result<(Buffer<f32>, [usize; 2]), Refusal> {
        let placed = self.window.on(size).ok_or(NO_FIT)?;
        let [high, wide] = placed.out;
        let mut out = Buffer::unspecified(elements(&[high, wide, self.outputs])?);
        match &self.kernels {
            Kernels::Dense(weights) => {
                self.dense(x, size, &placed, weights, then, parallel, &mut out)
            }
            Kernels::Depthwise(weights) => {
                let row = placed.out[1] * self.outputs;
                let rows = |(y, out): (usize, &mut [f32])| {
                    let geometry = Row {
                        y,
                        size,
                        placed,
                        window: self.window,
                    };
                    depthwise_row(x, geometry, weights, &self.bias, out);
                    apply(then, out);
                };
                if parallel {
                    out.par_chunks_mut(row).enumerate().for_each(rows);
                } else {
                    out.chunks_mut(row).enumerate().for_each(rows);
                }
            }
        }
        Ok((out, placed.out))
    }

    fn dense(
        &self,
        x: &[f32],
        size: [usize; 2],
        placed: &Placed,
        weights: &[f32],
        then: &[Pointwise],
        parallel: bool,
        out: &mut [f32],
    ) {
        let n = self.outputs;
        let [kh, kw] = self.window.kernel;
        let k = kh * kw * self.inputs;
        let point = self.window.is_point();
        let rows = (TILE_WORK / (n * k))
            .clamp(64, 4096)
            .min((TILE_ROWS / k).max(64));
        let tile = |(at, out): (usize, &mut [f32])| {
            let (first, count) = (at * rows, out.len() / n);
            if point {
                let x = &x[first * k..(first + count) * k];
                matmul([count, n, k], x, weights, out, n, false);
            } else {
                let mut gathered = Buffer::unspecified(count * k);
                for (at, row) in gathered.chunks_exact_mut(k).enumerate() {
                    self.gather(x, size, placed, first + at, row);
                }
                matmul([count, n, k], &gathered, weights, out, n, false);
            }
            add_rows(out, &self.bias);
            apply(then, out);
        };
        if parallel {
            out.par_chunks_mut(rows * n).enumerate().for_each(tile);
        } else {
            out.chunks_mut(rows * n).enumerate().for_each(tile);
        }
    }

    /// What the kernel sees at place `at` of the result, with zeros where that is nothing.
    fn gather(&self, x: &[f32], [h, w]: [usize; 2], placed: &Placed, at: usize, row: &mut [f32]) {
        let c = self.inputs;
        let [kh, kw] = self.window.kernel;
        let [sy, sx] = self.window.stride;
        let (y, left) = (at / placed.out[1] * sy, at % placed.out[1] * sx);
        let (kx, ix, across) = overlap(left, placed.before[1], kw, w);
        let (ky, iy, down) = overlap(y, placed.before[0], kh, h);
        if down < kh || across < kw {
            row.fill(0.0);
        }
        // A kernel in the padding alone begins outside of the picture.
        if across == 0 {
            return;
        }
        for step in 0..down {
            let to = ((ky + step) * kw + kx) * c;
            let from = ((iy + step) * w + ix) * c;
            row[to..to + across * c].copy_from_slice(&x[from..from + across * c]);
        }
    }
}

/// One row of the result of a depthwise convolution.
#[derive(Clone, Copy)]
struct Row {
    y: usize,
    size: [usize; 2],
    placed: Placed,
    window: Window,
}

kernel! {
    fn depthwise_row(x: &[f32], row: Row, weights: &[f32], bias: &[f32], out: &mut [f32]) {
        let c = bias.len();
        let [h, w] = row.size;
        let [kh, kw] = row.window.kernel;
        let [sy, sx] = row.window.stride;
        let down = overlap(row.y * sy, row.placed.before[0], kh, h);
        for (at, out) in out.chunks_exact_mut(c).enumerate() {
            let across = overlap(at * sx, row.placed.before[1], kw, w);
            let mut first = 0;
            while first + 32 <= c {
                channels::<32>(x, w, kw, down, across, weights, bias, first, out);
                first += 32;
            }
            while first + 8 <= c {
                channels::<8>(x, w, kw, down, across, weights, bias, first, out);
                first += 8;
            }
            while first < c {
                channels::<1>(x, w, kw, down, across, weights, bias, first, out);
                first += 1;
            }
        }
    }
}

/// `N` channels of one place: they stay in registers over all taps.
#[inline(always)]
fn channels<const N: usize>(
    x: &[f32],
    w: usize,
    kw: usize,
    (ky, iy, down): (usize, usize, usize),
    (kx, ix, across): (usize, usize, usize),
    weights: &[f32],
    bias: &[f32],
    first: usize,
    out: &mut [f32],
) {
    let c = bias.len();
    let mut sum = [0.0; N];
    sum.copy_from_slice(&bias[first..first + N]);
    for dy in 0..down {
        let mut tap = ((ky + dy) * kw + kx) * c + first;
        let mut place = ((iy + dy) * w + ix) * c + first;
        for _ in 0..across {
            let (taps, places) = (&weights[tap..tap + N], &x[place..place + N]);
            for i in 0..N {
                sum[i] = places[i].mul_add(taps[i], sum[i]);
            }
            tap += c;
            place += c;
        }
    }
    out[first..first + N].copy_from_slice(&sum);
}

/// A transposed convolution whose kernels lie side by side: stride and kernel are equal.
#[derive(Debug, Clone)]
pub(crate) struct Spread {
    /// Height and width of a kernel.
    pub(crate) kernel: [usize; 2],
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    /// `[in, kh * kw * out]`.
    pub(crate) weights: Vec<f32>,
    pub(crate) bias: Vec<f32>,
}

impl Spread {
    /// Multiplies the outputs by `scale` and adds `shift`, channel by channel.
    pub(crate) fn scaled(&mut self, scale: &[f32], shift: &[f32]) {
        for row in self.weights.chunks_exact_mut(self.outputs) {
            row.iter_mut().zip(scale).for_each(|(w, s)| *w *= s);
        }
        for ((bias, scale), shift) in self.bias.iter_mut().zip(scale).zip(shift) {
            *bias = *bias * scale + shift;
        }
    }

    /// The result, `[h * kh, w * kw, out]`, and its height and width.
    pub(crate) fn run(
        &self,
        x: &[f32],
        [h, w]: [usize; 2],
        then: &[Pointwise],
        parallel: bool,
    ) -> Result<(Buffer<f32>, [usize; 2]), Refusal> {
        let ([kh, kw], n) = (self.kernel, self.outputs);
        let count = elements(&[h, kh, w, kw, n])?;
        let wide = w * kw * n;
        let mut out = Buffer::unspecified(count);
        let row = |(y, out): (usize, &mut [f32])| {
            let mut parts = Buffer::unspecified(w * kh * kw * n);
            let x = &x[y * w * self.inputs..(y + 1) * w * self.inputs];
            let shape = [w, kh * kw * n, self.inputs];
            matmul(shape, x, &self.weights, &mut parts, kh * kw * n, false);
            for (at, part) in parts.chunks_exact(kh * kw * n).enumerate() {
                for (dy, part) in part.chunks_exact(kw * n).enumerate() {
                    let to = dy * wide + at * kw * n;
                    out[to..to + kw * n].copy_from_slice(part);
                }
            }
            add_rows(out, &self.bias);
            apply(then, out);
        };
        if parallel {
            out.par_chunks_mut(kh * wide).enumerate().for_each(row);
        } else {
            out.chunks_mut(kh * wide).enumerate().for_each(row);
        }
        Ok((out, [h * kh, w * kw]))
    }
}
