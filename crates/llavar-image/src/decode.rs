//! From encoded bytes to RGB.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use crate::codec::{self, CodecError};
use crate::{DecodeLimits, ImageError, ImageFormat, RgbImage, probe_bytes, source};

/// Decodes the file at `path` as `Image.open(path).convert("RGB")` of PIL does: alpha is dropped
/// without blending, 16-bit gray is clipped at 255 while 16-bit colour keeps its high byte, CMYK
/// goes through PIL's formula, and the EXIF orientation is not applied.
///
/// A file that is cut off or breaks its format is an error, never half a picture.
///
/// # Errors
///
/// Every [`ImageError`] of a file that cannot be opened, passes `limits` or cannot be decoded.
///
/// # Source
///
/// PIL 10 to 13, `Image.convert` and the plugins of the six formats.
pub fn decode_file(path: &Path, limits: &DecodeLimits) -> Result<RgbImage, ImageError> {
    decode_bytes(&source::read(path, limits)?, path, limits)
}

/// Decodes an encoded picture in memory, as [`decode_file`] does; `name` stands for it in errors.
///
/// # Errors
///
/// As [`decode_file`], without those of opening a file.
pub fn decode_bytes(
    bytes: &[u8],
    name: &Path,
    limits: &DecodeLimits,
) -> Result<RgbImage, ImageError> {
    limits.check_bytes(name, bytes.len() as u64)?;
    let info = probe_bytes(bytes, name)?;
    limits.check_size(name, info.width, info.height)?;
    let decoded = guarded(|| match info.format {
        ImageFormat::Jpeg => codec::jpeg::decode(bytes, limits),
        ImageFormat::Png => codec::png::decode(bytes),
        ImageFormat::WebP => codec::webp::decode(bytes),
        ImageFormat::Gif => codec::gif::decode(bytes, limits),
        ImageFormat::Bmp => codec::bmp::decode(bytes),
        ImageFormat::Tiff => codec::tiff::decode(bytes, limits),
    });
    let image = decoded.map_err(|e| e.at(name, info.format))?;
    image
        .check()
        .map_err(|e| CodecError::Corrupt(e.to_string()).at(name, info.format))?;
    Ok(image)
}

/// Runs a decoder; a panic inside it becomes the error of a corrupt file.
fn guarded(decode: impl FnOnce() -> Result<RgbImage, CodecError>) -> Result<RgbImage, CodecError> {
    // Nothing is shared with the decoder but the bytes, so a panic leaves no broken state behind.
    catch_unwind(AssertUnwindSafe(decode)).unwrap_or_else(|payload| {
        let message = payload
            .downcast_ref::<&str>()
            .map(|s| (*s).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_default();
        Err(CodecError::Corrupt(format!(
            "the decoder gave up: {message}"
        )))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panicking_decoder_is_an_error() {
        let result = guarded(|| panic!("index out of bounds"));
        assert!(
            matches!(&result, Err(CodecError::Corrupt(why)) if why.contains("index out of bounds")),
            "{result:?}"
        );
    }
}
