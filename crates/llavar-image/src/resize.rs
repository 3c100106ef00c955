//! PIL's bicubic resize, bit for bit.
//!
//! Separable convolution with a = -0.5, the support widened when shrinking, weights in 22-bit fixed
//! point, first along rows and then along columns (a tall picture that shrinks: the other way round),
//! rounded to 8 bits in between.
//!
//! Two things differ from PIL without changing a byte: only the wanted window of the output is
//! computed, and rows pass through a ring as long as the filter. So a 1 x 65,535 picture costs
//! kilobytes, where the padded or enlarged picture itself would take gigabytes.
//!
//! # Source
//!
//! PIL `src/libImaging/Resample.c`.

use std::ops::Range;

use crate::{ImageError, RgbImage};

/// Fractional bits of a weight: 32 less 8 for the pixel and 2 for the filter's overshoot.
const PRECISION: u32 = 32 - 8 - 2;
const HALF: i32 = 1 << (PRECISION - 1);
/// Reach of the bicubic filter at scale 1, px.
const SUPPORT: f64 = 2.0;

/// Resizes to exactly `width` x `height` px with PIL's `resize((width, height), BICUBIC)`.
///
/// # Errors
///
/// [`ImageError::BadSize`] for a target side of 0, and the errors of [`RgbImage::check`].
pub fn resize(image: &RgbImage, width: usize, height: usize) -> Result<RgbImage, ImageError> {
    image.check()?;
    if width
        .checked_mul(height)
        .and_then(|n| n.checked_mul(3))
        .is_none_or(|n| n == 0)
    {
        return Err(ImageError::BadSize { width, height });
    }
    let canvas = Canvas::of(image);
    let window = Window {
        left: 0,
        top: 0,
        width,
        height,
    };
    Ok(RgbImage {
        width,
        height,
        data: resample(&canvas, width, height, &window),
    })
}

/// Shrinks to fit into `max_width` x `max_height` px, keeping the proportions; a picture that fits
/// already is returned as it is.
///
/// # Errors
///
/// As [`resize`].
pub fn thumbnail(
    image: &RgbImage,
    max_width: usize,
    max_height: usize,
) -> Result<RgbImage, ImageError> {
    image.check()?;
    if max_width == 0 || max_height == 0 {
        return Err(ImageError::BadSize {
            width: max_width,
            height: max_height,
        });
    }
    if image.width <= max_width && image.height <= max_height {
        return Ok(image.clone());
    }
    let across = max_width as f64 / image.width as f64;
    let down = max_height as f64 / image.height as f64;
    let scale = across.min(down);
    let side = |n: usize, max: usize| ((n as f64 * scale).round() as usize).clamp(1, max);
    resize(
        image,
        side(image.width, max_width),
        side(image.height, max_height),
    )
}

/// A picture lying on a larger plane of one colour, which is never stored.
pub(crate) struct Canvas<'a> {
    pub(crate) image: &'a RgbImage,
    /// Size of the plane, px.
    pub(crate) width: usize,
    pub(crate) height: usize,
    /// Where the picture's corner lies on it, px.
    pub(crate) left: usize,
    pub(crate) top: usize,
    pub(crate) colour: [u8; 3],
}

impl<'a> Canvas<'a> {
    /// The picture alone.
    pub(crate) fn of(image: &'a RgbImage) -> Self {
        let (width, height) = (image.width, image.height);
        Self {
            image,
            width,
            height,
            left: 0,
            top: 0,
            colour: [0; 3],
        }
    }

    /// Whether the picture covers the plane.
    fn is_bare(&self) -> bool {
        (self.width, self.height) == (self.image.width, self.image.height)
    }
}

/// The part of the resized picture that is wanted, px.
pub(crate) struct Window {
    pub(crate) left: usize,
    pub(crate) top: usize,
    pub(crate) width: usize,
    pub(crate) height: usize,
}

