//! A hash that stays nearly the same when a picture is scaled, compressed or slightly changed.

use llavar_image::{ImageError, RgbImage, resize};

/// Rows and bits a row. Documents are mostly white: the usual 8 x 8 bits would make many of them equal.
const SIDE: usize = 16;

/// Difference hash of 256 bits: whether brightness rises from one cell of a 17 x 16 grid to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageHash([u64; 4]);

impl ImageHash {
    /// Of a picture.
    ///
    /// # Errors
    /// For a picture without pixels.
    pub fn of(image: &RgbImage) -> Result<Self, ImageError> {
        let small = resize(image, SIDE + 1, SIDE)?;
        let grey = |pixel: &[u8]| {
            // Weights of ITU-R BT.601, in thousandths.
            299 * i32::from(pixel[0]) + 587 * i32::from(pixel[1]) + 114 * i32::from(pixel[2])
        };
        let grey: Vec<i32> = small.data.chunks_exact(3).map(grey).collect();
        let mut bits = [0u64; 4];
        for (y, row) in grey.chunks_exact(SIDE + 1).enumerate() {
            for (x, pair) in row.windows(2).enumerate() {
                let n = y * SIDE + x;
                // A step of less than one level is noise of an even area.
                bits[n / 64] |= u64::from(pair[1] > pair[0] + 1000) << (n % 64);
            }
        }
        Ok(Self(bits))
    }

    /// Bits that differ, 0 to 256.
    pub fn distance(&self, other: &Self) -> u32 {
        let pairs = self.0.iter().zip(&other.0);
        pairs.map(|(a, b)| (a ^ b).count_ones()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Dark bars of these columns on white.
    fn bars(width: usize, height: usize, columns: &[usize]) -> RgbImage {
        let mut image = RgbImage::filled(width, height, [250; 3]);
        for y in 0..height {
            for x in (0..width).filter(|x| columns.contains(&(x * 16 / width))) {
                image.data[(y * width + x) * 3..][..3].fill(20);
            }
        }
        image
    }

    #[test]
    fn scaled_pictures_stay_near_and_others_are_far() {
        let hash = |image: &RgbImage| ImageHash::of(image).unwrap();
        let a = hash(&bars(320, 200, &[2, 5, 6, 11]));
        let scaled = hash(&bars(160, 100, &[2, 5, 6, 11]));
        let other = hash(&bars(320, 200, &[1, 4, 9, 13]));
        assert!(a.distance(&scaled) <= 8, "{}", a.distance(&scaled));
        assert!(a.distance(&other) > 60, "{}", a.distance(&other));
    }
}
