//! The picture type that everything here takes and gives.

use crate::ImageError;

/// A picture of 8-bit RGB pixels.
///
/// # Shapes
///
/// `data` is `[height, width, 3]`, rows from the top, no padding.
#[derive(Clone, PartialEq, Eq)]
pub struct RgbImage {
    /// Width, px, at least 1.
    pub width: usize,
    /// Height, px, at least 1.
    pub height: usize,
    /// `height * width * 3` bytes.
    pub data: Vec<u8>,
}

impl RgbImage {
    /// Takes `data` as a picture of `width` x `height` px.
    ///
    /// # Errors
    ///
    /// [`ImageError::BadSize`] for a side of 0, [`ImageError::BufferLength`] where `data` has not
    /// `height * width * 3` bytes.
    pub fn new(width: usize, height: usize, data: Vec<u8>) -> Result<Self, ImageError> {
        let image = Self {
            width,
            height,
            data,
        };
        image.check()?;
        Ok(image)
    }

    /// A picture of one colour. A side of 0 is taken as 1.
    pub fn filled(width: usize, height: usize, colour: [u8; 3]) -> Self {
        let (width, height) = (width.max(1), height.max(1));
        Self {
            width,
            height,
            data: colour.repeat(width * height),
        }
    }

    /// The pixel at column `x`, row `y`, or `None` outside the picture.
    pub fn pixel(&self, x: usize, y: usize) -> Option<[u8; 3]> {
        if x >= self.width || y >= self.height {
            return None;
        }
        let at = (y * self.width + x) * 3;
        self.data.get(at..at + 3)?.try_into().ok()
    }

    /// A part of the picture, which must lie inside.
    pub(crate) fn crop(&self, part: crate::Rect) -> Self {
        let mut data = Vec::with_capacity(part.width * part.height * 3);
        for y in part.top..part.top + part.height {
            data.extend_from_slice(&self.row(y)[part.left * 3..(part.left + part.width) * 3]);
        }
        Self {
            width: part.width,
            height: part.height,
            data,
        }
    }

    /// The bytes of row `y`, which must be inside the picture.
    pub(crate) fn row(&self, y: usize) -> &[u8] {
        &self.data[y * self.width * 3..(y + 1) * self.width * 3]
    }

    /// Checks that the public fields agree, since anyone may set them.
    ///
    /// # Errors
    ///
    /// As [`RgbImage::new`].
    pub fn check(&self) -> Result<(), ImageError> {
        let (width, height) = (self.width, self.height);
        let expected = width.checked_mul(height).and_then(|n| n.checked_mul(3));
        match expected {
            None | Some(0) => Err(ImageError::BadSize { width, height }),
            Some(expected) if expected != self.data.len() => Err(ImageError::BufferLength {
                got: self.data.len(),
                expected,
                width,
                height,
            }),
            Some(_) => Ok(()),
        }
    }
}

impl std::fmt::Debug for RgbImage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "RgbImage({}x{}, {} bytes)",
            self.width,
            self.height,
            self.data.len()
        )
    }
}
