//! The one error type of this crate.

use std::path::PathBuf;

use crate::ImageFormat;

/// What is wrong with an image, and with which one.
///
/// `path` is the file, or the name that the caller gave to bytes in memory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// There is no such file.
    #[error("image not found: {path}", path = path.display())]
    NotFound {
        /// The file asked for.
        path: PathBuf,
    },
    /// The path is a directory.
    #[error("image path is a directory, expected a file: {path}", path = path.display())]
    IsDirectory {
        /// The path asked for.
        path: PathBuf,
    },
    /// The path is a pipe, socket or device: reading one could block for ever.
    #[error("image path is not a regular file: {path}", path = path.display())]
    NotRegularFile {
        /// The path asked for.
        path: PathBuf,
    },
    /// The file has 0 bytes.
    #[error("image file is empty (0 bytes): {path}", path = path.display())]
    Empty {
        /// The empty file.
        path: PathBuf,
    },
    /// The first bytes are of none of the six kinds.
    #[error(
        "unknown image format: {path} starts with [{start}]; expected JPEG, PNG, WebP, GIF, BMP or TIFF",
        path = path.display()
    )]
    UnknownFormat {
        /// The file.
        path: PathBuf,
        /// Its first bytes in hexadecimal.
        start: String,
    },
    /// The header (or the file size) passes a limit; nothing was allocated for it.
    #[error("image too large: {path} has {what} {got}, the limit is {limit}", path = path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// What was measured: `pixels`, `width`, `height`, `file bytes`.
        what: &'static str,
        /// The measured value.
        got: u64,
        /// The limit, of [`crate::DecodeLimits`].
        limit: u64,
    },
    /// The file ends before its picture does.
    #[error("{format} image is truncated: {path}: {reason}", path = path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// The format that its content shows.
        format: ImageFormat,
        /// The decoder's words.
        reason: String,
    },
    /// The content breaks the rules of its format.
    #[error("{format} image is corrupt: {path}: {reason}", path = path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// The format that its content shows.
        format: ImageFormat,
        /// The decoder's words.
        reason: String,
    },
    /// A valid file that uses a part of its format which is not supported.
    #[error("{format} image is not supported: {path}: {reason}; convert it to PNG", path = path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The format that its content shows.
        format: ImageFormat,
        /// The part that is not supported.
        reason: String,
    },
    /// The operating system refused to open or read the file.
    #[error("cannot read image {path}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// A pixel buffer does not have the length that its size asks for.
    #[error("image buffer has {got} values, expected {expected} for {width}x{height}x3")]
    BufferLength {
        /// Values given.
        got: usize,
        /// Values needed.
        expected: usize,
        /// Width, px.
        width: usize,
        /// Height, px.
        height: usize,
    },
    /// A width, height or target size of 0, or one that no memory can hold.
    #[error("image size {width}x{height} is not possible, expected 1x1 or more")]
    BadSize {
        /// Width, px.
        width: usize,
        /// Height, px.
        height: usize,
    },
    /// An image aspect other than `pad`, `fit` or `square`.
    #[error("unknown image aspect {got:?}, expected \"pad\", \"fit\" or \"square\"")]
    BadAspect {
        /// The word given.
        got: String,
    },
    /// The encoder refused the picture.
    #[error("cannot encode the image as {format}: {reason}")]
    Encode {
        /// The format to be written.
        format: ImageFormat,
        /// The encoder's words.
        reason: String,
    },
}
