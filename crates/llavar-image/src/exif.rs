//! The orientation that a camera writes beside the pixels of a JPEG, PNG or WebP.

use crate::ImageFormat;

/// The EXIF orientation of an encoded JPEG, PNG or WebP, 1 to 8: 1 as stored, 3 upside down, 6 and 8 on a side, the
/// others mirrored. Nothing where it does not say, or what it says cannot be read.
///
/// Decoding does not apply it, as PIL's does not; whoever asks about a photograph wants to know.
///
/// # Source
/// EXIF 2.3, tag 0x0112.
pub fn exif_orientation(bytes: &[u8]) -> Option<u16> {
    let block = match ImageFormat::from_content(bytes)? {
        ImageFormat::Jpeg => of_jpeg(bytes.get(2..)?),
        ImageFormat::Png => of_png(bytes.get(8..)?),
        ImageFormat::WebP => of_webp(bytes.get(12..)?),
        _ => None,
    }?;
    orientation(block.strip_prefix(b"Exif\0\0").unwrap_or(block))
}

/// The block behind the first such marker in front of the pixels.
fn of_jpeg(mut rest: &[u8]) -> Option<&[u8]> {
    loop {
        let [0xff, marker, high, low, ..] = *rest else {
            return None;
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        let segment = rest.get(4..2 + length)?;
        match marker {
            0xe1 if segment.starts_with(b"Exif\0\0") => return Some(segment),
            0xda => return None,
            _ => rest = rest.get(2 + length..)?,
        }
    }
}

fn of_png(mut rest: &[u8]) -> Option<&[u8]> {
    loop {
        let length = u32::from_be_bytes(*rest.first_chunk()?) as usize;
        let end = length.checked_add(8)?;
        if rest.get(4..8)? == b"eXIf" {
            return rest.get(8..end);
        }
        // A checksum stands behind.
        rest = rest.get(end.checked_add(4)?..)?;
    }
}

fn of_webp(mut rest: &[u8]) -> Option<&[u8]> {
    loop {
        let length = u32::from_le_bytes(*rest.get(4..)?.first_chunk()?) as usize;
        let end = length.checked_add(8)?;
        if rest.get(..4)? == b"EXIF" {
            return rest.get(8..end);
        }
        // Chunks have even lengths.
        rest = rest.get(end.checked_add(length % 2)?..)?;
    }
}

/// Of the first directory of a block as TIFF files have it.
fn orientation(block: &[u8]) -> Option<u16> {
    let little = match block.get(..2)? {
        b"II" => true,
        b"MM" => false,
        _ => return None,
    };
    let short = |at: usize| {
        let pair = *block.get(at..)?.first_chunk()?;
        Some(match little {
            true => u16::from_le_bytes(pair),
            false => u16::from_be_bytes(pair),
        })
    };
    let four = *block.get(4..)?.first_chunk()?;
    let directory = match little {
        true => u32::from_le_bytes(four),
        false => u32::from_be_bytes(four),
    } as usize;
    let entries = usize::from(short(directory)?);
    let mut at = (0..entries).map(|i| directory + 2 + 12 * i);
    let entry = at.find(|at| short(*at) == Some(0x0112))?;
    short(entry + 8).filter(|value| (1..=8).contains(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory of two entries.
    fn block(little: bool, value: u16) -> Vec<u8> {
        let short = |v: u16| match little {
            true => v.to_le_bytes(),
            false => v.to_be_bytes(),
        };
        let long = |v: u32| match little {
            true => v.to_le_bytes(),
            false => v.to_be_bytes(),
        };
        let mut out = if little {
            b"II".to_vec()
        } else {
            b"MM".to_vec()
        };
        out.extend(short(42));
        out.extend(long(8));
        out.extend(short(2));
        for (tag, value) in [(0x0100, 9), (0x0112, value)] {
            out.extend(short(tag));
            out.extend(short(3));
            out.extend(long(1));
            out.extend(short(value));
            out.extend(short(0));
        }
        out
    }

    fn jpeg(block: &[u8]) -> Vec<u8> {
        let mut out = vec![0xff, 0xd8, 0xff, 0xe0, 0, 4, 1, 2, 0xff, 0xe1];
        out.extend((block.len() as u16 + 8).to_be_bytes());
        out.extend(b"Exif\0\0");
        out.extend(block);
        out.extend([0xff, 0xda, 0, 2]);
        out
    }

    #[test]
    fn orientations_are_found_in_all_three_formats() {
        for little in [true, false] {
            for value in 1..=8 {
                let block = block(little, value);
                assert_eq!(exif_orientation(&jpeg(&block)), Some(value));
                let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\x01tEXtx....".to_vec();
                png.extend((block.len() as u32).to_be_bytes());
                png.extend(b"eXIf");
                png.extend(&block);
                assert_eq!(exif_orientation(&png), Some(value));
                let mut webp = b"RIFF....WEBPVP8 \x01\0\0\0x\0EXIF".to_vec();
                webp.extend((block.len() as u32).to_le_bytes());
                webp.extend(&block);
                assert_eq!(exif_orientation(&webp), Some(value));
            }
        }
    }

    #[test]
    fn what_cannot_be_read_says_nothing() {
        let whole = jpeg(&block(true, 6));
        assert_eq!(exif_orientation(&jpeg(&block(true, 9))), None);
        assert_eq!(exif_orientation(&jpeg(b"II*\0\xff\xff\xff\xff")), None);
        assert_eq!(exif_orientation(b""), None);
        for end in 0..whole.len() - 4 {
            assert!(exif_orientation(&whole[..end]).is_none_or(|value| value == 6));
        }
    }
}
