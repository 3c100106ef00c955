//! What happens to a page between the printer and the file: warp, shadow, blur, noise, JPEG.

use std::path::Path;

use llavar_image::{DecodeLimits, RgbImage, decode_bytes, encode_jpeg};

use crate::canvas::{Canvas, Warp};
use crate::config::Damage;
use crate::rng::Rng;

/// The damage drawn for one picture.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    rotation: f32,
    corners: [[f32; 2]; 4],
    blur: f32,
    noise: f32,
    shadow: f32,
    shadow_angle: f32,
    jpeg: Option<u8>,
    noise_seed: u64,
}

impl Plan {
    /// Draws a plan; `None` for a clean picture.
    pub(crate) fn draw(damage: &Damage, rng: &mut Rng) -> Option<Self> {
        if !rng.chance(damage.share) {
            return None;
        }
        let p = damage.perspective;
        // Not every damaged page suffers everything: each effect is left out half of the time.
        let some = |rng: &mut Rng, most: f32| {
            if rng.chance(0.5) {
                rng.range(0.0, most)
            } else {
                0.0
            }
        };
        let (blur, noise) = (some(rng, damage.blur), some(rng, damage.noise));
        let shadow = some(rng, damage.shadow);
        let rotation = if rng.chance(0.6) {
            rng.around(damage.rotation)
        } else {
            0.0
        };
        let mut corners = [[0.0; 2]; 4];
        if rng.chance(0.5) {
            corners = corners.map(|_| [rng.around(p), rng.around(p)]);
        }
        let low = i64::from(damage.jpeg_quality);
        let jpeg = rng
            .chance(damage.jpeg_share)
            .then(|| rng.int(low, low.max(85)) as u8);
        let (shadow_angle, noise_seed) = (rng.range(0.0, std::f32::consts::TAU), rng.bits());
        Some(Self {
            rotation,
            corners,
            blur,
            noise,
            shadow,
            shadow_angle,
            jpeg,
            noise_seed,
        })
    }

    /// True when the page does not fill the picture any more.
    pub(crate) fn warps(&self) -> bool {
        self.rotation != 0.0 || self.corners != [[0.0; 2]; 4]
    }

    /// The map of a page of `w` x `h` px into a picture of the same size, wholly inside it.
    pub(crate) fn warp(&self, w: f32, h: f32) -> Warp {
        if !self.warps() {
            return Warp::IDENTITY;
        }
        let (sin, cos) = self.rotation.to_radians().sin_cos();
        let rect = [[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]];
        let mut quad = [[0.0_f32; 2]; 4];
        for ((q, r), shift) in quad.iter_mut().zip(rect).zip(self.corners) {
            let (x, y) = ((r[0] + shift[0]) * w, (r[1] + shift[1]) * h);
            *q = [x * cos - y * sin, x * sin + y * cos];
        }
        let span = |axis: usize| {
            let low = quad.iter().map(|q| q[axis]).fold(f32::MAX, f32::min);
            let high = quad.iter().map(|q| q[axis]).fold(f32::MIN, f32::max);
            (low, high)
        };
        let ((x0, x1), (y0, y1)) = (span(0), span(1));
        // 2 % of surroundings stay visible on every side.
        let scale = (0.96 * w / (x1 - x0)).min(0.96 * h / (y1 - y0)).min(1.0);
        let (cx, cy) = ((x0 + x1) / 2.0, (y0 + y1) / 2.0);
        let place = |q: [f32; 2]| [(q[0] - cx) * scale + w / 2.0, (q[1] - cy) * scale + h / 2.0];
        Warp::onto(w, h, quad.map(place))
    }

    /// Applies everything that works on pixels.
    pub(crate) fn finish(&self, canvas: &mut Canvas) {
        if self.shadow > 0.02 {
            shade(canvas, self.shadow, self.shadow_angle);
        }
        let blur = self.blur * canvas.width.min(canvas.height) as f32 / 768.0;
        if blur > 0.05 {
            soften(canvas, blur);
        }
        if self.noise > 0.5 {
            add_noise(&mut canvas.pixels, self.noise, self.noise_seed);
        }
        if let Some(quality) = self.jpeg {
            jpeg_pass(canvas, quality);
        }
    }
}

