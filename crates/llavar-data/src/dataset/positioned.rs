//! A file read at positions, without a shared cursor where the system can.

use std::{fs::File, io, sync::Arc};

use crate::remote::RemoteFile;

/// An open file, a file on the network, or bytes in memory; clones share it.
#[derive(Debug, Clone)]
pub(crate) enum Positioned {
    Memory(Arc<Vec<u8>>),
    Remote(Arc<RemoteFile>),
    #[cfg(unix)]
    File(Arc<File>),
    #[cfg(not(unix))]
    File(Arc<std::sync::Mutex<File>>),
}

impl Positioned {
    pub(crate) fn memory(bytes: Vec<u8>) -> Self {
        Self::Memory(Arc::new(bytes))
    }

    pub(crate) fn remote(file: RemoteFile) -> Self {
        Self::Remote(Arc::new(file))
    }

    #[cfg(unix)]
    pub(crate) fn file(file: File) -> Self {
        Self::File(Arc::new(file))
    }

    #[cfg(not(unix))]
    pub(crate) fn file(file: File) -> Self {
        Self::File(Arc::new(std::sync::Mutex::new(file)))
    }

    /// Reads up to `buffer.len()` bytes; 0 at the end.
    pub(crate) fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        match self {
            Self::Memory(bytes) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX);
                let rest = bytes.get(start..).unwrap_or_default();
                let count = rest.len().min(buffer.len());
                buffer[..count].copy_from_slice(&rest[..count]);
                Ok(count)
            }
            Self::Remote(file) => Ok(file.read_at(buffer, offset)?),
            #[cfg(unix)]
            Self::File(file) => std::os::unix::fs::FileExt::read_at(&**file, buffer, offset),
            #[cfg(not(unix))]
            Self::File(file) => {
                use std::io::{Read, Seek, SeekFrom};
                let mut file = file.lock().unwrap_or_else(|e| e.into_inner());
                file.seek(SeekFrom::Start(offset))?;
                file.read(buffer)
            }
        }
    }

    /// Reads exactly `buffer.len()` bytes.
    pub(crate) fn read_exact_at(&self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buffer.is_empty() {
            match self.read_at(buffer, offset) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    buffer = &mut buffer[count..];
                    offset += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// A reader of its own from `offset` on.
    pub(crate) fn reader(&self, offset: u64) -> Cursor {
        Cursor {
            file: self.clone(),
            offset,
        }
    }
}

/// Reads a [`Positioned`] from a place onwards.
#[derive(Debug)]
pub(crate) struct Cursor {
    file: Positioned,
    offset: u64,
}

impl io::Read for Cursor {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }
}
