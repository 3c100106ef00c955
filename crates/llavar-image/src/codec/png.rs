//! PNG.

use std::io::Cursor;

use png::{BitDepth, ColorType, Decoder, DecodingError, Limits, Transformations};

use super::{CodecError, gray_to_rgb, keep_rgb};
use crate::RgbImage;

/// What the chunks other than the picture may take together, bytes.
const CHUNK_BYTES: usize = 64 << 20;

pub(crate) fn decode(bytes: &[u8]) -> Result<RgbImage, CodecError> {
    let mut decoder = Decoder::new_with_limits(Cursor::new(bytes), Limits { bytes: CHUNK_BYTES });
    // Compressed text and colour profiles are not needed, and can be bombs of their own.
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    let header = decoder.read_header_info()?;
    // PIL keeps 16-bit gray as such and clips it later, but takes the high byte of everything else.
    let gray16 = header.color_type == ColorType::Grayscale && header.bit_depth == BitDepth::Sixteen;
    let strip = if gray16 {
        Transformations::IDENTITY
    } else {
        Transformations::STRIP_16
    };
    let expand = if gray16 {
        Transformations::IDENTITY
    } else {
        Transformations::EXPAND
    };
    decoder.set_transformations(strip | expand);
    let mut reader = decoder.read_info()?;
    let size = reader
        .output_buffer_size()
        .ok_or_else(|| CodecError::Corrupt("the picture does not fit in memory".into()))?;
    let mut data = vec![0; size];
    let info = reader.next_frame(&mut data)?;
    // Reads on to the end chunk, so that a file cut off after its pixels is found too.
    reader.finish()?;
    data.truncate(info.buffer_size());
    let data = match (info.color_type, info.bit_depth) {
        (ColorType::Grayscale, BitDepth::Sixteen) => gray_to_rgb(
            data.chunks_exact(2)
                .map(|v| if v[0] > 0 { 255 } else { v[1] }),
        ),
        (ColorType::Grayscale, _) => gray_to_rgb(data),
        (ColorType::GrayscaleAlpha, _) => gray_to_rgb(data.chunks_exact(2).map(|v| v[0])),
        (ColorType::Rgb, _) => data,
        (ColorType::Rgba, _) => keep_rgb(&data, 4),
        (ColorType::Indexed, _) => return Err(CodecError::Corrupt("no palette".into())),
    };
    Ok(RgbImage {
        width: info.width as usize,
        height: info.height as usize,
        data,
    })
}

impl From<DecodingError> for CodecError {
    fn from(error: DecodingError) -> Self {
        match error {
            DecodingError::IoError(error) => error.into(),
            other => Self::Corrupt(other.to_string()),
        }
    }
}
