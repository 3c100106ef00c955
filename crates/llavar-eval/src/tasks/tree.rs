//! Finding a benchmark's files below the folder that the user gave.

use super::error::TaskError;
use llavar_image::ImageFormat;
use std::path::{Path, PathBuf};

/// How deep a layout may lie below the given folder: people give the folder of one benchmark, of one
/// split, or the folder that holds all benchmarks.
const DEPTH: usize = 4;

/// One folder: names in alphabetical order.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) path: PathBuf,
    /// Files other than pictures.
    pub(super) files: Vec<String>,
    /// Number of pictures.
    pub(super) images: usize,
    pub(super) folders: Vec<String>,
}

impl Folder {
    pub(super) fn name(&self) -> &str {
        self.path.file_name().and_then(|n| n.to_str()).unwrap_or("")
    }

    pub(super) fn has_folder(&self, name: &str) -> bool {
        self.folders.iter().any(|folder| folder == name)
    }

    fn read(path: &Path) -> std::io::Result<Self> {
        let mut folder = Folder {
            path: path.to_path_buf(),
            files: Vec::new(),
            images: 0,
            folders: Vec::new(),
        };
        for entry in std::fs::read_dir(path)? {
            let entry = entry?;
            // A name that is not UTF-8 cannot be one of a published layout.
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            if name.starts_with('.') || name == "__MACOSX" {
                continue;
            }
            let kind = entry.file_type()?;
            if kind.is_dir() || (kind.is_symlink() && entry.path().is_dir()) {
                folder.folders.push(name);
            } else if ImageFormat::is_named_so(&name) {
                folder.images += 1;
            } else if kind.is_file() || entry.path().is_file() {
                folder.files.push(name);
            }
        }
        folder.files.sort();
        folder.folders.sort();
        Ok(folder)
    }
}

/// The folders below the given one, shallow ones first.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) root: PathBuf,
    pub(super) folders: Vec<Folder>,
    /// The annotation file, if the user gave one instead of a folder.
    pub(super) file: Option<PathBuf>,
}

impl Tree {
    /// Lists `start` and the folders below it. Subfolders that cannot be listed are passed over.
    pub(super) fn read(task: &'static str, start: &Path) -> Result<Self, TaskError> {
        let io = |source| TaskError::Io {
            path: start.to_path_buf(),
            source,
        };
        if start.is_file() {
            let parent = start.parent().filter(|p| !p.as_os_str().is_empty());
            let root = parent.unwrap_or(Path::new(".")).to_path_buf();
            return Ok(Self {
                folders: vec![Folder::read(&root).map_err(io)?],
                root,
                file: Some(start.to_path_buf()),
            });
        }
        if !start.is_dir() {
            return Err(TaskError::NoFolder {
                task,
                path: start.to_path_buf(),
            });
        }
        let mut folders = vec![Folder::read(start).map_err(io)?];
        let mut level = 0..1;
        for _ in 0..DEPTH {
            let end = folders.len();
            for at in level {
                let below: Vec<PathBuf> = folders[at]
                    .folders
                    .iter()
                    .map(|name| folders[at].path.join(name))
                    .collect();
                folders.extend(below.iter().filter_map(|path| Folder::read(path).ok()));
            }
            level = end..folders.len();
        }
        Ok(Self {
            root: start.to_path_buf(),
            folders,
            file: None,
        })
    }

    /// The first file whose name `wanted` accepts, in a folder whose name it accepts. A file that
    /// the user gave himself is taken as it is.
    pub(super) fn find_file(&self, wanted: impl Fn(&Folder, &str) -> bool) -> Option<PathBuf> {
        if let Some(file) = &self.file {
            return Some(file.clone());
        }
        self.folders.iter().find_map(|folder| {
            let name = folder.files.iter().find(|file| wanted(folder, file))?;
            Some(folder.path.join(name))
        })
    }

    /// Folders in which pictures may lie: the annotations' folder and the one above it (never above
    /// what the user gave), and those of `below` that exist in either.
    pub(super) fn image_folders(&self, annotations: &Path, below: &[&str]) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let above = annotations.parent();
        let starts = [
            Some(annotations),
            above.filter(|p| p.starts_with(&self.root)),
        ];
        for start in starts.into_iter().flatten() {
            found.push(start.to_path_buf());
            found.extend(below.iter().map(|b| start.join(b)).filter(|p| p.is_dir()));
        }
        found
    }
}