/// The `window` of `canvas` resized to `width` x `height`: `[window.height, window.width, 3]`.
pub(crate) fn resample(canvas: &Canvas, width: usize, height: usize, window: &Window) -> Vec<u8> {
    // Wide vector instructions are found at run time; the loops below are plain.
    pulp::Arch::new().dispatch(
        #[inline(always)]
        || resample_loops(canvas, width, height, window),
    )
}

/// Whether PIL runs the columns before the rows: where the height loses more than twice what the
/// width does. The 8-bit rounding in between makes the order visible (by up to 6 levels on text).
///
/// # Source
///
/// Found by comparing with Pillow 13, which has the rule; Pillow up to 12 starts with the rows.
fn columns_first(canvas: &Canvas, width: usize, height: usize) -> bool {
    let lost = canvas.height.saturating_sub(height);
    lost > 0 && lost > 2 * canvas.width.saturating_sub(width)
}

#[inline(always)]
fn resample_loops(canvas: &Canvas, width: usize, height: usize, window: &Window) -> Vec<u8> {
    let across = Taps::new(canvas.width, width, window.left, window.width);
    let down = Taps::new(canvas.height, height, window.top, window.height);
    if columns_first(canvas, width, height) && canvas.is_bare() {
        return columns_then_rows(canvas.image, &across, &down, window);
    }
    let stride = window.width * 3;
    let content = canvas.top..canvas.top + canvas.image.height;

    // A row of the plane, four lanes a pixel; the picture's part is written anew for each row.
    let [r, g, b] = canvas.colour.map(i32::from);
    let mut pixels = vec![[r, g, b, 0]; canvas.width];
    // Where the filter meets the plane's colour alone, the result is that colour: the weights'
    // rounding is far below half a level. So only the columns that touch the picture are summed.
    let plain = canvas.colour.repeat(window.width);
    let touched = across.touching(canvas.left..canvas.left + canvas.image.width);
    let ring_rows = down.longest;
    let mut ring = vec![0u8; ring_rows * stride];
    let mut ready = 0;

    let mut out = vec![0u8; window.height * stride];
    for (y, out_row) in out.chunks_exact_mut(stride).enumerate() {
        let (first, weights) = down.get(y);
        ready = ready.max(first);
        while ready < first + weights.len() {
            let slot = ready % ring_rows;
            let row = &mut ring[slot * stride..(slot + 1) * stride];
            row.copy_from_slice(&plain);
            if content.contains(&ready) {
                let source = canvas.image.row(ready - canvas.top);
                spread(
                    source,
                    &mut pixels[canvas.left..canvas.left + canvas.image.width],
                );
                filter_row(&pixels, &across, touched.clone(), row);
            }
            ready += 1;
        }
        filter_columns(&ring, stride, first % ring_rows, weights, out_row);
    }
    out
}

/// The other order, on a picture without a border: one row at a time is enough.
#[inline(always)]
fn columns_then_rows(image: &RgbImage, across: &Taps, down: &Taps, window: &Window) -> Vec<u8> {
    let mut row = vec![0u8; image.width * 3];
    let mut pixels = vec![[0; 4]; image.width];
    let mut out = vec![0u8; window.height * window.width * 3];
    for (y, out_row) in out.chunks_exact_mut(window.width * 3).enumerate() {
        let (first, weights) = down.get(y);
        filter_columns(&image.data, image.width * 3, first, weights, &mut row);
        spread(&row, &mut pixels);
        filter_row(&pixels, across, 0..window.width, out_row);
    }
    out
}

/// RGB bytes to four lanes a pixel.
#[inline(always)]
fn spread(rgb: &[u8], lanes: &mut [[i32; 4]]) {
    for (lanes, rgb) in lanes.iter_mut().zip(rgb.chunks_exact(3)) {
        *lanes = [i32::from(rgb[0]), i32::from(rgb[1]), i32::from(rgb[2]), 0];
    }
}

