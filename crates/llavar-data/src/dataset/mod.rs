//! A data set on disk: opened once, read by number afterwards.
//!
//! | form, told by content | records | images |
//! |---|---|---|
//! | LLaVA JSON array, JSONL | in the file | files below an image folder |
//! | Parquet | all columns but the image bytes, brought into JSONL once | Hugging Face's `Image` struct `{bytes, path}`, read from its page |
//! | WebDataset tar | `KEY.json`, or a caption in `KEY.txt` | `KEY.jpg`, `KEY.0.png`, ..., read at their place |
//!
//! Each of them may lie on a web server, `https://host/data.jsonl`, and so may the image folder: see
//! [`crate::remote`].

mod cache;
mod index;
mod parquet;
mod positioned;
mod records;
mod scan;
mod tar;

pub use cache::{Cache, Stamp};

use crate::error::{Error, ImagePathError, Place, SampleError};
use crate::image_folder::ImageFolder;
use crate::record::Sample;
use crate::remote::{RemoteFile, Retry, is_remote, shown};
use index::{Builder, Index};
use positioned::Positioned;
use serde_json::Value;
use std::fs::File;
use std::path::{Path, PathBuf};

/// A data set with random access.
///
/// # Units
/// A sample costs 16 bytes in memory, or in a file of the [`Cache`] where there are many; samples stay on
/// disk. [`Dataset::get`] takes `&self` and may be called from many threads.
#[derive(Debug)]
pub struct Dataset {
    path: PathBuf,
    stamp: Stamp,
    records: Positioned,
    index: Index,
    container: Container,
    image_folder: Option<ImageFolder>,
}

#[derive(Debug)]
enum Container {
    None,
    Parquet(parquet::ParquetImages),
    Tar(tar::Members),
}

/// Where an image of a sample is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageSource {
    /// A file below the image folder.
    File(PathBuf),
    /// Encoded bytes out of a container.
    Bytes {
        /// The container's path and the image's name in it, for messages.
        name: PathBuf,
        /// The encoded picture.
        bytes: Vec<u8>,
    },
}

impl Dataset {
    /// [`Dataset::open_with`] the user's [`Cache`].
    ///
    /// # Errors
    /// As there.
    pub fn open(path: &Path, image_folder: Option<&Path>) -> Result<Self, Error> {
        Self::open_with(path, image_folder, &Cache::of_user())
    }

    /// Indexes the file and checks that all of it is valid JSON (or a sound container); an index in the
    /// cache replaces that while the file is unchanged. The form is told by the content, not the extension.
    ///
    /// # Errors
    /// Unreadable file or folder, an unknown form, no sample, broken JSON (with line, byte and sample).
    /// Records that are valid JSON and bad samples are reported by [`Dataset::get`].
    pub fn open_with(
        path: &Path,
        image_folder: Option<&Path>,
        cache: &Cache,
    ) -> Result<Self, Error> {
        let address = path;
        // What signs an address is no part of the set's name.
        let shown = is_remote(address).then(|| PathBuf::from(shown(&address.to_string_lossy())));
        let path = shown.as_deref().unwrap_or(address);
        let io = |source| Error::Io {
            path: path.to_path_buf(),
            source,
        };
        let image_folder = image_folder.map(ImageFolder::open).transpose()?;
        let (file, stamp) = match is_remote(address) {
            true => {
                let url = address.to_string_lossy();
                let file = RemoteFile::open(&url, Retry::default()).map_err(|e| io(e.into()))?;
                let stamp = file.stamp();
                (Positioned::remote(file), stamp)
            }
            false => {
                let file = File::open(path).map_err(io)?;
                let stamp = Stamp::of(&file.metadata().map_err(io)?);
                (Positioned::file(file), stamp)
            }
        };
        let mut head = [0; 512];
        let filled = file.read_at(&mut head, 0).map_err(io)?;
        let head = &head[..filled];
        let (records, index, container) = if head.starts_with(parquet::MAGIC) {
            let (images, records) = parquet::open(path, file, stamp, cache)?;
            let index = index_of(path, &records, None, cache)?;
            (records, index, Container::Parquet(images))
        } else if tar::is_tar(head) {
            let (members, index) = tar::open(path, &file)?;
            (file, Index::Memory(index), Container::Tar(members))
        } else {
            let index = index_of(path, &file, Some(stamp), cache)?;
            (file, index, Container::None)
        };
        Ok(Self {
            path: path.to_path_buf(),
            stamp,
            records,
            index,
            container,
            image_folder,
        })
    }

