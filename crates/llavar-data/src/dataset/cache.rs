//! Where indexes and other things that can be made again are kept.

use std::{
    fs::Metadata,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

/// A folder for what was found out about large files, so that they open at once the next time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    /// The folder; `None` keeps everything in memory.
    pub folder: Option<PathBuf>,
    /// Sets of fewer samples are indexed anew each time, which takes milliseconds.
    pub min_samples: usize,
    /// Records of a container up to so many bytes stay in memory.
    pub max_memory: usize,
}

impl Cache {
    /// `$LLAVAR_CACHE`, `$XDG_CACHE_HOME/llavar` or `~/.cache/llavar`.
    pub fn of_user() -> Self {
        let variable = |name| std::env::var_os(name).map(PathBuf::from);
        let folder = variable("LLAVAR_CACHE")
            .or_else(|| variable("XDG_CACHE_HOME").map(|p| p.join("llavar")))
            .or_else(|| variable("HOME").map(|p| p.join(".cache/llavar")));
        Self {
            folder,
            ..Self::none()
        }
    }

    /// No folder.
    pub fn none() -> Self {
        Self {
            folder: None,
            min_samples: 1 << 16,
            max_memory: 16 << 20,
        }
    }

    /// The file for what is known of `source`; other sources and other `salt` have other files.
    pub fn file(&self, kind: &str, source: &Path, salt: &str) -> Option<PathBuf> {
        let folder = self.folder.as_ref()?;
        let full = source.canonicalize().unwrap_or_else(|_| source.into());
        let mut hasher = DefaultHasher::new();
        (full, salt).hash(&mut hasher);
        let stem = source.file_stem().unwrap_or_default().to_string_lossy();
        let stem: String = stem.chars().take(60).collect();
        Some(
            folder
                .join(kind)
                .join(format!("{stem}-{:016x}", hasher.finish())),
        )
    }
}

/// Size and time of change of a file: what tells that it is still the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Stamp {
    /// Bytes.
    pub bytes: u64,
    /// Nanoseconds since 1970; 0 where the system does not tell.
    pub modified: u64,
}

impl Stamp {
    /// The stamp of an open file or a path.
    pub fn of(metadata: &Metadata) -> Self {
        let since = metadata.modified().ok();
        let since = since.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        Self {
            bytes: metadata.len(),
            modified: since.map_or(0, |d| d.as_nanos() as u64),
        }
    }
}

/// A name beside `path` for a file that is being written; processes do not share it.
pub(crate) fn aside(path: &Path) -> io::Result<PathBuf> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.partial", std::process::id()));
    Ok(path.with_file_name(name))
}
