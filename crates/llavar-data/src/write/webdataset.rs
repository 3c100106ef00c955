//! WebDataset: shards of tar files in which a record lies beside its picture.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use super::aside;
use crate::{Error, Sample};

/// Writes samples, each with the bytes of its picture, as `PREFIX-000000.tar`, `PREFIX-000001.tar`, ... of
/// about `shard_bytes` each. Returns the shards; others of that prefix, of an earlier state of the set, go.
///
/// Keys are the number of the sample and the name of its picture, so they are unique and sorted. Times and
/// owners are zero: the same samples give the same bytes.
///
/// # Errors
/// [`Error::Io`], and what `samples` gives; shards that were whole before stay.
pub fn write_webdataset(
    folder: &Path,
    prefix: &str,
    shard_bytes: u64,
    samples: impl IntoIterator<Item = Result<(Sample, Vec<u8>), Error>>,
) -> Result<Vec<PathBuf>, Error> {
    let mut shards = Vec::new();
    let mut open: Option<Shard> = None;
    for (number, sample) in samples.into_iter().enumerate() {
        let (sample, picture) = sample?;
        if open
            .as_ref()
            .is_some_and(|shard| shard.bytes >= shard_bytes)
            && let Some(full) = open.take()
        {
            shards.push(full.finish()?);
        }
        let shard = match &mut open {
            Some(shard) => shard,
            none => {
                let path = folder.join(format!("{prefix}-{:06}.tar", shards.len()));
                none.insert(Shard::create(path)?)
            }
        };
        shard.add(number, &sample, &picture)?;
    }
    if let Some(last) = open {
        shards.push(last.finish()?);
    }
    remove_others(folder, prefix, shards.len()).map_err(|source| Error::Io {
        path: folder.to_owned(),
        source,
    })?;
    Ok(shards)
}

/// Removes the shards from number `from` on: who reads `PREFIX-*.tar` must not find samples that are out.
fn remove_others(folder: &Path, prefix: &str, from: usize) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| {
            let number = name.strip_prefix(prefix)?.strip_prefix('-')?;
            let number = number.strip_suffix(".tar")?;
            let is_ours = number.len() >= 6 && number.bytes().all(|b| b.is_ascii_digit());
            number.parse::<usize>().ok().filter(|_| is_ours)
        });
        if number.is_some_and(|number| number >= from) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

struct Shard {
    path: PathBuf,
    tar: tar::Builder<BufWriter<File>>,
    bytes: u64,
}

impl Shard {
    fn create(path: PathBuf) -> Result<Self, Error> {
        let file = File::create(aside(&path)).map_err(|source| Error::Io {
            path: path.clone(),
            source,
        })?;
        Ok(Self {
            path,
            tar: tar::Builder::new(BufWriter::new(file)),
            bytes: 0,
        })
    }

    fn add(&mut self, number: usize, sample: &Sample, picture: &[u8]) -> Result<(), Error> {
        let name = sample.images.first().map_or("", String::as_str);
        let key = key(number, name);
        let mut record = sample.to_json();
        if let Some(record) = record.as_object_mut() {
            // The picture beside it is the picture.
            record.shift_remove("image");
        }
        let mut json = record.to_string();
        json.push('\n');
        let extension = Path::new(name)
            .extension()
            .map_or("jpg".to_owned(), |e| e.to_string_lossy().to_lowercase());
        let done = self
            .member(&format!("{key}.json"), json.as_bytes())
            .and_then(|()| self.member(&format!("{key}.{extension}"), picture));
        done.map_err(|source| Error::Io {
            path: self.path.clone(),
            source,
        })
    }

    fn member(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        self.bytes += bytes.len() as u64;
        self.tar.append_data(&mut header, name, bytes)
    }

    fn finish(self) -> Result<PathBuf, Error> {
        let Self { path, tar, .. } = self;
        let finish = || -> io::Result<()> {
            let mut file = tar.into_inner()?;
            file.flush()?;
            file.get_ref().sync_all()?;
            std::fs::rename(aside(&path), &path)
        };
        match finish() {
            Ok(()) => Ok(path),
            Err(source) => Err(Error::Io { path, source }),
        }
    }
}

/// `000012-stem`: what stands after the first dot of a member's name is its kind, so the stem has none.
fn key(number: usize, name: &str) -> String {
    let stem = Path::new(name)
        .file_stem()
        .map_or(String::new(), |stem| stem.to_string_lossy().into_owned());
    let plain = |c: char| match c {
        c if c.is_ascii_alphanumeric() || c == '-' => c,
        _ => '_',
    };
    let stem: String = stem.chars().map(plain).take(60).collect();
    format!("{number:06}-{stem}")
}
