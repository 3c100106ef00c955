//! BMP: Windows and OS/2 headers, 1 to 32 bits, colour masks, both run-length codings.

use super::CodecError;
use crate::RgbImage;

/// Where things are in the file, and how pixels are coded.
struct Header<'a> {
    width: usize,
    height: usize,
    from_top: bool,
    bits: usize,
    coding: Coding,
    palette: [[u8; 3]; 256],
    pixels: &'a [u8],
}

enum Coding {
    Indexed,
    /// Masks of red, green and blue in a little-endian pixel.
    Masked([u32; 3]),
    RunLength,
}

pub(crate) fn decode(bytes: &[u8]) -> Result<RgbImage, CodecError> {
    let header = header(bytes)?;
    let (width, height) = (header.width, header.height);
    let mut image = RgbImage::filled(width, height, [0; 3]);
    if matches!(header.coding, Coding::RunLength) {
        run_length(&header, &mut image)?;
        return Ok(image);
    }
    let stride = (width * header.bits).div_ceil(32) * 4;
    // The last row may lack its padding.
    let needed = stride * (height - 1) + (width * header.bits).div_ceil(8);
    if header.pixels.len() < needed {
        let reason = format!("{} of {needed} bytes of pixels", header.pixels.len());
        return Err(CodecError::Truncated(reason));
    }
    for (i, source) in header.pixels.chunks(stride).take(height).enumerate() {
        let y = if header.from_top { i } else { height - 1 - i };
        let row = image.data[y * width * 3..(y + 1) * width * 3].chunks_exact_mut(3);
        match &header.coding {
            Coding::Masked(masks) => {
                let pixels = source.chunks_exact(header.bits / 8);
                for (rgb, pixel) in row.zip(pixels) {
                    let value = pixel
                        .iter()
                        .rev()
                        .fold(0, |v, &byte| v << 8 | u32::from(byte));
                    rgb.copy_from_slice(&masks.map(|mask| masked(value, mask)));
                }
            }
            _ => {
                for (x, rgb) in row.enumerate() {
                    let bit = x * header.bits;
                    let shift = 8 - header.bits - bit % 8;
                    let index = (source[bit / 8] >> shift) & (0xFF >> (8 - header.bits));
                    rgb.copy_from_slice(&header.palette[usize::from(index)]);
                }
            }
        }
    }
    Ok(image)
}

/// The bits of `value` under `mask`, scaled to 0..=255 and cut off, as PIL scales them.
fn masked(value: u32, mask: u32) -> u8 {
    if mask == 0 {
        return 0;
    }
    let shift = mask.trailing_zeros();
    (u64::from((value & mask) >> shift) * 255 / u64::from(mask >> shift)) as u8
}

fn header(bytes: &[u8]) -> Result<Header<'_>, CodecError> {
    let u16_at = |at| field(bytes, at).map(u16::from_le_bytes);
    let u32_at = |at| field(bytes, at).map(u32::from_le_bytes);
    let size = u32_at(14)? as usize;
    let old = size == 12;
    let (width, height, bits, compression, colours) = if old {
        (
            i32::from(u16_at(18)?),
            i32::from(u16_at(20)?),
            u16_at(24)?,
            0,
            0,
        )
    } else {
        let (width, height) = (u32_at(18)? as i32, u32_at(22)? as i32);
        (width, height, u16_at(28)?, u32_at(30)?, u32_at(46)?)
    };
    let sides = (
        usize::try_from(width).ok(),
        usize::try_from(height.unsigned_abs()).ok(),
    );
    let (Some(width), Some(rows @ 1..)) = sides else {
        return Err(CodecError::Corrupt(format!("a size of {width}x{height}")));
    };
    let coding = match (compression, bits) {
        (0, 1 | 2 | 4 | 8) => Coding::Indexed,
        (0, 16) => Coding::Masked([0x7C00, 0x03E0, 0x001F]),
        (0, 24 | 32) => Coding::Masked([0xFF_0000, 0xFF00, 0xFF]),
        (1, 8) | (2, 4) => Coding::RunLength,
        // The masks follow a header of 40 bytes, and are part of longer ones at the same place.
        (3 | 6, 16 | 32) => Coding::Masked([u32_at(54)?, u32_at(58)?, u32_at(62)?]),
        _ => {
            let reason = format!("{bits} bits a pixel with compression {compression}");
            return Err(CodecError::Unsupported(reason));
        }
    };
    let mut palette = [[0; 3]; 256];
    if bits <= 8 {
        let (start, entry) = (14 + size, if old { 3 } else { 4 });
        let count = if colours == 0 {
            1 << bits
        } else {
            (colours as usize).min(1 << bits)
        };
        let table = bytes.get(start..).ok_or_else(CodecError::header_ends)?;
        for (colour, bgr) in palette
            .iter_mut()
            .zip(table.chunks_exact(entry).take(count))
        {
            *colour = [bgr[2], bgr[1], bgr[0]];
        }
    }
    let pixels = bytes
        .get(u32_at(10)? as usize..)
        .ok_or_else(CodecError::header_ends)?;
    let (bits, from_top) = (usize::from(bits), height < 0);
    Ok(Header {
        width,
        height: rows,
        from_top,
        bits,
        coding,
        palette,
        pixels,
    })
}

/// `N` bytes at `at`.
fn field<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], CodecError> {
    let found = bytes.get(at..at + N).and_then(|b| b.try_into().ok());
    found.ok_or_else(CodecError::header_ends)
}

/// Run-length coded indices, rows from the bottom; what is skipped has index 0.
fn run_length(header: &Header, image: &mut RgbImage) -> Result<(), CodecError> {
    let (width, height) = (header.width, header.height);
    for pixel in image.data.chunks_exact_mut(3) {
        pixel.copy_from_slice(&header.palette[0]);
    }
    let (mut x, mut y) = (0, 0);
    let mut put = |x: usize, y: usize, index: u8| {
        // Runs beyond the edge of the picture are cut off.
        if x < width && y < height {
            let at = ((height - 1 - y) * width + x) * 3;
            image.data[at..at + 3].copy_from_slice(&header.palette[usize::from(index)]);
        }
    };
    let four = header.bits == 4;
    let nibble = |byte: u8, i: usize| match (four, i % 2) {
        (false, _) => byte,
        (true, 0) => byte >> 4,
        (true, _) => byte & 15,
    };
    let mut input = header.pixels.iter().copied();
    let mut next = || {
        let ends = || CodecError::Truncated("the file ends inside the pixels".into());
        input.next().ok_or_else(ends)
    };
    while y < height {
        match (next()?, next()?) {
            (0, 0) => (x, y) = (0, y + 1),
            (0, 1) => return Ok(()),
            (0, 2) => (x, y) = (x + usize::from(next()?), y + usize::from(next()?)),
            (0, count) => {
                let count = usize::from(count);
                let mut byte = 0;
                for i in 0..count {
                    if !four || i % 2 == 0 {
                        byte = next()?;
                    }
                    put(x + i, y, nibble(byte, i));
                }
                // Literal runs take an even number of bytes.
                if (if four { count.div_ceil(2) } else { count }) % 2 == 1 {
                    next()?;
                }
                x += count;
            }
            (count, byte) => {
                for i in 0..usize::from(count) {
                    put(x + i, y, nibble(byte, i));
                }
                x += usize::from(count);
            }
        }
    }
    Ok(())
}
