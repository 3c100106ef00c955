//! Inner loops of the depthwise convolution.
//!
//! Channels are contiguous, so a vector holds neighbouring channels of one pixel. The forward loop
//! keeps two output rows x a tile of columns in registers; every input vector that is loaded serves both
//! rows, every weight vector the whole tile. The weight gradient keeps up to 3 x 7 filter taps in
//! registers while it walks along a row.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use crate::cpu;

/// Channels of one block of packed weights: the widest vector.
const BLOCK: usize = 16;

/// What lies outside the image.
static OUTSIDE: [f32; BLOCK] = [0.0; BLOCK];

/// Sizes of one convolution.
#[derive(Clone, Copy)]
pub(super) struct Geometry {
    /// Image rows of the whole batch.
    pub(super) rows: usize,
    /// Height of one image.
    pub(super) h: usize,
    /// Width.
    pub(super) w: usize,
    /// Channels.
    pub(super) c: usize,
    /// Filter size, odd.
    pub(super) k: usize,
}

impl Geometry {
    /// `[C, k, k]` as `[C / BLOCK, k k, BLOCK]`, filled up with zeros; `turned` by 180 degrees.
    pub(super) fn pack(&self, weight: &[f32], turned: bool) -> Vec<f32> {
        let taps = self.k * self.k;
        let mut packed = vec![0.0; self.c.div_ceil(BLOCK) * taps * BLOCK];
        for (c, filter) in weight.chunks_exact(taps).enumerate() {
            for (tap, w) in filter.iter().enumerate() {
                let tap = if turned { taps - 1 - tap } else { tap };
                packed[(c / BLOCK * taps + tap) * BLOCK + c % BLOCK] = *w;
            }
        }
        packed
    }
}

/// `out = correlation of x with the packed filters (+ bias)`; `x` and `out` are `[B, H, W, C]`.
pub(super) fn correlate(
    geometry: Geometry,
    x: &[f32],
    packed: &[f32],
    bias: Option<&[f32]>,
    out: &mut [f32],
) {
    let Geometry { rows, w, c, k, .. } = geometry;
    assert!(
        x.len() == rows * w * c
            && out.len() == x.len()
            && packed.len() == c.div_ceil(BLOCK) * k * k * BLOCK
            && bias.is_none_or(|b| b.len() == c),
        "depthwise convolution: slices do not match their shapes"
    );
    cpu::par_rows(out, w * c, |first, out| {
        pulp::Arch::new().dispatch(Correlate {
            geometry,
            x,
            packed,
            bias,
            first,
            out,
        });
    });
}

/// A run of output rows.
struct Correlate<'a> {
    geometry: Geometry,
    x: &'a [f32],
    packed: &'a [f32],
    bias: Option<&'a [f32]>,
    first: usize,
    out: &'a mut [f32],
}

impl WithSimd for Correlate<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let Geometry { h, w, c, .. } = self.geometry;
        let count = self.out.len() / (w * c);
        // The tile that computes fewer columns twice.
        let wide = w.div_ceil(8) * 8 <= w.div_ceil(6) * 6;
        let mut i = 0;
        while i < count {
            let pair = i + 1 < count && (self.first + i) % h + 1 < h;
            match (pair, wide) {
                (true, true) => self.line::<S, 8, 2>(simd, i),
                (true, false) => self.line::<S, 6, 2>(simd, i),
                (false, _) => self.line::<S, 8, 1>(simd, i),
            }
            i += 1 + usize::from(pair);
        }
    }
}

