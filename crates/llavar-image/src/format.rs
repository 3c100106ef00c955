//! Which kind of picture a file is, by its first bytes.

use std::fmt;

/// The kinds of picture that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ImageFormat {
    /// JPEG: baseline, progressive or arithmetic, 8 bit; gray, RGB, YCbCr, CMYK, YCCK.
    Jpeg,
    /// PNG: every colour type and depth; of an APNG the default picture.
    Png,
    /// WebP: lossy and lossless; of an animation the first frame.
    WebP,
    /// GIF: the first frame.
    Gif,
    /// Windows and OS/2 bitmap.
    Bmp,
    /// TIFF: the first page.
    Tiff,
}

impl ImageFormat {
    /// Endings of the names of such files, in lower case.
    pub const ENDINGS: [&str; 8] = ["jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff"];

    /// Whether a name ends as those of pictures do.
    pub fn is_named_so(name: &str) -> bool {
        let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending);
        Self::ENDINGS.contains(&ending.to_ascii_lowercase().as_str())
    }

    /// Bytes from the start of a file that [`ImageFormat::from_content`] looks at.
    pub const SNIFF_BYTES: usize = 16;

    /// Finds the kind from the start of a file's content; `None` if it is none of these.
    pub fn from_content(start: &[u8]) -> Option<Self> {
        match start {
            [0xFF, 0xD8, 0xFF, ..] => Some(Self::Jpeg),
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1A, b'\n', ..] => Some(Self::Png),
            [
                b'R',
                b'I',
                b'F',
                b'F',
                _,
                _,
                _,
                _,
                b'W',
                b'E',
                b'B',
                b'P',
                ..,
            ] => Some(Self::WebP),
            [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some(Self::Gif),
            // Two letters alone would take much text for a bitmap: the size of the header that
            // follows must be one of those in use.
            [b'B', b'M', rest @ ..] => match rest.get(12) {
                Some(12 | 40 | 52 | 56 | 64 | 108 | 124) | None => Some(Self::Bmp),
                Some(_) => None,
            },
            [b'I', b'I', 42 | 43, 0, ..] | [b'M', b'M', 0, 42 | 43, ..] => Some(Self::Tiff),
            _ => None,
        }
    }
}

impl fmt::Display for ImageFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Jpeg => "JPEG",
            Self::Png => "PNG",
            Self::WebP => "WebP",
            Self::Gif => "GIF",
            Self::Bmp => "BMP",
            Self::Tiff => "TIFF",
        })
    }
}
