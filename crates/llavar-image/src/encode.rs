//! Pictures out, for generated documents and report pages.

use libjpeg_turbo_rs::{PixelFormat, Subsampling, compress};

use crate::{ImageError, ImageFormat, RgbImage};

/// Encodes as PNG (8-bit RGB, fast compression); decoding gives the same pixels back.
///
/// # Errors
///
/// [`ImageError::BufferLength`] or [`ImageError::BadSize`] for a picture whose fields disagree,
/// [`ImageError::Encode`] for a side above 2^31 - 1 px.
pub fn encode_png(image: &RgbImage) -> Result<Vec<u8>, ImageError> {
    image.check()?;
    let failed = |reason: String| ImageError::Encode {
        format: ImageFormat::Png,
        reason,
    };
    let side = |n: usize| u32::try_from(n).map_err(|_| failed(format!("a side of {n} px")));
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, side(image.width)?, side(image.height)?);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Fast);
    let mut writer = encoder.write_header().map_err(|e| failed(e.to_string()))?;
    writer
        .write_image_data(&image.data)
        .map_err(|e| failed(e.to_string()))?;
    writer.finish().map_err(|e| failed(e.to_string()))?;
    Ok(file)
}

/// Encodes as baseline JPEG with 4:2:0 chroma, byte for byte as PIL's `save(quality=quality)`.
///
/// `quality` is 1 to 100 as in libjpeg; other values are taken as the nearest of these.
///
/// # Errors
///
/// [`ImageError::BufferLength`] or [`ImageError::BadSize`] for a picture whose fields disagree,
/// [`ImageError::Encode`] for a side above 65,500 px.
pub fn encode_jpeg(image: &RgbImage, quality: u8) -> Result<Vec<u8>, ImageError> {
    image.check()?;
    let quality = quality.clamp(1, 100);
    let (width, height) = (image.width, image.height);
    compress(
        &image.data,
        width,
        height,
        PixelFormat::Rgb,
        quality,
        Subsampling::S420,
    )
    .map_err(|e| ImageError::Encode {
        format: ImageFormat::Jpeg,
        reason: e.to_string(),
    })
}
