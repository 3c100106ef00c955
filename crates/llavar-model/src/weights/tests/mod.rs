mod formats;
mod hostile;
mod int8;
mod matching;
pub(crate) mod samples;

use std::io::Write as _;
use std::path::PathBuf;

pub(crate) fn shared(test: &str) -> Option<PathBuf> {
    let path = std::env::var_os("LLAVAR_SHARED")
        .map(PathBuf::from)
        .unwrap_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared")));
    if path.join("parity").is_dir() {
        return Some(path.join("parity"));
    }
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: LLAVAR_SHARED not found");
    None
}

/// Every folder below the parity data.
pub(crate) fn folders(parity: &std::path::Path) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = std::fs::read_dir(parity)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    folders.sort();
    folders
}
