//! Read-only memory-mapped files, so that weight files of many gigabytes open at once.

use std::{fs::File, io, ops::Deref, path::Path};

/// A whole file mapped read-only into memory.
///
/// The bytes are those of the file while it is not changed by others; a weight file that is rewritten
/// in place while it is read gives undefined *contents*, which is why every writer of this program
/// writes to a new file and renames it.
#[derive(Debug)]
pub struct MappedFile(Option<memmap2::Mmap>);

impl MappedFile {
    /// Maps `path`. An empty file gives an empty slice.
    ///
    /// # Errors
    /// Any error of opening or mapping the file.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "not a regular file",
            ));
        }
        if meta.len() == 0 {
            return Ok(Self(None));
        }
        // SAFETY: the mapping is private and read-only; the file is regular and not empty. Writers of
        // this program never change a published file in place (they write aside and rename).
        let map = unsafe { memmap2::MmapOptions::new().map(&file)? };
        Ok(Self(Some(map)))
    }
}

impl Deref for MappedFile {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or(&[])
    }
}
