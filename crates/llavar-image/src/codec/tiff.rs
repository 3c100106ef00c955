//! TIFF: the first page.

use std::io::{BufRead, Cursor, Read, Seek, SeekFrom};

use tiff::decoder::{BufferLayoutPreference, Decoder, DecodingResult, Limits};
use tiff::tags::Tag;
use tiff::{ColorType, TiffError};

use super::{CodecError, cmyk_to_rgb, gray_to_rgb, keep_rgb};
use crate::{DecodeLimits, RgbImage};

/// Value of the photometric tag for indices into a colour map.
const PALETTE: u16 = 3;

/// Width and height, px, of the first page as it is to be seen.
pub(crate) fn dimensions<R: BufRead + Seek>(reader: &mut R) -> Result<(u32, u32), CodecError> {
    reader.seek(SeekFrom::Start(0))?;
    let mut decoder = Decoder::new(reader.by_ref())?;
    let (width, height) = decoder.dimensions()?;
    Ok(if orientation(&mut decoder) >= 5 {
        (height, width)
    } else {
        (width, height)
    })
}

pub(crate) fn decode(bytes: &[u8], limits: &DecodeLimits) -> Result<RgbImage, CodecError> {
    let mut decoder = Decoder::new(Cursor::new(bytes))?;
    if decoder.find_tag_unsigned::<u16>(Tag::PhotometricInterpretation)? == Some(PALETTE) {
        // The crate refuses colour maps; their indices can be read as gray levels.
        let map = decoder.get_tag_u16_vec(Tag::ColorMap)?;
        return decode_page(&indices_as_gray(bytes)?, limits, Some(&map));
    }
    decode_page(bytes, limits, None)
}

fn decode_page(
    bytes: &[u8],
    limits: &DecodeLimits,
    colour_map: Option<&[u16]>,
) -> Result<RgbImage, CodecError> {
    // Four channels of 8 bytes are the most that a pixel takes.
    let most = usize::try_from(limits.max_pixels.saturating_mul(32)).unwrap_or(usize::MAX);
    let mut caps = Limits::default();
    caps.decoding_buffer_size = most;
    caps.intermediate_buffer_size = most;
    let mut decoder = Decoder::new(Cursor::new(bytes))?.with_limits(caps);
    let (width, height) = decoder.dimensions()?;
    let (width, height) = (width as usize, height as usize);
    let color = decoder.colortype()?;
    let mut result = DecodingResult::U8(Vec::new());
    let layout = decoder.read_image_to_buffer(&mut result)?;
    let samples = interleaved(to_bytes(result, color)?, &layout, color, width)?;
    let data = match (color, colour_map) {
        (ColorType::Gray(bits @ 1..=8), Some(map)) => {
            let colours = colours(map, bits)?;
            unpack(&samples, bits, width, height)
                .flat_map(|i| colours[usize::from(i)])
                .collect()
        }
        (ColorType::Gray(bits @ 1..=7), None) => {
            let white = (1u16 << bits) - 1;
            let scaled = unpack(&samples, bits, width, height);
            gray_to_rgb(scaled.map(|v| (u16::from(v) * 255 / white) as u8))
        }
        (ColorType::Gray(_), None) => gray_to_rgb(samples),
        (
            ColorType::GrayA(_)
            | ColorType::Multiband {
                num_samples: 2,
                bit_depth: 8..,
            },
            None,
        ) => gray_to_rgb(samples.chunks_exact(2).map(|v| v[0])),
        (ColorType::RGB(8..), None) => samples,
        (ColorType::RGBA(8..), None) => keep_rgb(&samples, 4),
        (ColorType::CMYK(8), None) => cmyk_to_rgb(&samples, false),
        (ColorType::YCbCr(8), None) => ycbcr_to_rgb(&samples),
        (other, _) => return Err(CodecError::Unsupported(format!("{other:?} pixels"))),
    };
    let image = RgbImage {
        width,
        height,
        data,
    };
    Ok(oriented(image, orientation(&mut decoder)))
}

/// A copy of the file whose first page says gray instead of colour map.
fn indices_as_gray(bytes: &[u8]) -> Result<Vec<u8>, CodecError> {
    let little = bytes.starts_with(b"II");
    let unsigned = |at: usize, len: usize| -> Option<usize> {
        let field = bytes.get(at..at.checked_add(len)?)?;
        let join = |v: usize, &byte: &u8| v << 8 | usize::from(byte);
        Some(if little {
            field.iter().rev().fold(0, join)
        } else {
            field.iter().fold(0, join)
        })
    };
    let entry = || -> Option<usize> {
        if unsigned(2, 2)? != 42 {
            return None; // A 64-bit file.
        }
        let directory = unsigned(4, 4)?;
        let mut entries = (0..unsigned(directory, 2)?).map(|i| directory + 2 + 12 * i);
        entries.find(|&at| unsigned(at, 2) == Some(262))
    };
    let at = entry().ok_or_else(|| CodecError::Unsupported("a colour map here".into()))?;
    let mut copy = bytes.to_vec();
    let value = if little { [1, 0] } else { [0, 1] };
    copy.get_mut(at + 8..at + 10)
        .ok_or_else(CodecError::header_ends)?
        .copy_from_slice(&value);
    Ok(copy)
}

/// The orientation tag, 1 to 8; 1 where there is none.
fn orientation<R: Read + Seek>(decoder: &mut Decoder<R>) -> u16 {
    let tag = decoder.find_tag_unsigned::<u16>(Tag::Orientation);
    tag.ok()
        .flatten()
        .filter(|value| (1..=8).contains(value))
        .unwrap_or(1)
}

