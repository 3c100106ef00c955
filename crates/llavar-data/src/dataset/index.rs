//! Where each sample lies in its file: in memory for small sets, in a file of the cache for large ones.
//!
//! The file holds a header of 64 bytes (magic, size and time of change of the source, number of samples)
//! and 16 bytes a sample (offset, length, line; little-endian). It is read at positions, so an index of
//! any size takes no memory, and it is used only while its source is unchanged.

use std::{
    fs::{self, File},
    io::{self, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use super::{
    cache::{Stamp, aside},
    positioned::Positioned,
};

const MAGIC: &[u8; 16] = b"llavar-index-1\r\n";
const HEADER: usize = 64;
const ENTRY: usize = 16;
/// Entries that wait to be written.
const BLOCK: usize = 1 << 14;

/// Where one sample lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Byte offset from the start of the file.
    pub(crate) offset: u64,
    /// Length in bytes.
    pub(crate) len: u32,
    /// Line on which it starts, from 1.
    pub(crate) line: u32,
}

impl Entry {
    fn to_bytes(self) -> [u8; ENTRY] {
        let mut bytes = [0; ENTRY];
        bytes[..8].copy_from_slice(&self.offset.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.len.to_le_bytes());
        bytes[12..].copy_from_slice(&self.line.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8; ENTRY]) -> Self {
        let [a, b, c, d, e, f, g, h, len @ .., i, j, k, l] = *bytes;
        Self {
            offset: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            len: u32::from_le_bytes(len),
            line: u32::from_le_bytes([i, j, k, l]),
        }
    }
}

/// Entries by sample number.
#[derive(Debug)]
pub(crate) enum Index {
    Memory(Vec<Entry>),
    Stored { file: Positioned, len: usize },
}

impl Index {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Memory(entries) => entries.len(),
            Self::Stored { len, .. } => *len,
        }
    }

    /// The entry of a sample; `None` beyond the end.
    pub(crate) fn get(&self, number: usize) -> io::Result<Option<Entry>> {
        match self {
            Self::Memory(entries) => Ok(entries.get(number).copied()),
            Self::Stored { len, .. } if number >= *len => Ok(None),
            Self::Stored { file, .. } => {
                let mut bytes = [0; ENTRY];
                file.read_exact_at(&mut bytes, (HEADER + number * ENTRY) as u64)?;
                Ok(Some(Entry::from_bytes(&bytes)))
            }
        }
    }

    /// Opens a stored index, if it is whole and that of the source as it is now.
    pub(crate) fn open(path: &Path, source: Stamp) -> Option<Self> {
        let file = File::open(path).ok()?;
        let bytes = file.metadata().ok()?.len();
        let file = Positioned::file(file);
        let mut head = [0; HEADER];
        file.read_exact_at(&mut head, 0).ok()?;
        let mut count = [0; 8];
        count.copy_from_slice(&head[32..40]);
        let count = u64::from_le_bytes(count);
        let whole = count.checked_mul(ENTRY as u64)? + HEADER as u64 == bytes;
        (whole && head == header(source, count)).then_some(Self::Stored {
            file,
            len: usize::try_from(count).ok()?,
        })
    }
}

fn header(source: Stamp, count: u64) -> [u8; HEADER] {
    let mut head = [0; HEADER];
    head[..16].copy_from_slice(MAGIC);
    head[16..24].copy_from_slice(&source.bytes.to_le_bytes());
    head[24..32].copy_from_slice(&source.modified.to_le_bytes());
    head[32..40].copy_from_slice(&count.to_le_bytes());
    head
}

/// Takes entries one by one; from `min` of them on they go to a file beside `path`.
///
/// The cache is a convenience: where it cannot be written, the index stays in memory.
pub(crate) struct Builder {
    path: Option<PathBuf>,
    min: usize,
    memory: Vec<Entry>,
    spill: Option<(File, PathBuf, usize)>,
}

impl Builder {
    pub(crate) fn new(path: Option<PathBuf>, min: usize) -> Self {
        Self {
            path,
            min: min.max(1),
            memory: Vec::new(),
            spill: None,
        }
    }

    pub(crate) fn push(&mut self, entry: Entry) {
        self.memory.push(entry);
        let full = match self.spill {
            Some(_) => self.memory.len() >= BLOCK,
            None => self.path.is_some() && self.memory.len() >= self.min,
        };
        if full && self.write_block().is_err() {
            self.back_to_memory();
        }
    }

