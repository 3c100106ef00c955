//! A data set on disk: opened once in a streaming pass, read by number afterwards.

use crate::error::{Error, ImagePathError, Place, SampleError};
use crate::image_folder::ImageFolder;
use crate::record::Sample;
use crate::scan::{self, Entry};
use serde_json::Value;
use std::fs::File;
use std::path::{Path, PathBuf};

/// A LLaVA JSON array or JSONL file with random access.
///
/// # Units
/// The index costs 16 bytes a sample; samples stay on disk. [`Dataset::get`] takes `&self` and may
/// be called from many threads.
#[derive(Debug)]
pub struct Dataset {
    path: PathBuf,
    file: PositionedFile,
    entries: Vec<Entry>,
    image_folder: Option<ImageFolder>,
}

impl Dataset {
    /// Indexes the file and checks that all of it is valid JSON. The form (array or JSONL) is told
    /// by the content, not the extension.
    ///
    /// # Errors
    /// Unreadable file or folder, neither form, no sample, broken JSON (with line, byte and sample).
    /// Records that are valid JSON and bad samples are reported by [`Dataset::get`].
    pub fn open(path: &Path, image_folder: Option<&Path>) -> Result<Self, Error> {
        let io = |source| Error::Io {
            path: path.to_path_buf(),
            source,
        };
        let file = File::open(path).map_err(io)?;
        let entries = scan::scan(&file, path, scan::MAX_SAMPLE_BYTES)?;
        Ok(Self {
            path: path.to_path_buf(),
            file: PositionedFile::new(file),
            entries,
            image_folder: image_folder.map(ImageFolder::open).transpose()?,
        })
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no sample; never true for an opened set.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The image folder, if one was given.
    pub fn image_folder(&self) -> Option<&ImageFolder> {
        self.image_folder.as_ref()
    }

    /// Reads and checks sample number `index`.
    ///
    /// # Errors
    /// [`Error::OutOfRange`], [`Error::Io`], and [`Error::Sample`] for a bad record.
    pub fn get(&self, index: usize) -> Result<Sample, Error> {
        let entry = *self.entries.get(index).ok_or_else(|| Error::OutOfRange {
            path: self.path.clone(),
            index,
            len: self.entries.len(),
        })?;
        let mut bytes = vec![0; entry.len as usize];
        self.file
            .read_exact_at(&mut bytes, entry.offset)
            .map_err(|source| Error::Io {
                path: self.path.clone(),
                source,
            })?;
        let fail = |source, id| Error::Sample {
            at: Box::new(Place {
                path: self.path.clone(),
                line: u64::from(entry.line),
                byte: entry.offset,
                index,
                id,
            }),
            source,
        };
        let value: Value = serde_json::from_slice(&bytes).map_err(|error| {
            let reason = scan::plain_reason(&error);
            fail(SampleError::Json { reason }, scan::guess_id(&bytes))
        })?;
        let id = value.get("id").map(|id| match id {
            Value::String(id) => id.clone(),
            other => other.to_string(),
        });
        Sample::from_json(value).map_err(|source| fail(source, id))
    }

    /// All samples in file order, each with its own error.
    pub fn iter(&self) -> impl Iterator<Item = Result<Sample, Error>> + '_ {
        (0..self.len()).map(|index| self.get(index))
    }

    /// The file of one image path of a sample, checked to lie below the image folder.
    ///
    /// # Errors
    /// See [`ImageFolder::resolve`]; also when the set was opened without a folder.
    pub fn image_path(&self, image: &str) -> Result<PathBuf, ImagePathError> {
        match &self.image_folder {
            Some(folder) => folder.resolve(image),
            None => Err(ImagePathError::NoFolder {
                image: image.to_string(),
            }),
        }
    }
}

/// A file read at positions, without a shared cursor where the system can.
#[derive(Debug)]
struct PositionedFile {
    #[cfg(unix)]
    file: File,
    #[cfg(not(unix))]
    file: std::sync::Mutex<File>,
}

impl PositionedFile {
    #[cfg(unix)]
    fn new(file: File) -> Self {
        Self { file }
    }

    #[cfg(unix)]
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.file, buffer, offset)
    }

    #[cfg(not(unix))]
    fn new(file: File) -> Self {
        Self {
            file: std::sync::Mutex::new(file),
        }
    }

    #[cfg(not(unix))]
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
        use std::io::{Read, Seek, SeekFrom};
        let mut file = self
            .file
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        file.seek(SeekFrom::Start(offset))?;
        file.read_exact(buffer)
    }
}
