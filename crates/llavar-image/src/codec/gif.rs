//! GIF: the first frame.

use std::io::Cursor;
use std::num::NonZeroU64;

use gif::{ColorOutput, DecodeOptions, DecodingError, MemoryLimit};

use super::CodecError;
use crate::{DecodeLimits, RgbImage};

pub(crate) fn decode(bytes: &[u8], limits: &DecodeLimits) -> Result<RgbImage, CodecError> {
    check_end(bytes)?;
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::Indexed);
    options.allow_unknown_blocks(true);
    if let Some(most) = NonZeroU64::new(limits.max_pixels) {
        options.set_memory_limit(MemoryLimit::Bytes(most));
    }
    let mut decoder = options.read_info(Cursor::new(bytes))?;
    let (screen_width, screen_height) =
        (usize::from(decoder.width()), usize::from(decoder.height()));
    let global = decoder.global_palette().map(<[u8]>::to_vec);
    let frame = decoder
        .read_next_frame()?
        .ok_or_else(|| CodecError::Corrupt("there is no frame".into()))?;
    let (left, top) = (usize::from(frame.left), usize::from(frame.top));
    let (frame_width, frame_height) = (usize::from(frame.width), usize::from(frame.height));

    // As PIL: a frame that reaches beyond the screen enlarges it, and what the frame does not cover
    // has the transparent index, or index 0.
    let width = screen_width.max(left + frame_width);
    let height = screen_height.max(top + frame_height);
    if (width * height) as u64 > limits.max_pixels {
        let got = (width * height) as u64;
        return Err(CodecError::TooLarge {
            what: "pixels",
            got,
            limit: limits.max_pixels,
        });
    }
    let colours = colours(
        frame
            .palette
            .as_deref()
            .or(global.as_deref())
            .unwrap_or_default(),
    );
    let background = colours[usize::from(frame.transparent.unwrap_or(0))];
    let mut image = RgbImage::filled(width, height, background);
    if frame_width == 0 || frame_height == 0 {
        return Ok(image);
    }
    let rows = image.data.chunks_exact_mut(width * 3).skip(top);
    for (row, indices) in rows.zip(frame.buffer.chunks_exact(frame_width)) {
        for (pixel, &index) in row[left * 3..].chunks_exact_mut(3).zip(indices) {
            pixel.copy_from_slice(&colours[usize::from(index)]);
        }
    }
    Ok(image)
}

/// 256 colours: those of the palette, then black.
fn colours(palette: &[u8]) -> [[u8; 3]; 256] {
    let mut colours = [[0; 3]; 256];
    for (colour, rgb) in colours.iter_mut().zip(palette.chunks_exact(3)) {
        colour.copy_from_slice(rgb);
    }
    colours
}

/// Follows the blocks to the trailer, so that a file cut off in a later frame is found too.
fn check_end(bytes: &[u8]) -> Result<(), CodecError> {
    let byte = |at: usize| bytes.get(at).copied().ok_or_else(CodecError::cut_gif);
    let table = |flags: u8| {
        if flags & 0x80 == 0 {
            0
        } else {
            3usize << ((flags & 7) + 1)
        }
    };
    let mut at = 13 + table(byte(10)?);
    loop {
        match byte(at)? {
            0x2C => at += 11 + table(byte(at + 9)?),
            0x21 => at += 2,
            // The trailer; what follows unknown bytes is left to the decoder.
            _ => return Ok(()),
        }
        loop {
            let len = usize::from(byte(at)?);
            at += 1 + len;
            if len == 0 {
                break;
            }
        }
    }
}

impl CodecError {
    fn cut_gif() -> Self {
        Self::Truncated("the file ends before its trailer".into())
    }
}

impl From<DecodingError> for CodecError {
    fn from(error: DecodingError) -> Self {
        match error {
            DecodingError::Io(error) => error.into(),
            other => Self::Corrupt(other.to_string()),
        }
    }
}
