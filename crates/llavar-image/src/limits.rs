//! What is refused before any pixel is allocated.

use std::path::Path;

use crate::ImageError;

/// Limits that a header must keep before its picture is decoded.
///
/// A decode holds at most about 8 bytes a pixel at a time (a progressive JPEG's coefficients plus
/// its RGB bytes), so the default allows 1.5 GB in the worst case; servers should set less.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeLimits {
    /// Most pixels (width x height). Default 178,956,970, where PIL refuses a picture as a bomb.
    pub max_pixels: u64,
    /// Longest width or height, px. Default 65,535, the most that a JPEG can have.
    pub max_side: u32,
    /// Largest file, bytes. Default 256 MiB.
    pub max_file_bytes: u64,
}

impl Default for DecodeLimits {
    fn default() -> Self {
        Self {
            max_pixels: 178_956_970,
            max_side: 65_535,
            max_file_bytes: 256 << 20,
        }
    }
}

impl DecodeLimits {
    /// Refuses a picture of `width` x `height` px that passes a limit.
    ///
    /// # Errors
    ///
    /// [`ImageError::TooLarge`] with the first limit that is passed.
    pub fn check_size(&self, path: &Path, width: u32, height: u32) -> Result<(), ImageError> {
        let pixels = u64::from(width) * u64::from(height);
        self.check(path, "pixels", pixels, self.max_pixels)?;
        self.check(path, "width", u64::from(width), u64::from(self.max_side))?;
        self.check(path, "height", u64::from(height), u64::from(self.max_side))
    }

    /// Refuses a file of more bytes than allowed.
    pub(crate) fn check_bytes(&self, path: &Path, bytes: u64) -> Result<(), ImageError> {
        self.check(path, "file bytes", bytes, self.max_file_bytes)
    }

    fn check(
        &self,
        path: &Path,
        what: &'static str,
        got: u64,
        limit: u64,
    ) -> Result<(), ImageError> {
        if got > limit {
            return Err(ImageError::TooLarge {
                path: path.to_path_buf(),
                what,
                got,
                limit,
            });
        }
        Ok(())
    }
}
