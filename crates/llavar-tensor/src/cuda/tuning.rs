//! Choosing among cuBLASLt's algorithms by measurement.
//!
//! The library's first guess is a few percent to a fifth slower than the best of its first guesses. For
//! large products the candidates are timed once, on the operands at hand into scratch memory, and the
//! choice is kept on disk under GPU, library version and shape: a later run takes the same algorithm
//! and gives the same bits. Where nothing can be kept, the first guess is taken, for the same reason.

use std::{fs, io::Write, path::PathBuf};

/// Products of fewer multiply-adds take the first guess: they end before a difference shows.
pub(super) const LEAST: usize = 64 << 20;

/// Candidates that are timed.
pub(super) const CANDIDATES: usize = 8;

/// Timed runs of a candidate.
pub(super) const RUNS: usize = 3;

/// A choice as it is kept: the algorithm's opaque words.
pub(super) type Words = [u64; 8];

/// Where choices are kept.
#[derive(Debug)]
pub(super) struct Choices {
    folder: Option<PathBuf>,
}

impl Choices {
    /// Choices for one GPU and library, below the cache folder; none where it cannot be written.
    pub(super) fn new(cache: Option<PathBuf>, gpu: &str, library: usize) -> Self {
        let name: String = gpu
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
            .collect();
        let folder = cache.map(|cache| cache.join("products").join(format!("{name}-{library}")));
        let usable = |folder: &PathBuf| {
            fs::create_dir_all(folder).is_ok() && tempfile(folder, b"", "probe").is_some()
        };
        Self {
            folder: folder.filter(usable),
        }
    }

    /// Whether a choice can be kept.
    pub(super) fn can_keep(&self) -> bool {
        self.folder.is_some()
    }

    /// The choice made earlier.
    pub(super) fn get(&self, key: &str) -> Option<Words> {
        let bytes = fs::read(self.folder.as_ref()?.join(key)).ok()?;
        let (words, rest) = bytes.as_chunks::<8>();
        if !rest.is_empty() {
            return None;
        }
        let words: Vec<u64> = words.iter().map(|w| u64::from_le_bytes(*w)).collect();
        words.try_into().ok()
    }

    /// Keeps a choice; false where that failed.
    pub(super) fn put(&self, key: &str, words: Words) -> bool {
        let Some(folder) = &self.folder else {
            return false;
        };
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        let aside = tempfile(folder, &bytes, key);
        aside.is_some_and(|aside| fs::rename(aside, folder.join(key)).is_ok())
    }
}

/// A file of this process with these bytes.
fn tempfile(folder: &std::path::Path, bytes: &[u8], key: &str) -> Option<PathBuf> {
    let path = folder.join(format!("{key}.{}.tmp", std::process::id()));
    let mut file = fs::File::create(&path).ok()?;
    file.write_all(bytes).ok()?;
    if bytes.is_empty() {
        fs::remove_file(&path).ok()?;
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_come_back_and_damage_is_no_choice() {
        let root = std::env::temp_dir().join(format!("llavar-choices-{}", std::process::id()));
        let choices = Choices::new(Some(root.clone()), "A GPU/9", 130_100);
        assert!(choices.can_keep() && choices.get("a").is_none());
        let words = [1, u64::MAX, 3, 4, 5, 6, 7, 8];
        assert!(choices.put("a", words));
        assert_eq!(choices.get("a"), Some(words));
        let file = root.join("products/A-GPU-9-130100/a");
        fs::write(&file, [0; 63]).unwrap();
        assert_eq!(choices.get("a"), None);
        fs::write(&file, [0; 72]).unwrap();
        assert_eq!(choices.get("a"), None);
        fs::remove_dir_all(&root).unwrap();
        assert!(!Choices::new(None, "x", 1).put("a", words));
    }
}