impl Correlate<'_> {
    /// `ROWS` whole output rows. Channels innermost: a tile's pixels then stay within a few pages.
    #[inline(always)]
    fn line<S: Simd, const T: usize, const ROWS: usize>(&mut self, simd: S, i: usize) {
        let Geometry { w, c, k, .. } = self.geometry;
        let p = k / 2;
        for ox in (0..w).step_by(T) {
            // The last tile moves left to end at the border.
            let start = ox.min(w.saturating_sub(T));
            let inside = start >= p && start + T + p <= w;
            for channel in (0..c).step_by(S::F32_LANES) {
                let lanes = Lanes {
                    simd,
                    len: S::F32_LANES.min(c - channel),
                };
                match (inside, lanes.len == S::F32_LANES) {
                    (true, true) => self.tile::<S, T, ROWS, false, true>(lanes, i, channel, start),
                    (true, false) => {
                        self.tile::<S, T, ROWS, false, false>(lanes, i, channel, start)
                    }
                    (false, true) => self.tile::<S, T, ROWS, true, true>(lanes, i, channel, start),
                    (false, false) => {
                        self.tile::<S, T, ROWS, true, false>(lanes, i, channel, start)
                    }
                }
            }
        }
    }

    /// `ROWS` x `T` outputs of one vector of channels, held in registers.
    #[inline(always)]
    fn tile<S: Simd, const T: usize, const ROWS: usize, const BORDER: bool, const FULL: bool>(
        &mut self,
        lanes: Lanes<S>,
        i: usize,
        channel: usize,
        start: usize,
    ) {
        let Geometry { h, w, c, k, .. } = self.geometry;
        let p = k / 2;
        let (image, y) = ((self.first + i) / h, (self.first + i) % h);
        let bias = match self.bias {
            // SAFETY: `bias` holds `c` elements and `len <= c - channel`.
            Some(b) => unsafe { lanes.load::<false>(b.as_ptr().add(channel)) },
            None => lanes.simd.splat_f32s(0.0),
        };
        let mut acc = [[bias; T]; ROWS];
        let filter = (channel / BLOCK * k * k) * BLOCK + channel % BLOCK;
        for iy in y.saturating_sub(p)..(y + ROWS + p).min(h) {
            let input = &self.x[(image * h + iy) * w * c + channel..];
            // Filter row that meets this input row, for the first and the second output row.
            let ky = iy + p - y;
            let row = Row {
                input: input.as_ptr(),
                first: start as isize - p as isize,
                upper: self.packed[filter + ky.min(k - 1) * k * BLOCK..].as_ptr(),
                lower: self.packed[filter + ky.saturating_sub(1) * k * BLOCK..].as_ptr(),
            };
            let g = self.geometry;
            // SAFETY: `input` is a row of the image from `channel` on, `upper` and `lower` point at
            // filter rows below `k`; `start + T` leaves the image only in a border tile.
            unsafe {
                match (ky < k, ROWS == 2 && ky >= 1) {
                    (true, true) => {
                        row.step::<S, T, ROWS, true, true, BORDER, FULL>(lanes, g, &mut acc)
                    }
                    (true, false) => {
                        row.step::<S, T, ROWS, true, false, BORDER, FULL>(lanes, g, &mut acc)
                    }
                    _ => row.step::<S, T, ROWS, false, true, BORDER, FULL>(lanes, g, &mut acc),
                }
            }
        }
        for r in 0..ROWS {
            let line = &mut self.out[(i + r) * w * c..(i + r + 1) * w * c];
            for t in 0..T {
                if !BORDER || start + t < w {
                    let from = (start + t) * c + channel;
                    lanes.store::<FULL>(&mut line[from..from + lanes.len], acc[r][t]);
                }
            }
        }
    }
}

/// One input row with the filter rows that it meets.
struct Row {
    input: *const f32,
    /// Column under the first tap of the tile's first output.
    first: isize,
    upper: *const f32,
    lower: *const f32,
}

impl Row {
    /// Adds the row's part to both output rows (`UPPER`, `LOWER`: whether the row counts for them).
    ///
    /// # Safety
    /// `input` points at a whole image row from the vector's channel on; `upper` and `lower` at `k` packed
    /// taps; unless `BORDER`, columns `first..first + T + k - 1` lie inside the image.
    #[inline(always)]
    unsafe fn step<
        S: Simd,
        const T: usize,
        const ROWS: usize,
        const UPPER: bool,
        const LOWER: bool,
        const BORDER: bool,
        const FULL: bool,
    >(
        &self,
        lanes: Lanes<S>,
        g: Geometry,
        acc: &mut [[S::f32s; T]; ROWS],
    ) {
        for kx in 0..g.k {
            // SAFETY: taps `0..k` of a filter row, each BLOCK apart; columns as the caller promised,
            // checked where `BORDER`.
            unsafe {
                let upper = lanes.load::<true>(self.upper.add(kx * BLOCK));
                let lower = lanes.load::<true>(self.lower.add(kx * BLOCK));
                for t in 0..T {
                    let column = self.first + (kx + t) as isize;
                    let from = if BORDER && !(0..g.w as isize).contains(&column) {
                        OUTSIDE.as_ptr()
                    } else {
                        self.input.offset(column * g.c as isize)
                    };
                    let x = lanes.load::<FULL>(from);
                    if UPPER {
                        acc[0][t] = lanes.simd.mul_add_e_f32s(x, upper, acc[0][t]);
                    }
                    if LOWER {
                        acc[ROWS - 1][t] = lanes.simd.mul_add_e_f32s(x, lower, acc[ROWS - 1][t]);
                    }
                }
            }
        }
    }
}

