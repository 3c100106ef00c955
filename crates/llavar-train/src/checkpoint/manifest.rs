//! `manifest.json` and `DONE`: length and checksum of every file, so that damage is seen.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read, Write},
    path::Path,
};

use serde::{Deserialize, Serialize};

const MANIFEST: &str = "manifest.json";
const DONE: &str = "DONE";

#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    /// By path within the checkpoint, with `/`.
    files: BTreeMap<String, Entry>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Entry {
    bytes: u64,
    pub(crate) crc32: String,
}

/// Whether `DONE` is there.
pub(crate) fn is_published(checkpoint: &Path) -> bool {
    checkpoint.join(DONE).is_file()
}

/// Forces every file to disk, then writes `manifest.json` and `DONE`.
pub(crate) fn seal(folder: &Path) -> io::Result<()> {
    let mut files = BTreeMap::new();
    walk(folder, "", &mut |name, path| {
        let entry = checksum(path)?;
        File::open(path)?.sync_all()?;
        files.insert(name.to_owned(), entry);
        Ok(())
    })?;
    let text = serde_json::to_vec_pretty(&Manifest { files })?;
    write_synced(&folder.join(MANIFEST), &text)?;
    let mark = format!("{:08x}\n", crc32fast::hash(&text));
    write_synced(&folder.join(DONE), mark.as_bytes())
}

/// Why a checkpoint cannot be used, in one sentence that names the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unsound {
    /// A file is missing, short or changed.
    #[error("{0}")]
    Damaged(String),
    /// The system does not let it be read now, so that nobody knows.
    #[error("{0}")]
    Unreadable(String),
}

impl Unsound {
    fn of_io(name: &str, error: &io::Error) -> Self {
        let said = format!("{name} cannot be read: {error}");
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Self::Damaged(said),
            _ => Self::Unreadable(said),
        }
    }
}

/// Checks every file of a checkpoint against its manifest.
///
/// # Errors
/// What is wrong with the first file that is missing, short, changed or cannot be read.
pub fn verify(checkpoint: &Path) -> Result<(), Unsound> {
    let damaged = |reason: String| Err(Unsound::Damaged(reason));
    let read = |name: &str| fs::read(checkpoint.join(name)).map_err(|e| Unsound::of_io(name, &e));
    let mark = read(DONE)?;
    let text = read(MANIFEST)?;
    if String::from_utf8_lossy(&mark).trim() != format!("{:08x}", crc32fast::hash(&text)) {
        return damaged(format!("{MANIFEST} is not the one that {DONE} stands for"));
    }
    let manifest: Manifest =
        serde_json::from_slice(&text).map_err(|e| Unsound::Damaged(format!("{MANIFEST}: {e}")))?;
    for (name, want) in &manifest.files {
        let got = checksum(&checkpoint.join(name)).map_err(|e| Unsound::of_io(name, &e))?;
        if got.bytes != want.bytes {
            return damaged(format!(
                "{name} has {} bytes, expected {}",
                got.bytes, want.bytes
            ));
        }
        if got != *want {
            return damaged(format!("{name} was changed: its checksum differs"));
        }
    }
    Ok(())
}

/// Whether two files, or all files of two folders, hold the same bytes.
pub(crate) fn same_content(a: &Path, b: &Path) -> io::Result<bool> {
    if !(a.is_dir() && b.is_dir()) {
        return Ok(a.is_file() && b.is_file() && checksum(a)? == checksum(b)?);
    }
    let all = |folder: &Path| {
        let mut files = BTreeMap::new();
        walk(folder, "", &mut |name, path| {
            files.insert(name.to_owned(), checksum(path)?);
            Ok(())
        })?;
        io::Result::Ok(files)
    };
    Ok(all(a)? == all(b)?)
}

/// Length and checksum of a file.
pub(crate) fn checksum(path: &Path) -> io::Result<Entry> {
    let mut file = File::open(path)?;
    let mut hasher = crc32fast::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    let mut bytes = 0;
    loop {
        let read = file.read(&mut buffer)?;
        let Some(part) = buffer.get(..read).filter(|part| !part.is_empty()) else {
            break;
        };
        hasher.update(part);
        bytes += read as u64;
    }
    Ok(Entry {
        bytes,
        crc32: format!("{:08x}", hasher.finalize()),
    })
}

fn walk(
    folder: &Path,
    prefix: &str,
    visit: &mut dyn FnMut(&str, &Path) -> io::Result<()>,
) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            walk(&entry.path(), &format!("{name}/"), visit)?;
        } else {
            visit(&name, &entry.path())?;
        }
    }
    sync_folder(folder)
}

/// Forces the names in a folder to disk; systems that cannot sync folders do not need it.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

pub(crate) fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}
