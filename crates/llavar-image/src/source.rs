//! Opening image files without being blocked or flooded by what lies there.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::{DecodeLimits, ImageError};

/// Opens a regular, non-empty file within the byte limit; gives it with its size, bytes.
///
/// The kind is looked up before opening, because opening a FIFO waits for a writer, and once more
/// on the open file, because it may have been changed in between.
pub(crate) fn open(path: &Path, limits: &DecodeLimits) -> Result<(File, u64), ImageError> {
    check_kind(
        path,
        &std::fs::metadata(path).map_err(|e| io_error(path, e))?,
    )?;
    let file = File::open(path).map_err(|e| io_error(path, e))?;
    let metadata = file.metadata().map_err(|e| io_error(path, e))?;
    check_kind(path, &metadata)?;
    if metadata.len() == 0 {
        return Err(ImageError::Empty {
            path: path.to_path_buf(),
        });
    }
    limits.check_bytes(path, metadata.len())?;
    Ok((file, metadata.len()))
}

/// Reads the whole file, and no more than the limit even if it grows meanwhile.
///
/// # Errors
///
/// Every [`ImageError`] of a file that cannot be opened or passes `limits`.
pub fn read(path: &Path, limits: &DecodeLimits) -> Result<Vec<u8>, ImageError> {
    let (file, len) = open(path, limits)?;
    let mut bytes = Vec::with_capacity(usize::try_from(len).unwrap_or(0));
    let most = limits.max_file_bytes.saturating_add(1);
    file.take(most)
        .read_to_end(&mut bytes)
        .map_err(|e| io_error(path, e))?;
    limits.check_bytes(path, bytes.len() as u64)?;
    Ok(bytes)
}

/// The typed error of a failed system call on `path`.
pub(crate) fn io_error(path: &Path, source: io::Error) -> ImageError {
    let path = path.to_path_buf();
    match source.kind() {
        io::ErrorKind::NotFound => ImageError::NotFound { path },
        io::ErrorKind::IsADirectory => ImageError::IsDirectory { path },
        _ => ImageError::Io { path, source },
    }
}

fn check_kind(path: &Path, metadata: &std::fs::Metadata) -> Result<(), ImageError> {
    if metadata.is_dir() {
        return Err(ImageError::IsDirectory {
            path: path.to_path_buf(),
        });
    }
    if !metadata.is_file() {
        return Err(ImageError::NotRegularFile {
            path: path.to_path_buf(),
        });
    }
    Ok(())
}