/// The vector unit, and how many lanes are in use (fewer in the last vector of the channels).
#[derive(Clone, Copy)]
struct Lanes<S> {
    simd: S,
    len: usize,
}

impl<S: Simd> Lanes<S> {
    /// # Safety
    /// With `FULL` a whole vector is readable at `from`, otherwise `len` elements.
    #[inline(always)]
    unsafe fn load<const FULL: bool>(self, from: *const f32) -> S::f32s {
        // SAFETY: promised by the caller; vectors of f32 have no invalid bit patterns.
        unsafe {
            if FULL {
                from.cast::<S::f32s>().read_unaligned()
            } else {
                self.simd
                    .partial_load_f32s(std::slice::from_raw_parts(from, self.len))
            }
        }
    }

    /// `to` holds `len` elements.
    #[inline(always)]
    fn store<const FULL: bool>(self, to: &mut [f32], value: S::f32s) {
        if FULL {
            debug_assert_eq!(to.len(), S::F32_LANES);
            // SAFETY: with `FULL`, `len` is a whole vector.
            unsafe { to.as_mut_ptr().cast::<S::f32s>().write_unaligned(value) }
        } else {
            self.simd.partial_store_f32s(to, value);
        }
    }
}

/// Gradients of filters `[C, k, k]` and bias `[C]` from inputs and output gradients `[B, H, W, C]`.
pub(super) fn weight_gradient(geometry: Geometry, x: &[f32], dy: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let Geometry { rows, w, c, k, .. } = geometry;
    assert!(
        x.len() == rows * w * c && dy.len() == x.len(),
        "depthwise convolution: slices do not match their shapes"
    );
    let taps = k * k;
    let sums = cpu::par_reduce(rows, (taps + 1) * c, |rows, acc| {
        pulp::Arch::new().dispatch(WeightGradient {
            geometry,
            x,
            dy,
            rows,
            acc,
        });
    });
    let mut dw = vec![0.0; c * taps];
    for (channel, dw) in dw.chunks_exact_mut(taps).enumerate() {
        for (tap, dw) in dw.iter_mut().enumerate() {
            *dw = sums[tap * c + channel];
        }
    }
    (dw, sums[taps * c..].to_vec())
}

/// The part that some rows of `dy` contribute; `acc` is `[k k + 1, C]`, the last row for the bias.
struct WeightGradient<'a> {
    geometry: Geometry,
    x: &'a [f32],
    dy: &'a [f32],
    rows: Range<usize>,
    acc: &'a mut [f32],
}

impl WithSimd for WeightGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let Geometry { h, c, .. } = self.geometry;
        for channel in (0..c).step_by(S::F32_LANES) {
            let lanes = Lanes {
                simd,
                len: S::F32_LANES.min(c - channel),
            };
            let mut from = self.rows.start;
            while from < self.rows.end {
                // Rows of one image.
                let to = ((from / h + 1) * h).min(self.rows.end);
                if lanes.len == S::F32_LANES {
                    self.image::<S, true>(lanes, channel, from..to);
                } else {
                    self.image::<S, false>(lanes, channel, from..to);
                }
                from = to;
            }
        }
    }
}