/// The `columns` of one row: each output pixel is a weighted sum of neighbours.
#[inline(always)]
fn filter_row(pixels: &[[i32; 4]], taps: &Taps, columns: Range<usize>, out: &mut [u8]) {
    let targets = out[columns.start * 3..columns.end * 3].chunks_exact_mut(3);
    for (x, rgb) in columns.zip(targets) {
        let (first, weights) = taps.get(x);
        let mut sum = [HALF; 4];
        for (pixel, &weight) in pixels[first..first + weights.len()].iter().zip(weights) {
            for lane in 0..4 {
                sum[lane] += pixel[lane] * weight;
            }
        }
        // All four lanes are brought out: with a lane that nobody reads, the compiler falls back
        // to scalar code, and the whole resize takes half as long again.
        let bytes = std::hint::black_box(sum).map(to_byte);
        rgb.copy_from_slice(&bytes[..3]);
    }
}

/// One row of the output from `weights.len()` rows, the first in slot `first`; after the last slot
/// of `rows` comes slot 0.
#[inline(always)]
fn filter_columns(rows: &[u8], stride: usize, first: usize, weights: &[i32], out: &mut [u8]) {
    // So many sums stay in registers while the rows pass.
    const BLOCK: usize = 64;
    for (block, out) in out.chunks_mut(BLOCK).enumerate() {
        let mut sums = [HALF; BLOCK];
        let mut at = first * stride;
        for &weight in weights {
            let from = at + block * BLOCK;
            let row = &rows[from..from + out.len()];
            if let Ok(row) = <&[u8; BLOCK]>::try_from(row) {
                for k in 0..BLOCK {
                    sums[k] += i32::from(row[k]) * weight;
                }
            } else {
                for (sum, &v) in sums.iter_mut().zip(row) {
                    *sum += i32::from(v) * weight;
                }
            }
            at += stride;
            if at == rows.len() {
                at = 0;
            }
        }
        for (byte, sum) in out.iter_mut().zip(sums) {
            *byte = to_byte(sum);
        }
    }
}