/// Darkens towards one side.
fn shade(canvas: &mut Canvas, depth: f32, angle: f32) {
    let (w, h) = (canvas.width as f32, canvas.height as f32);
    let (sin, cos) = angle.sin_cos();
    for (y, row) in canvas
        .pixels
        .chunks_exact_mut(canvas.width as usize * 3)
        .enumerate()
    {
        let v = (y as f32 / h - 0.5) * sin;
        for (x, px) in row.chunks_exact_mut(3).enumerate() {
            let t = ((x as f32 / w - 0.5) * cos + v + 0.5).clamp(0.0, 1.0);
            let gain = ((1.0 - depth * t * t) * 256.0) as u32;
            for c in px {
                *c = ((u32::from(*c) * gain) >> 8) as u8;
            }
        }
    }
}

/// A three-tap blur along rows, then along columns; its variance is that of a Gaussian of `sigma`
/// px (up to 0.8 px a pass; passes are repeated for more).
fn soften(canvas: &mut Canvas, sigma: f32) {
    let passes = (sigma * sigma / 0.5).ceil().clamp(1.0, 8.0) as usize;
    // Weights (s, 1 - 2 s, s) have the variance 2 s.
    let side = ((sigma * sigma / passes as f32 / 2.0).min(0.33) * 256.0) as u32;
    let row = canvas.width as usize * 3;
    let mix = |a: u8, b: u8, c: u8| {
        ((u32::from(b) * (256 - 2 * side) + (u32::from(a) + u32::from(c)) * side + 128) >> 8) as u8
    };
    let mut copy = canvas.pixels.clone();
    for _ in 0..passes {
        for (out, line) in copy
            .chunks_exact_mut(row)
            .zip(canvas.pixels.chunks_exact(row))
        {
            for (i, o) in out
                .iter_mut()
                .enumerate()
                .take(row.saturating_sub(3))
                .skip(3)
            {
                *o = mix(line[i - 3], line[i], line[i + 3]);
            }
        }
        let total = canvas.pixels.len();
        for (i, o) in canvas
            .pixels
            .iter_mut()
            .enumerate()
            .take(total.saturating_sub(row))
            .skip(row)
        {
            *o = mix(copy[i - row], copy[i], copy[i + row]);
        }
    }
}

/// Adds noise of standard deviation `sigma`, the same in the three channels for two pixels of three
/// (grain) and apart for the rest (sensor noise).
fn add_noise(pixels: &mut [u8], sigma: f32, seed: u64) {
    // The sum of four bytes has the standard deviation 147.8.
    let scale = (sigma / 147.8 * 4096.0) as i32;
    let mut state = seed | 1;
    for px in pixels.chunks_exact_mut(3) {
        // xorshift64*: fast, and good enough to look at.
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        let [a, b, c, d, e, f, ..] = state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes();
        let base = i32::from(a) + i32::from(b) + i32::from(c) + i32::from(d) - 510;
        let tint = [i32::from(e) - 128, 0, i32::from(f) - 128];
        for (value, t) in px.iter_mut().zip(tint) {
            *value = (i32::from(*value) + (((base + t) * scale) >> 12)).clamp(0, 255) as u8;
        }
    }
}

/// Encodes and decodes once. A failure of the coder leaves the picture as it was.
fn jpeg_pass(canvas: &mut Canvas, quality: u8) {
    let image = RgbImage {
        width: canvas.width as usize,
        height: canvas.height as usize,
        data: std::mem::take(&mut canvas.pixels),
    };
    let coded = encode_jpeg(&image, quality)
        .and_then(|file| decode_bytes(&file, Path::new("page.jpg"), &DecodeLimits::default()))
        .ok()
        .filter(|coded| coded.data.len() == image.data.len());
    canvas.pixels = coded.unwrap_or(image).data;
}
