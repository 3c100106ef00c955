//! What a set leaves in a folder, known by name, and how it goes when another is to take its place.

use std::ffi::OsStr;
use std::fs::{DirEntry, read_dir, remove_file};
use std::io::{Error, ErrorKind};
use std::path::Path;

use crate::config::DocKind;
use crate::error::SynthError;

/// [`crate::SetCard`] of a set.
pub(crate) const CARD: &str = "card.json";
/// The list by which a folder is known to hold a set.
const DATA: &str = "data.json";
/// What else lies beside the pictures.
const LISTS: [&str; 4] = [
    "captions.json",
    "transcriptions.json",
    "words.jsonl",
    "facts.jsonl",
];
/// Folder of the pictures.
pub(crate) const IMAGES: &str = "images";
/// Files begin with this until they are whole.
pub(crate) const UNFINISHED: &str = ".writing-";

/// Id of a document, which is the stem of its picture.
pub(crate) fn id(kind: DocKind, index: u64) -> String {
    format!("{}_{index:07}", kind.name())
}

/// Removes the set that [`crate::write_set`] wrote to a folder, whole or not: the lists, the pictures named
/// `KIND_INDEX`, and what a run that was killed had begun. Everything else stays, and so do links.
///
/// `card.json` goes first, so that nobody takes what is left for a whole set; `data.json` goes last, so
/// that a run which ends in between is seen to have left something.
///
/// # Errors
/// [`SynthError::Io`] for what cannot be listed or removed.
pub fn remove_set(out_dir: &Path) -> Result<(), SynthError> {
    for name in [CARD].into_iter().chain(LISTS) {
        remove(&out_dir.join(name))?;
    }
    let images = out_dir.join(IMAGES);
    remove_named(&images, &|name| is_picture(name) || is_unfinished(name))?;
    remove_named(out_dir, &is_unfinished)?;
    remove(&out_dir.join(DATA))
}

/// Removes what tells of the pictures of an earlier set in the folder.
pub(crate) fn remove_lists(out_dir: &Path) -> Result<(), SynthError> {
    let mut names = [CARD, DATA].into_iter().chain(LISTS);
    names.try_for_each(|name| remove(&out_dir.join(name)))
}

/// Removes the plain files of a folder, if there is one, that have such names.
fn remove_named(folder: &Path, is_own: &dyn Fn(&str) -> bool) -> Result<(), SynthError> {
    let failed = |e| SynthError::io("list", folder, e);
    let entries = match read_dir(folder) {
        Err(e) if is_absent(&e) => return Ok(()),
        listing => listing.map_err(failed)?,
    };
    let is_file = |entry: &DirEntry| entry.file_type().is_ok_and(|kind| kind.is_file());
    for entry in entries {
        let entry = entry.map_err(failed)?;
        if entry.file_name().to_str().is_some_and(is_own) && is_file(&entry) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

fn remove(path: &Path) -> Result<(), SynthError> {
    match remove_file(path) {
        Err(e) if !is_absent(&e) => Err(SynthError::io("remove", path, e)),
        _ => Ok(()),
    }
}

/// A file in place of a folder is told of when the folder is made.
fn is_absent(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// Whether a picture of a set, in either format, is called so.
fn is_picture(name: &str) -> bool {
    let path = Path::new(name);
    let ending = path.extension().and_then(OsStr::to_str);
    let stem = path.file_stem().and_then(OsStr::to_str).unwrap_or_default();
    let Some((_, digits)) = stem.rsplit_once('_') else {
        return false;
    };
    let Ok(index) = digits.parse() else {
        return false;
    };
    // Only what would be written again letter by letter: no other padding, no sign.
    matches!(ending, Some("png" | "jpg"))
        && DocKind::ALL.iter().any(|kind| id(*kind, index) == stem)
}

/// Whether a file of a run that was killed is called so.
fn is_unfinished(name: &str) -> bool {
    name.strip_prefix(UNFINISHED)
        .is_some_and(|rest| rest.len() == 6 && rest.bytes().all(|b| b.is_ascii_alphanumeric()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_pictures() {
        for kind in DocKind::ALL {
            for index in [0, 12, 1_234_567, u64::MAX] {
                assert!(is_picture(&format!("{}.jpg", id(kind, index))));
            }
        }
        for name in [
            "receipt_0000001.jpeg",
            "receipt_0000001",
            "receipt_000001.jpg",
            "receipt_00000001.jpg",
            "receipt_+000001.jpg",
            "receipt_0000001_mine.png",
            "my_receipt_0000001.png",
            "invoice_0000001.png",
            "0000001.png",
            "receipt.png",
        ] {
            assert!(!is_picture(name), "{name}");
        }
        assert!(is_unfinished(".writing-aB3xYz"));
        for name in [
            ".writing-note",
            ".writing-",
            "writing-aB3xYz",
            ".writing-a.b.c.",
        ] {
            assert!(!is_unfinished(name), "{name}");
        }
    }
}