impl WeightGradient<'_> {
    #[inline(always)]
    fn image<S: Simd, const FULL: bool>(
        &mut self,
        lanes: Lanes<S>,
        channel: usize,
        rows: Range<usize>,
    ) {
        let Geometry { h, w, c, k, .. } = self.geometry;
        let p = k / 2;
        for row in rows.clone() {
            let mut sum = lanes.simd.splat_f32s(0.0);
            for ox in 0..w {
                // SAFETY: `dy` holds `rows` rows of `w` pixels of `c` channels.
                let g = unsafe {
                    lanes.load::<FULL>(self.dy.as_ptr().add((row * w + ox) * c + channel))
                };
                sum = lanes.simd.add_f32s(sum, g);
            }
            self.add_to::<S, FULL>(lanes, k * k, channel, sum);
        }
        // Rows of x and dy, counted over the whole batch; filter row ky joins x row iy to dy row iy + p - ky.
        let top = rows.start / h * h;
        for iy in (rows.start - rows.start.min(p)).max(top)..(rows.end + p).min(top + h) {
            let mut ky = (iy + p + 1).saturating_sub(rows.end);
            let end = (iy + p + 1 - rows.start).min(k);
            while ky < end {
                // Never a group of one beside a group of three.
                let group = match end - ky {
                    4 => 2,
                    left => left.min(3),
                };
                match group {
                    3 => self.taps::<S, 3, FULL>(lanes, channel, iy, ky),
                    2 => self.taps::<S, 2, FULL>(lanes, channel, iy, ky),
                    _ => self.taps::<S, 1, FULL>(lanes, channel, iy, ky),
                }
                ky += group;
            }
        }
    }

    /// Filter rows `ky..ky + G`, all columns.
    #[inline(always)]
    fn taps<S: Simd, const G: usize, const FULL: bool>(
        &mut self,
        lanes: Lanes<S>,
        channel: usize,
        iy: usize,
        ky: usize,
    ) {
        let mut kx = 0;
        while kx < self.geometry.k {
            if kx + 7 <= self.geometry.k {
                self.walk::<S, G, 7, FULL>(lanes, channel, iy, ky, kx);
                kx += 7;
            } else {
                self.walk::<S, G, 1, FULL>(lanes, channel, iy, ky, kx);
                kx += 1;
            }
        }
    }

    /// `G` x `K` taps along one row of x and `G` rows of dy.
    #[inline(always)]
    fn walk<S: Simd, const G: usize, const K: usize, const FULL: bool>(
        &mut self,
        lanes: Lanes<S>,
        channel: usize,
        iy: usize,
        ky: usize,
        kx: usize,
    ) {
        let Geometry { w, c, k, .. } = self.geometry;
        let p = k / 2;
        let x = self.x[iy * w * c..(iy + 1) * w * c]
            .as_ptr()
            .wrapping_add(channel);
        let mut dy = [std::ptr::null(); G];
        for g in 0..G {
            let row = iy + p - ky - g;
            dy[g] = self.dy[row * w * c..(row + 1) * w * c]
                .as_ptr()
                .wrapping_add(channel);
        }
        let mut acc = [[lanes.simd.splat_f32s(0.0); K]; G];
        // Columns of dy whose taps all lie inside the row of x.
        let low = p.saturating_sub(kx).min(w);
        let high = (w + p + 1).saturating_sub(kx + K).clamp(low, w);
        // SAFETY: all pointers start whole rows; columns stay below `w`, checked for x at the borders.
        unsafe {
            for ox in (0..low).chain(high..w) {
                for t in 0..K {
                    let column = ox + kx + t;
                    let from = if (p..w + p).contains(&column) {
                        x.add((column - p) * c)
                    } else {
                        OUTSIDE.as_ptr()
                    };
                    let x = lanes.load::<FULL>(from);
                    for g in 0..G {
                        let dy = lanes.load::<FULL>(dy[g].add(ox * c));
                        acc[g][t] = lanes.simd.mul_add_e_f32s(x, dy, acc[g][t]);
                    }
                }
            }
            for ox in low..high {
                let mut grad = [lanes.simd.splat_f32s(0.0); G];
                for g in 0..G {
                    grad[g] = lanes.load::<FULL>(dy[g].add(ox * c));
                }
                let x = x.add((ox + kx - p) * c);
                for t in 0..K {
                    let x = lanes.load::<FULL>(x.add(t * c));
                    for g in 0..G {
                        acc[g][t] = lanes.simd.mul_add_e_f32s(x, grad[g], acc[g][t]);
                    }
                }
            }
        }
        for g in 0..G {
            for t in 0..K {
                self.add_to::<S, FULL>(lanes, (ky + g) * k + kx + t, channel, acc[g][t]);
            }
        }
    }

    #[inline(always)]
    fn add_to<S: Simd, const FULL: bool>(
        &mut self,
        lanes: Lanes<S>,
        tap: usize,
        channel: usize,
        value: S::f32s,
    ) {
        let from = tap * self.geometry.c + channel;
        let slot = &mut self.acc[from..from + lanes.len];
        // SAFETY: `slot` holds `len` elements, a whole vector where `FULL`.
        let old = unsafe { lanes.load::<FULL>(slot.as_ptr()) };
        lanes.store::<FULL>(slot, lanes.simd.add_f32s(old, value));
    }
}