/// Turns and mirrors as the tag says: for TIFF alone PIL does so while loading.
fn oriented(image: RgbImage, orientation: u16) -> RgbImage {
    if orientation == 1 {
        return image;
    }
    let (width, height) = (image.width, image.height);
    let swap = orientation >= 5;
    let (out_width, out_height) = if swap {
        (height, width)
    } else {
        (width, height)
    };
    let mut data = Vec::with_capacity(image.data.len());
    for y in 0..out_height {
        for x in 0..out_width {
            let (column, row) = if swap { (y, x) } else { (x, y) };
            let column = if matches!(orientation, 2 | 3 | 7 | 8) {
                width - 1 - column
            } else {
                column
            };
            let row = if matches!(orientation, 3 | 4 | 6 | 7) {
                height - 1 - row
            } else {
                row
            };
            let at = (row * width + column) * 3;
            data.extend_from_slice(&image.data[at..at + 3]);
        }
    }
    RgbImage {
        width: out_width,
        height: out_height,
        data,
    }
}

/// Samples to bytes as PIL has them: wide gray (modes `I;16`, `I`, `F`) is clipped to 0..=255,
/// 16-bit colour keeps its high byte.
fn to_bytes(result: DecodingResult, color: ColorType) -> Result<Vec<u8>, CodecError> {
    use DecodingResult::{F32, F64, I16, I32, U8, U16, U32};
    let gray = matches!(color, ColorType::Gray(_));
    Ok(match result {
        U8(v) => v,
        U16(v) if gray => v.into_iter().map(|v| v.min(255) as u8).collect(),
        U16(v) => v.into_iter().map(|v| (v >> 8) as u8).collect(),
        U32(v) if gray => v.into_iter().map(|v| v.min(255) as u8).collect(),
        I16(v) if gray => v.into_iter().map(|v| v.clamp(0, 255) as u8).collect(),
        I32(v) if gray => v.into_iter().map(|v| v.clamp(0, 255) as u8).collect(),
        // A float cast saturates, and takes NaN as 0.
        F32(v) if gray => v.into_iter().map(|v| v as u8).collect(),
        F64(v) if gray => v.into_iter().map(|v| v as u8).collect(),
        _ => {
            return Err(CodecError::Unsupported(format!(
                "{color:?} pixels in this sample type"
            )));
        }
    })
}

/// Joins separately stored planes; pixel-interleaved data passes through.
fn interleaved(
    samples: Vec<u8>,
    layout: &BufferLayoutPreference,
    color: ColorType,
    width: usize,
) -> Result<Vec<u8>, CodecError> {
    if layout.planes <= 1 {
        return Ok(samples);
    }
    let planes = layout.planes;
    if planes != usize::from(color.num_samples()) || color.bit_depth() < 8 || width == 0 {
        return Err(CodecError::Unsupported(format!(
            "{color:?} in {planes} planes"
        )));
    }
    let plane = samples.len() / planes;
    let pixels = 0..plane;
    Ok(pixels
        .flat_map(|i| (0..planes).map(move |p| p * plane + i))
        .map(|i| samples[i])
        .collect())
}

/// Values of 1 to 8 bits, rows padded to whole bytes; missing bytes read as 0.
fn unpack(packed: &[u8], bits: u8, width: usize, height: usize) -> impl Iterator<Item = u8> {
    let bits = usize::from(bits);
    let stride = (width * bits).div_ceil(8);
    (0..height).flat_map(move |y| {
        (0..width).map(move |x| {
            let (byte, offset) = (y * stride + x * bits / 8, x * bits % 8);
            let at = |i: usize| u16::from(packed.get(i).copied().unwrap_or(0));
            let pair = at(byte) << 8 | at(byte + 1);
            ((pair >> (16 - offset - bits)) & ((1 << bits) - 1)) as u8
        })
    })
}

/// The colour map (all reds, all greens, all blues, 16 bit) as 8-bit colours.
fn colours(map: &[u16], bits: u8) -> Result<[[u8; 3]; 256], CodecError> {
    let count = 1usize << bits;
    if map.len() < 3 * count {
        let reason = format!(
            "a colour map of {} values, expected {}",
            map.len(),
            3 * count
        );
        return Err(CodecError::Corrupt(reason));
    }
    let mut colours = [[0; 3]; 256];
    for (i, colour) in colours.iter_mut().enumerate().take(count) {
        *colour = [map[i], map[count + i], map[2 * count + i]].map(|v| (v >> 8) as u8);
    }
    Ok(colours)
}

/// Full-range BT.601, as libjpeg and libtiff have it.
fn ycbcr_to_rgb(samples: &[u8]) -> Vec<u8> {
    let pixel = |p: &[u8]| {
        let (y, cb, cr) = (
            f32::from(p[0]),
            f32::from(p[1]) - 128.0,
            f32::from(p[2]) - 128.0,
        );
        let rgb = [
            y + 1.402 * cr,
            y - 0.344_136 * cb - 0.714_136 * cr,
            y + 1.772 * cb,
        ];
        rgb.map(|v| v.round() as u8)
    };
    samples.chunks_exact(3).flat_map(pixel).collect()
}

impl From<TiffError> for CodecError {
    fn from(error: TiffError) -> Self {
        match error {
            TiffError::IoError(error) => error.into(),
            TiffError::UnsupportedError(what) => Self::Unsupported(what.to_string()),
            other => Self::Corrupt(other.to_string()),
        }
    }
}
