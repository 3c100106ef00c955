//! Halves of a picture, for a closer look.

use crate::{Rect, RgbImage};

impl RgbImage {
    /// Both halves along the longer side, of a square along its height: the upper or left one first. Each has
    /// nine sixteenths of that side, so that what a cut goes through is whole in the other half, up to an
    /// eighth of the side.
    pub fn halves(&self) -> [Self; 2] {
        let upright = self.height >= self.width;
        let side = if upright { self.height } else { self.width };
        let length = side - side * 7 / 16;
        [0, side - length].map(|from| {
            let mut part = Rect {
                left: 0,
                top: 0,
                width: self.width,
                height: self.height,
            };
            if upright {
                (part.top, part.height) = (from, length);
            } else {
                (part.left, part.width) = (from, length);
            }
            self.crop(part)
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::RgbImage;

    /// A picture that says where each pixel came from.
    fn numbered(width: usize, height: usize) -> RgbImage {
        let pixels = (0..width * height).flat_map(|i| {
            let (x, y) = (i % width, i / width);
            [x as u8, y as u8, (x / 256 * 16 + y / 256) as u8]
        });
        RgbImage::new(width, height, pixels.collect()).unwrap()
    }

    #[test]
    fn halves_lie_at_both_ends_of_the_longer_side_and_overlap_by_an_eighth() {
        for (width, height) in [
            (754, 1000),
            (1000, 754),
            (64, 64),
            (16, 17),
            (3, 2),
            (1, 1),
            (1, 40),
        ] {
            let image = numbered(width, height);
            let [first, second] = image.halves();
            for half in [&first, &second] {
                half.check().unwrap();
            }
            let upright = height >= width;
            let side = if upright { height } else { width };
            let length = |half: &RgbImage| if upright { half.height } else { half.width };
            assert_eq!(length(&first), length(&second));
            let (length, other) = (length(&first), side - length(&first));
            assert_eq!(length, (side * 9).div_ceil(16), "{width} x {height}");
            // The first begins where the picture does, the second ends with it, and none is moved aside.
            let corner = if upright { (0, other) } else { (other, 0) };
            assert_eq!(first.pixel(0, 0), image.pixel(0, 0));
            assert_eq!(second.pixel(0, 0), image.pixel(corner.0, corner.1));
            let last = second.pixel(second.width - 1, second.height - 1);
            assert_eq!(last, image.pixel(width - 1, height - 1));
        }
    }
}