    /// Size and time of change (or version on its server) of the file when it was opened.
    pub fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there is no sample; never true for an opened set.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The file; an address on the network without what signs it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The image folder, if one was given.
    pub fn image_folder(&self) -> Option<&ImageFolder> {
        self.image_folder.as_ref()
    }

    /// Whether images lie in the file itself.
    pub fn is_container(&self) -> bool {
        !matches!(self.container, Container::None)
    }

    /// Reads and checks sample number `index`.
    ///
    /// # Errors
    /// [`Error::OutOfRange`], [`Error::Io`], and [`Error::Sample`] for a bad record.
    pub fn get(&self, index: usize) -> Result<Sample, Error> {
        let io = |source| Error::Io {
            path: self.path.clone(),
            source,
        };
        let entry = self
            .index
            .get(index)
            .map_err(io)?
            .ok_or_else(|| Error::OutOfRange {
                path: self.path.clone(),
                index,
                len: self.len(),
            })?;
        let mut bytes = vec![0; entry.len as usize];
        self.records
            .read_exact_at(&mut bytes, entry.offset)
            .map_err(io)?;
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
        let parse = |bytes: &[u8]| {
            serde_json::from_slice::<Value>(bytes).map_err(|error| SampleError::Json {
                reason: scan::plain_reason(&error),
            })
        };
        let value = match &self.container {
            Container::Tar(members) => members.record(index, &bytes, parse),
            _ => parse(&bytes),
        };
        let value = value.map_err(|source| fail(source, scan::guess_id(&bytes)))?;
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

    /// Image `nth` of `sample`, which is sample number `index`: bytes out of the container where it has
    /// them, else the file below the image folder.
    ///
    /// # Errors
    /// See [`ImageFolder::resolve`]; also when the set was opened without a folder, or the container cannot
    /// be read.
    pub fn image(
        &self,
        index: usize,
        sample: &Sample,
        nth: usize,
    ) -> Result<ImageSource, ImagePathError> {
        let name = sample.images.get(nth).map_or("", String::as_str);
        let bytes = match &self.container {
            Container::None => Ok(None),
            Container::Parquet(images) => images.bytes(index, nth),
            Container::Tar(members) => members.image(&self.records, index, nth),
        };
        let bytes = bytes.map_err(|reason| ImagePathError::InContainer {
            image: name.to_owned(),
            path: self.path.clone(),
            reason,
        })?;
        match bytes {
            Some(bytes) => Ok(ImageSource::Bytes {
                name: self.path.join(name),
                bytes,
            }),
            None => match self.image_folder.as_ref().filter(|f| f.is_remote()) {
                Some(folder) => folder.fetch(name),
                None => self.image_path(name).map(ImageSource::File),
            },
        }
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

/// The index of JSON text; with a stamp it may come from the cache, and is kept there.
fn index_of(
    path: &Path,
    records: &Positioned,
    stamp: Option<Stamp>,
    cache: &Cache,
) -> Result<Index, Error> {
    let kept = stamp.and_then(|stamp| Some((cache.file("index", path, "")?, stamp)));
    if let Some((file, stamp)) = &kept
        && let Some(index) = Index::open(file, *stamp)
    {
        return Ok(index);
    }
    let mut builder = Builder::new(kept.map(|(file, _)| file), cache.min_samples);
    let mut sink = |entry| builder.push(entry);
    scan::scan(records.reader(0), path, scan::MAX_SAMPLE_BYTES, &mut sink)?;
    let before = stamp.unwrap_or_default();
    // A file on the network that changes while it is read fails on the way.
    let after = match is_remote(path) {
        true => before,
        false => std::fs::metadata(path).map_or(Stamp::default(), |m| Stamp::of(&m)),
    };
    Ok(builder.finish(before, after))
}
