//! JPEG, with the arithmetic of libjpeg-turbo (integer IDCT, fancy upsampling) that PIL uses.

use libjpeg_turbo_rs as turbo;
use turbo::{Decoder, JpegError, PixelFormat};

use super::{CodecError, cmyk_to_rgb, gray_to_rgb};
use crate::{DecodeLimits, RgbImage};

/// More scans than any encoder writes; each one walks the whole picture, whatever its bytes.
const MAX_SCANS: usize = 256;

pub(crate) fn decode(bytes: &[u8], limits: &DecodeLimits) -> Result<RgbImage, CodecError> {
    if !has_end_marker(bytes) {
        return Err(CodecError::Truncated("the end marker is missing".into()));
    }
    let limits = turbo::DecodeLimits {
        max_width: limits.max_side as usize,
        max_height: limits.max_side as usize,
        max_pixels: limits.max_pixels,
        max_scans: MAX_SCANS,
        max_memory: None,
    };
    let decoder = Decoder::new_with_limits(bytes, limits)?;
    if decoder.header().precision != 8 {
        return Err(CodecError::Unsupported(format!(
            "{} bits a sample",
            decoder.header().precision
        )));
    }
    // The library takes a black plane for one of full size.
    if let [full, .., black] = &*decoder.header().components
        && decoder.header().components.len() == 4
        && sampling(black) != sampling(full)
    {
        return Err(CodecError::Unsupported(
            "a black plane with fewer samples than the cyan one".into(),
        ));
    }
    let image = decoder.decode_image()?;
    let (width, height) = (image.width, image.height);
    let data = match image.pixel_format {
        PixelFormat::Rgb => image.data,
        PixelFormat::Grayscale => gray_to_rgb(image.data),
        // PIL takes every four-channel JPEG as inverted, with or without an Adobe marker.
        PixelFormat::Cmyk => cmyk_to_rgb(&image.data, true),
        other => return Err(CodecError::Unsupported(format!("{other:?} pixels"))),
    };
    Ok(RgbImage {
        width,
        height,
        data,
    })
}

/// Samples of a component in a block, across and down.
fn sampling(component: &turbo::common::types::ComponentInfo) -> (u8, u8) {
    (component.horizontal_sampling, component.vertical_sampling)
}

/// Whether an end-of-image marker follows the picture data.
///
/// A decoder can complete every row of a file that lost its last few bytes; PIL calls that file
/// truncated, and so do we. Inside picture data 0xFF is always followed by 0 or a restart marker.
fn has_end_marker(bytes: &[u8]) -> bool {
    let start_of_scan = bytes.windows(2).position(|pair| pair == [0xFF, 0xDA]);
    let Some(data) = start_of_scan.and_then(|at| bytes.get(at..)) else {
        return true; // No scan at all: the decoder says so better.
    };
    data.windows(2).rev().any(|pair| pair == [0xFF, 0xD9])
}

impl From<JpegError> for CodecError {
    fn from(error: JpegError) -> Self {
        match error {
            JpegError::UnexpectedEof => Self::Truncated("the picture data ends too early".into()),
            JpegError::Unsupported(what) => Self::Unsupported(what),
            JpegError::LimitExceeded {
                what,
                actual,
                limit,
            } => Self::TooLarge {
                what,
                got: actual,
                limit,
            },
            JpegError::Io(error) => error.into(),
            other => Self::Corrupt(other.to_string()),
        }
    }
}