    fn write_block(&mut self) -> io::Result<()> {
        if self.spill.is_none() {
            let Some(path) = &self.path else {
                return Ok(());
            };
            let aside = aside(path)?;
            let mut file = File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(true)
                .open(&aside)?;
            file.write_all(&[0; HEADER])?;
            self.spill = Some((file, aside, 0));
        }
        let bytes: Vec<u8> = self.memory.iter().flat_map(|e| e.to_bytes()).collect();
        if let Some((file, _, written)) = &mut self.spill {
            file.write_all(&bytes)?;
            *written += self.memory.len();
            self.memory.clear();
        }
        Ok(())
    }

    /// Takes back what was written; nothing is spilled any more.
    fn back_to_memory(&mut self) {
        self.path = None;
        if let Some((file, aside, written)) = self.spill.take() {
            let file = Positioned::file(file);
            let stored = Index::Stored { file, len: written };
            let mut all: Vec<Entry> = (0..written)
                .filter_map(|i| stored.get(i).ok().flatten())
                .collect();
            all.append(&mut self.memory);
            self.memory = all;
            let _ = fs::remove_file(aside);
        }
    }

    /// The index of a source that had the stamp `before` when it was read and has `after` now.
    pub(crate) fn finish(mut self, before: Stamp, after: Stamp) -> Index {
        if self.spill.is_some() && self.write_block().is_err() {
            self.back_to_memory();
        }
        let Some((mut file, aside, len)) = self.spill.take() else {
            return Index::Memory(std::mem::take(&mut self.memory));
        };
        // A source that changed meanwhile is not described by either stamp.
        let mut publish = || -> io::Result<()> {
            file.seek(SeekFrom::Start(0))?;
            file.write_all(&header(before, len as u64))?;
            file.sync_data()?;
            match &self.path {
                Some(path) if before == after => fs::rename(&aside, path),
                _ => fs::remove_file(&aside),
            }
        };
        // The open file stays readable whatever became of its name.
        if publish().is_err() {
            let _ = fs::remove_file(&aside);
        }
        Index::Stored {
            file: Positioned::file(file),
            len,
        }
    }
}

impl Drop for Builder {
    fn drop(&mut self) {
        if let Some((_, aside, _)) = self.spill.take() {
            let _ = fs::remove_file(aside);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(count: usize) -> impl Iterator<Item = Entry> {
        (0..count).map(|i| Entry {
            offset: 7 * i as u64 + (1 << 40),
            len: i as u32 + 1,
            line: 2 * i as u32,
        })
    }

    #[test]
    fn stored_and_kept_entries_are_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let stamp = Stamp {
            bytes: 5,
            modified: 9,
        };
        let other = Stamp { bytes: 6, ..stamp };
        for (min, count) in [(1, 3), (100, 40_000), (100, 99), (100, 100)] {
            let path = dir.path().join(format!("sub/{min}-{count}"));
            let mut builder = Builder::new(Some(path.clone()), min);
            entries(count).for_each(|e| builder.push(e));
            let index = builder.finish(stamp, stamp);
            assert_eq!(Index::open(&path, stamp).is_some(), count >= min);
            for index in [Some(index), Index::open(&path, stamp)]
                .into_iter()
                .flatten()
            {
                assert_eq!(index.len(), count);
                for (i, want) in entries(count).enumerate().step_by(37) {
                    assert_eq!(index.get(i).unwrap(), Some(want));
                }
                assert_eq!(index.get(count).unwrap(), None);
            }
            assert!(Index::open(&path, other).is_none());
            if count >= min {
                // A torn file is not taken.
                let bytes = fs::read(&path).unwrap();
                fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
                assert!(Index::open(&path, stamp).is_none());
            }
        }
        // A source that changed while it was read: usable now, not kept.
        let path = dir.path().join("changed");
        let mut builder = Builder::new(Some(path.clone()), 1);
        entries(5).for_each(|e| builder.push(e));
        assert_eq!(builder.finish(stamp, other).len(), 5);
        assert!(!path.exists() && Index::open(&path, stamp).is_none());
    }

    #[test]
    fn a_cache_that_cannot_be_written_costs_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let blocked = dir.path().join("file");
        fs::write(&blocked, b"x").unwrap();
        let stamp = Stamp {
            bytes: 1,
            modified: 1,
        };
        let mut builder = Builder::new(Some(blocked.join("below")), 10);
        entries(50).for_each(|e| builder.push(e));
        let index = builder.finish(stamp, stamp);
        assert!(matches!(index, Index::Memory(_)));
        assert_eq!(index.get(49).unwrap(), entries(50).last());
    }
}
