//! Format and size of a picture from its header, without its pixels.

use std::io::{BufRead, BufReader, Cursor, ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;

use crate::codec::CodecError;
use crate::{DecodeLimits, ImageError, ImageFormat, source};

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageInfo {
    /// The kind, by content.
    pub format: ImageFormat,
    /// Width, px.
    pub width: u32,
    /// Height, px.
    pub height: u32,
}

/// Reads the header of the file at `path`; only the blocks that hold it are read.
///
/// The size is not held against any limit but the file's bytes: that is the caller's choice here
/// ([`DecodeLimits::check_size`]).
///
/// # Errors
///
/// Every [`ImageError`] of a file that cannot be opened or whose header is broken.
pub fn probe_file(path: &Path, limits: &DecodeLimits) -> Result<ImageInfo, ImageError> {
    let (file, _) = source::open(path, limits)?;
    probe(&mut BufReader::new(file), path)
}

/// Reads the header of an encoded picture in memory; `name` stands for it in errors.
///
/// # Errors
///
/// [`ImageError::Empty`], [`ImageError::UnknownFormat`], [`ImageError::Truncated`],
/// [`ImageError::Corrupt`].
pub fn probe_bytes(bytes: &[u8], name: &Path) -> Result<ImageInfo, ImageError> {
    if bytes.is_empty() {
        return Err(ImageError::Empty {
            path: name.to_path_buf(),
        });
    }
    probe(&mut Cursor::new(bytes), name)
}

fn probe<R: BufRead + Seek>(reader: &mut R, path: &Path) -> Result<ImageInfo, ImageError> {
    let mut start = [0u8; 32];
    let filled = fill(reader, &mut start).map_err(|e| source::io_error(path, e))?;
    let start = &start[..filled];
    let sniff = &start[..filled.min(ImageFormat::SNIFF_BYTES)];
    let Some(format) = ImageFormat::from_content(sniff) else {
        let start = sniff
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect::<Vec<_>>()
            .join(" ");
        return Err(ImageError::UnknownFormat {
            path: path.to_path_buf(),
            start,
        });
    };
    let size = match format {
        ImageFormat::Png => png(start),
        ImageFormat::WebP => webp(start),
        ImageFormat::Gif => gif(start),
        ImageFormat::Bmp => bmp(start),
        ImageFormat::Jpeg => jpeg(reader),
        ImageFormat::Tiff => crate::codec::tiff::dimensions(reader),
    };
    let (width, height) = size.map_err(|e| e.at(path, format))?;
    if width == 0 || height == 0 {
        let reason = format!("the header gives a size of {width}x{height}");
        return Err(CodecError::Corrupt(reason).at(path, format));
    }
    Ok(ImageInfo {
        format,
        width,
        height,
    })
}

/// Reads until `buffer` is full or the input ends.
fn fill<R: Read>(reader: &mut R, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match reader.read(rest) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

type Size = Result<(u32, u32), CodecError>;

/// `N` bytes at `at`, or the error of a header that ends too early.
fn field<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], CodecError> {
    let found = at.checked_add(N).and_then(|end| bytes.get(at..end));
    found
        .and_then(|b| b.try_into().ok())
        .ok_or_else(CodecError::header_ends)
}

fn png(start: &[u8]) -> Size {
    if &field::<4>(start, 12)? != b"IHDR" {
        return Err(CodecError::Corrupt("the first chunk is not IHDR".into()));
    }
    Ok((
        u32::from_be_bytes(field(start, 16)?),
        u32::from_be_bytes(field(start, 20)?),
    ))
}

fn gif(start: &[u8]) -> Size {
    let width = u16::from_le_bytes(field(start, 6)?);
    let height = u16::from_le_bytes(field(start, 8)?);
    Ok((width.into(), height.into()))
}

fn bmp(start: &[u8]) -> Size {
    if u32::from_le_bytes(field(start, 14)?) == 12 {
        let width = u16::from_le_bytes(field(start, 18)?);
        let height = u16::from_le_bytes(field(start, 20)?);
        return Ok((width.into(), height.into()));
    }
    // A negative height means rows from the top.
    let width = i32::from_le_bytes(field(start, 18)?);
    let height = i32::from_le_bytes(field(start, 22)?);
    let width = u32::try_from(width)
        .map_err(|_| CodecError::Corrupt(format!("the header gives a width of {width}")))?;
    Ok((width, height.unsigned_abs()))
}

fn webp(start: &[u8]) -> Size {
    let u24 = |b: [u8; 3]| u32::from_le_bytes([b[0], b[1], b[2], 0]);
    match &field::<4>(start, 12)? {
        b"VP8X" => Ok((u24(field(start, 24)?) + 1, u24(field(start, 27)?) + 1)),
        b"VP8L" => {
            let bits = u32::from_le_bytes(field(start, 21)?);
            Ok(((bits & 0x3FFF) + 1, ((bits >> 14) & 0x3FFF) + 1))
        }
        b"VP8 " => {
            let width = u16::from_le_bytes(field(start, 26)?) & 0x3FFF;
            let height = u16::from_le_bytes(field(start, 28)?) & 0x3FFF;
            Ok((width.into(), height.into()))
        }
        other => {
            let chunk = String::from_utf8_lossy(other);
            Err(CodecError::Corrupt(format!("the first chunk is {chunk:?}")))
        }
    }
}

/// Walks the marker segments up to the frame header (SOF0 to SOF15 less DHT, JPG and DAC).
fn jpeg<R: BufRead + Seek>(reader: &mut R) -> Size {
    reader.seek(SeekFrom::Start(2))?;
    loop {
        let mut byte = read_array::<1, _>(reader)?[0];
        // PIL and libjpeg step over stray bytes before a marker.
        while byte != 0xFF {
            byte = read_array::<1, _>(reader)?[0];
        }
        while byte == 0xFF {
            byte = read_array::<1, _>(reader)?[0];
        }
        match byte {
            0x00 | 0x01 | 0xD0..=0xD8 => continue,
            0xD9 | 0xDA => {
                return Err(CodecError::Corrupt(
                    "no frame header before the picture data".into(),
                ));
            }
            _ => {}
        }
        let len = u16::from_be_bytes(read_array(reader)?);
        if len < 2 {
            return Err(CodecError::Corrupt(format!(
                "a marker segment of {len} bytes"
            )));
        }
        if matches!(byte, 0xC0..=0xCF) && !matches!(byte, 0xC4 | 0xC8 | 0xCC) {
            let [_, h1, h0, w1, w0] = read_array(reader)?;
            let (width, height) = (u16::from_be_bytes([w1, w0]), u16::from_be_bytes([h1, h0]));
            return Ok((width.into(), height.into()));
        }
        reader.seek_relative(i64::from(len) - 2)?;
    }
}

fn read_array<const N: usize, R: Read>(reader: &mut R) -> Result<[u8; N], CodecError> {
    let mut bytes = [0; N];
    reader.read_exact(&mut bytes)?;
    Ok(bytes)
}
