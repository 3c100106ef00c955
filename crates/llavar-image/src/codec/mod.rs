//! One file a format: bytes to RGB at PIL's pixels, and what they share.

pub(crate) mod bmp;
pub(crate) mod gif;
pub(crate) mod jpeg;
pub(crate) mod png;
pub(crate) mod tiff;
pub(crate) mod webp;

use std::path::Path;

use crate::{ImageError, ImageFormat};

/// What a decoder has to say, before the file's name is added.
#[derive(Debug)]
pub(crate) enum CodecError {
    Truncated(String),
    Corrupt(String),
    Unsupported(String),
    TooLarge {
        what: &'static str,
        got: u64,
        limit: u64,
    },
}

impl CodecError {
    pub(crate) fn header_ends() -> Self {
        Self::Truncated("the file ends inside the header".into())
    }

    /// The error of the file at `path`.
    pub(crate) fn at(self, path: &Path, format: ImageFormat) -> ImageError {
        let path = path.to_path_buf();
        match self {
            Self::Truncated(reason) => ImageError::Truncated {
                path,
                format,
                reason,
            },
            Self::Corrupt(reason) => ImageError::Corrupt {
                path,
                format,
                reason,
            },
            Self::Unsupported(reason) => ImageError::Unsupported {
                path,
                format,
                reason,
            },
            Self::TooLarge { what, got, limit } => ImageError::TooLarge {
                path,
                what,
                got,
                limit,
            },
        }
    }
}

/// Every decoder reads from memory, so an I/O error there can only be an early end or bad content.
impl From<std::io::Error> for CodecError {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::UnexpectedEof => Self::Truncated("the file ends too early".into()),
            _ => Self::Corrupt(error.to_string()),
        }
    }
}

/// `[n]` gray bytes to `[n, 3]`.
pub(crate) fn gray_to_rgb(gray: impl IntoIterator<Item = u8>) -> Vec<u8> {
    gray.into_iter().flat_map(|v| [v; 3]).collect()
}

/// Keeps the first three of every `channels` values.
pub(crate) fn keep_rgb(data: &[u8], channels: usize) -> Vec<u8> {
    let mut rgb = Vec::with_capacity(data.len() / channels * 3);
    for pixel in data.chunks_exact(channels) {
        rgb.extend_from_slice(&pixel[..3]);
    }
    rgb
}

/// CMYK (255 = full ink) to RGB as PIL's `convert("RGB")`: `nk - c * nk / 255`, rounded, with
/// `nk = 255 - k`. `inverted` means that 0 is full ink, as JPEG files have it.
pub(crate) fn cmyk_to_rgb(cmyk: &[u8], inverted: bool) -> Vec<u8> {
    let flip = if inverted { 255 } else { 0 };
    let mut rgb = Vec::with_capacity(cmyk.len() / 4 * 3);
    for pixel in cmyk.chunks_exact(4) {
        let not_black = 255 - u32::from(pixel[3] ^ flip);
        for &ink in &pixel[..3] {
            let product = u32::from(ink ^ flip) * not_black + 128;
            let covered = ((product >> 8) + product) >> 8;
            rgb.push(not_black.saturating_sub(covered) as u8);
        }
    }
    rgb
}