#[inline(always)]
fn to_byte(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

/// For each output position of a window: the first input position and the weights from there.
struct Taps {
    first: Vec<usize>,
    /// `weights[start[i]..start[i + 1]]` belong to position `i`.
    start: Vec<usize>,
    weights: Vec<i32>,
    longest: usize,
}

impl Taps {
    fn new(input: usize, output: usize, window_start: usize, window_len: usize) -> Self {
        let scale = input as f64 / output as f64;
        // Shrinking widens the filter, so that every input pixel counts.
        let filter_scale = scale.max(1.0);
        let support = SUPPORT * filter_scale;
        let inverse = 1.0 / filter_scale;
        let mut taps = Self {
            first: vec![],
            start: vec![0],
            weights: vec![],
            longest: 1,
        };
        let mut row = Vec::new();
        for position in window_start..window_start + window_len {
            let center = (position as f64 + 0.5) * scale;
            // The casts cut off towards 0 and saturate there, as PIL's int casts and clamps.
            let first = (center - support + 0.5) as usize;
            let end = ((center + support + 0.5) as usize).min(input);
            row.clear();
            row.extend((first..end).map(|x| bicubic((x as f64 - center + 0.5) * inverse)));
            let total: f64 = row.iter().sum();
            taps.weights.extend(row.iter().map(|w| {
                let fixed = w / total * f64::from(1u32 << PRECISION);
                (fixed + 0.5f64.copysign(fixed)) as i32
            }));
            taps.first.push(first);
            taps.start.push(taps.weights.len());
            taps.longest = taps.longest.max(row.len());
        }
        taps
    }

    /// The positions whose weights reach into the input range `content`.
    fn touching(&self, content: Range<usize>) -> Range<usize> {
        let reaches = |&position: &usize| {
            let (first, weights) = self.get(position);
            first < content.end && first + weights.len() > content.start
        };
        let positions = 0..self.first.len();
        match (
            positions.clone().find(reaches),
            positions.rev().find(reaches),
        ) {
            (Some(first), Some(last)) => first..last + 1,
            _ => 0..0,
        }
    }

    #[inline(always)]
    fn get(&self, position: usize) -> (usize, &[i32]) {
        let weights = &self.weights[self.start[position]..self.start[position + 1]];
        (self.first[position], weights)
    }
}

/// Keys' cubic with a = -0.5.
fn bicubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same sum in f64 with no windows, rings or fixed point.
    fn plain(image: &RgbImage, width: usize, height: usize) -> Vec<f64> {
        let pass = |v: &[f64], rows: usize, n: usize, out: usize| -> Vec<f64> {
            let scale = n as f64 / out as f64;
            let wide = scale.max(1.0);
            let mut result = vec![0.0; rows * out * 3];
            for r in 0..rows {
                for o in 0..out {
                    let center = (o as f64 + 0.5) * scale;
                    let weight = |i: usize| bicubic((i as f64 + 0.5 - center) / wide);
                    let weights: Vec<f64> = (0..n).map(weight).collect();
                    let total: f64 = weights.iter().sum();
                    for c in 0..3 {
                        let sum: f64 = (0..n).map(|i| weights[i] * v[(r * n + i) * 3 + c]).sum();
                        result[(r * out + o) * 3 + c] = (sum / total).round().clamp(0.0, 255.0);
                    }
                }
            }
            result
        };
        let transpose = |v: &[f64], rows: usize, cols: usize| -> Vec<f64> {
            let mut t = vec![0.0; v.len()];
            for r in 0..rows {
                for c in 0..cols {
                    for k in 0..3 {
                        t[(c * rows + r) * 3 + k] = v[(r * cols + c) * 3 + k];
                    }
                }
            }
            t
        };
        let v: Vec<f64> = image.data.iter().map(|&b| f64::from(b)).collect();
        let (w, h) = (image.width, image.height);
        if columns_first(&Canvas::of(image), width, height) {
            let v = pass(&transpose(&v, h, w), w, h, height);
            return pass(&transpose(&v, w, height), height, w, width);
        }
        let v = pass(&v, h, w, width);
        let v = pass(&transpose(&v, h, width), width, h, height);
        transpose(&v, width, height)
    }

    #[test]
    fn columns_come_first_where_the_height_loses_more_than_twice_the_width() {
        let image = RgbImage::filled(100, 201, [0; 3]);
        let canvas = Canvas::of(&image);
        assert!(columns_first(&canvas, 50, 100));
        assert!(!columns_first(&canvas, 50, 101));
        assert!(columns_first(&canvas, 150, 200));
        assert!(!columns_first(&canvas, 150, 201));
    }

    proptest::proptest! {
        #[test]
        fn agrees_with_the_plain_sum(
            w in 1usize..30, h in 1usize..30, to_w in 1usize..40, to_h in 1usize..40, seed: u64,
        ) {
            let mut state = seed | 1;
            let data = (0..w * h * 3).map(|_| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (state >> 56) as u8
            }).collect();
            let image = RgbImage::new(w, h, data).unwrap();
            let out = resize(&image, to_w, to_h).unwrap();
            for (a, b) in out.data.iter().zip(plain(&image, to_w, to_h)) {
                // A tie in the rounding in between may fall the other way for two inputs of a sum.
                proptest::prop_assert!((f64::from(*a) - b).abs() <= 2.0, "{} {}", a, b);
            }
        }
    }

    #[test]
    fn same_size_changes_nothing() {
        let image = RgbImage::new(7, 5, (0..105).map(|v| v * 2).collect()).unwrap();
        assert_eq!(resize(&image, 7, 5).unwrap(), image);
    }

    #[test]
    fn thumbnails_fit() {
        let image = RgbImage::filled(1000, 10, [1, 2, 3]);
        let small = thumbnail(&image, 100, 100).unwrap();
        assert_eq!((small.width, small.height), (100, 1));
        assert_eq!(small.pixel(99, 0), Some([1, 2, 3]));
        assert_eq!(thumbnail(&small, 100, 1).unwrap(), small);
        assert!(matches!(
            thumbnail(&small, 0, 5),
            Err(ImageError::BadSize { .. })
        ));
        assert!(matches!(
            resize(&small, 5, 0),
            Err(ImageError::BadSize { .. })
        ));
    }
}
