//! WebDataset: a tar in which the files of a sample follow each other under a common name.
//!
//! `KEY.json` holds the record (or `KEY.txt` a caption), `KEY.jpg` or `KEY.ANYTHING.jpg` its images in the
//! order in which they lie there. Other members are passed over. The headers are read once; contents are
//! read at their place.

use std::{
    io::{self, Read, Seek, SeekFrom},
    path::Path,
};

use serde_json::{Map, Value, json};

use super::{index::Entry, positioned::Positioned, records, scan::MAX_SAMPLE_BYTES};
use crate::{
    IMAGE_TAG,
    error::{Error, SampleError},
};

const IMAGES: [&str; 8] = ["jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff"];

/// Whether a file begins with a tar header.
pub(super) fn is_tar(head: &[u8]) -> bool {
    head.get(257..262) == Some(b"ustar")
}

/// The members of every sample.
#[derive(Debug)]
pub(super) struct Members {
    groups: Vec<Group>,
    images: Vec<ImageMember>,
}

#[derive(Debug)]
struct Group {
    key: Box<str>,
    record: Record,
    /// First of its images; they end where those of the next group begin.
    first_image: u32,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Record {
    Missing,
    Caption,
    Json,
}

#[derive(Debug)]
struct ImageMember {
    name: Box<str>,
    offset: u64,
    len: u64,
}

/// Reads all headers.
pub(super) fn open(path: &Path, file: &Positioned) -> Result<(Members, Vec<Entry>), Error> {
    let broken = |error: io::Error| Error::Container {
        path: path.to_path_buf(),
        form: "tar",
        reason: error.to_string(),
    };
    let reader = SeekCursor {
        file: file.clone(),
        offset: 0,
    };
    let mut members = Members {
        groups: Vec::new(),
        images: Vec::new(),
    };
    let mut index: Vec<Entry> = Vec::new();
    let mut archive = ::tar::Archive::new(reader);
    for entry in archive.entries_with_seek().map_err(broken)? {
        let entry = entry.map_err(broken)?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let name = entry.path().map_err(broken)?;
        let name = name.to_string_lossy().replace('\\', "/");
        let (folder, base) = name.rsplit_once('/').map_or(("", name.as_str()), |p| p);
        let Some((stem, extension)) = base.split_once('.') else {
            continue;
        };
        // `._000.jpg`: what macOS packs beside a file, and no file of the set.
        if stem.is_empty() {
            continue;
        }
        let extension = extension.to_ascii_lowercase();
        let is_image = extension
            .rsplit('.')
            .next()
            .is_some_and(|e| IMAGES.contains(&e));
        if !(is_image || extension == "json" || extension == "txt") {
            continue;
        }
        let key = match folder {
            "" => stem.to_owned(),
            _ => format!("{folder}/{stem}"),
        };
        if members.groups.last().is_none_or(|g| *g.key != *key) {
            members.groups.push(Group {
                key: key.into(),
                record: Record::Missing,
                first_image: members.images.len() as u32,
            });
            index.push(Entry {
                offset: 0,
                len: 0,
                line: index.len() as u32 + 1,
            });
        }
        let (offset, len) = (entry.raw_file_position(), entry.size());
        if is_image {
            members.images.push(ImageMember {
                name: name.into(),
                offset,
                len,
            });
            continue;
        }
        let kind = match extension.as_str() {
            "json" => Record::Json,
            _ => Record::Caption,
        };
        if let (Some(group), Some(place)) = (members.groups.last_mut(), index.last_mut())
            && group.record != Record::Json
        {
            if len > MAX_SAMPLE_BYTES as u64 {
                return Err(broken(io::Error::other(format!(
                    "member {name} of {len} bytes is no record"
                ))));
            }
            group.record = kind;
            (place.offset, place.len) = (offset, len as u32);
        }
    }
    if index.is_empty() {
        return Err(Error::NoSamples {
            path: path.to_path_buf(),
        });
    }
    Ok((members, index))
}

impl Members {
    fn images_of(&self, index: usize) -> &[ImageMember] {
        let first = |i: usize| self.groups.get(i).map(|g| g.first_image as usize);
        let start = first(index).unwrap_or(self.images.len());
        let end = first(index + 1).unwrap_or(self.images.len());
        self.images.get(start..end).unwrap_or_default()
    }

    /// The LLaVA record of a sample from the bytes of its member.
    pub(super) fn record(
        &self,
        index: usize,
        bytes: &[u8],
        parse: impl Fn(&[u8]) -> Result<Value, SampleError>,
    ) -> Result<Value, SampleError> {
        let (key, kind) = self
            .groups
            .get(index)
            .map_or(("", Record::Missing), |g| (&*g.key, g.record));
        let names: Vec<String> = self
            .images_of(index)
            .iter()
            .map(|image| image.name.to_string())
            .collect();
        let mut record = match kind {
            Record::Missing => {
                return Err(SampleError::NoMember { key: key.into() });
            }
            Record::Json => match parse(bytes)? {
                Value::Object(record) => record,
                other => return Ok(other),
            },
            Record::Caption => {
                let caption = String::from_utf8_lossy(bytes);
                let question = IMAGE_TAG.repeat(names.len());
                let mut record = Map::new();
                record.insert(
                    "conversations".into(),
                    json!([{"from": "human", "value": question}, {"from": "gpt", "value": caption.trim()}]),
                );
                record
            }
        };
        records::normalise(&mut record);
        records::name_images(&mut record, names);
        record.entry("id").or_insert_with(|| key.into());
        Ok(Value::Object(record))
    }

    /// Bytes of an image; `None` for a sample whose images are not in the tar.
    pub(super) fn image(
        &self,
        file: &Positioned,
        index: usize,
        nth: usize,
    ) -> Result<Option<Vec<u8>>, String> {
        let Some(image) = self.images_of(index).get(nth) else {
            return Ok(None);
        };
        // A header may promise more than there is: what is there is read, and then judged.
        let mut bytes = Vec::new();
        let read = file
            .reader(image.offset)
            .take(image.len)
            .read_to_end(&mut bytes);
        match read {
            Ok(count) if count as u64 == image.len => Ok(Some(bytes)),
            Ok(count) => Err(format!("the tar ends after {count} of {} bytes", image.len)),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// Reads and seeks, with a place of its own.
struct SeekCursor {
    file: Positioned,
    offset: u64,
}

impl Read for SeekCursor {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }
}

impl Seek for SeekCursor {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let place = match to {
            SeekFrom::Start(place) => Some(place),
            SeekFrom::Current(by) => self.offset.checked_add_signed(by),
            SeekFrom::End(_) => None,
        };
        self.offset = place.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.offset)
    }
}
