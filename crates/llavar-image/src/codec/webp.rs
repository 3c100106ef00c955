//! WebP.

use std::io::Cursor;

use image_webp::{DecodingError, WebPDecoder};

use super::{CodecError, keep_rgb};
use crate::RgbImage;

pub(crate) fn decode(bytes: &[u8]) -> Result<RgbImage, CodecError> {
    // The container says how long it is; some decoders fill in what is missing.
    let stated = bytes
        .get(4..8)
        .and_then(|b| b.try_into().ok())
        .map(u32::from_le_bytes);
    let stated = u64::from(stated.ok_or_else(CodecError::header_ends)?) + 8;
    if stated > bytes.len() as u64 {
        let reason = format!("the file has {} of {stated} bytes", bytes.len());
        return Err(CodecError::Truncated(reason));
    }
    let mut decoder = WebPDecoder::new(Cursor::new(bytes))?;
    let (width, height) = decoder.dimensions();
    let size = decoder
        .output_buffer_size()
        .ok_or_else(|| CodecError::Corrupt("the picture does not fit in memory".into()))?;
    let mut data = vec![0; size];
    if decoder.is_animated() {
        decoder.read_frame(&mut data)?;
    } else {
        decoder.read_image(&mut data)?;
    }
    let data = if decoder.has_alpha() {
        keep_rgb(&data, 4)
    } else {
        data
    };
    Ok(RgbImage {
        width: width as usize,
        height: height as usize,
        data,
    })
}

impl From<DecodingError> for CodecError {
    fn from(error: DecodingError) -> Self {
        match error {
            DecodingError::IoError(error) => error.into(),
            DecodingError::UnsupportedFeature(what) => Self::Unsupported(what),
            other => Self::Corrupt(other.to_string()),
        }
    }
}
