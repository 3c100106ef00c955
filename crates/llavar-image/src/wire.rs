//! Pictures as they are sent to servers.

use std::path::Path;

use crate::{DecodeLimits, ImageError, ImageFormat, decode_bytes, encode_png, probe_bytes};

/// A picture's file as every server reads it, with its media type: the bytes themselves where they are JPEG,
/// PNG, WebP or GIF, else as PNG. `name` is for messages.
///
/// # Errors
/// When the bytes are no picture or exceed the limits.
pub fn as_sent(
    bytes: Vec<u8>,
    name: &Path,
    limits: &DecodeLimits,
) -> Result<(&'static str, Vec<u8>), ImageError> {
    let mime = match probe_bytes(&bytes, name)?.format {
        ImageFormat::Jpeg => "image/jpeg",
        ImageFormat::Png => "image/png",
        ImageFormat::WebP => "image/webp",
        ImageFormat::Gif => "image/gif",
        ImageFormat::Bmp | ImageFormat::Tiff => {
            let image = decode_bytes(&bytes, name, limits)?;
            return Ok(("image/png", encode_png(&image)?));
        }
    };
    Ok((mime, bytes))
}
