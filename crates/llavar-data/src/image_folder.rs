//! Confinement of image paths to one folder.
//!
//! A data file comes from somewhere else, so its paths are hostile until shown otherwise: only
//! regular files that lie below the folder, after all links are followed, are handed out.

use crate::dataset::ImageSource;
use crate::error::{Error, ImagePathError};
use crate::remote::{self, Retry};
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

/// Largest picture that is fetched, bytes; as much as a local file may have.
const MOST_BYTES: u64 = 256 << 20;

/// A folder below which all images of a data set lie, on disk or on a web server.
#[derive(Debug, Clone)]
pub struct ImageFolder {
    root: PathBuf,
    canonical: PathBuf,
    /// In full, where it is on a web server; `root` is without what signs it.
    address: Option<String>,
}

impl ImageFolder {
    /// Opens the folder.
    ///
    /// # Errors
    /// [`Error::Io`] where it does not exist or is no folder.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let io = |source| Error::Io {
            path: path.to_path_buf(),
            source,
        };
        if remote::is_remote(path) {
            // Whether it is there shows with the first picture: servers do not list folders.
            let address = path.to_string_lossy().into_owned();
            let root = PathBuf::from(remote::shown(&address));
            return Ok(Self {
                canonical: root.clone(),
                root,
                address: Some(address),
            });
        }
        let canonical = path.canonicalize().map_err(io)?;
        if !canonical.is_dir() {
            return Err(io(std::io::Error::from(ErrorKind::NotADirectory)));
        }
        Ok(Self {
            root: path.to_path_buf(),
            canonical,
            address: None,
        })
    }

    /// The folder as it was given.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// Whether it lies on a web server.
    pub fn is_remote(&self) -> bool {
        self.address.is_some()
    }

    /// Fetches an image of a folder on a web server.
    ///
    /// # Errors
    /// [`ImagePathError`]: as [`ImageFolder::resolve`], and what the server says.
    pub fn fetch(&self, image: &str) -> Result<ImageSource, ImagePathError> {
        self.check(image)?;
        let folder = self.address.as_deref().unwrap_or_default();
        let url = remote::join(folder, &image.replace('\\', "/"));
        match remote::fetch(&url, MOST_BYTES, &Retry::default()) {
            Ok(bytes) => Ok(ImageSource::Bytes {
                name: PathBuf::from(remote::shown(&url)),
                bytes,
            }),
            Err(error) => Err(ImagePathError::InContainer {
                image: image.to_owned(),
                path: self.root.clone(),
                reason: error.to_string(),
            }),
        }
    }

    /// Resolves a path of the data file to an existing regular file below the folder.
    ///
    /// The result is free of links, so what is opened is what was checked.
    ///
    /// # Errors
    /// [`ImagePathError`]: empty, absolute, with a `..`, leading out through a link, missing, or no
    /// regular file.
    pub fn resolve(&self, image: &str) -> Result<PathBuf, ImagePathError> {
        self.check(image)?;
        let folder = || self.root.clone();
        let name = || image.to_string();
        let joined = self.canonical.join(image);
        match joined.canonicalize() {
            Ok(target) => {
                if !target.starts_with(&self.canonical) {
                    return Err(ImagePathError::LeavesFolder {
                        image: name(),
                        folder: folder(),
                        target,
                    });
                }
                if !target.is_file() {
                    return Err(ImagePathError::NotAFile {
                        image: name(),
                        folder: folder(),
                    });
                }
                Ok(target)
            }
            Err(source) if source.kind() == ErrorKind::NotFound => {
                Err(self.why_missing(image, &joined))
            }
            // `a.png/b.png` where a.png is a file.
            Err(source) if source.kind() == ErrorKind::NotADirectory => {
                Err(ImagePathError::Missing {
                    image: name(),
                    folder: folder(),
                })
            }
            Err(source) => Err(ImagePathError::Io {
                image: name(),
                folder: folder(),
                source,
            }),
        }
    }

    /// What a name alone tells.
    fn check(&self, image: &str) -> Result<(), ImagePathError> {
        let folder = || self.root.clone();
        let name = || image.to_string();
        if image.trim().is_empty() || image.contains('\0') {
            return Err(ImagePathError::NotAName { image: name() });
        }
        // Backslashes and drive letters count on every system: the same data file must not be
        // harmless here and harmful there.
        if image.starts_with(['/', '\\']) || has_drive(image) {
            return Err(ImagePathError::Absolute {
                image: name(),
                folder: folder(),
            });
        }
        if image.split(['/', '\\']).any(|part| part == "..") {
            return Err(ImagePathError::Parent {
                image: name(),
                folder: folder(),
            });
        }
        for component in Path::new(image).components() {
            match component {
                Component::Normal(_) | Component::CurDir => {}
                Component::ParentDir => {
                    return Err(ImagePathError::Parent {
                        image: name(),
                        folder: folder(),
                    });
                }
                Component::RootDir | Component::Prefix(_) => {
                    return Err(ImagePathError::Absolute {
                        image: name(),
                        folder: folder(),
                    });
                }
            }
        }
        Ok(())
    }

    /// A missing file behind a link that leaves the folder is refused for the link: the answer must
    /// not tell what exists outside.
    fn why_missing(&self, image: &str, joined: &Path) -> ImagePathError {
        for ancestor in joined.ancestors() {
            if ancestor == self.canonical {
                break;
            }
            let target = match ancestor.canonicalize() {
                Ok(target) => Some(target),
                // A link that leads nowhere: judge by where it points.
                Err(_) => std::fs::read_link(ancestor).ok().map(|link| {
                    let parent = ancestor.parent().unwrap_or(&self.canonical);
                    normalise(&parent.join(link))
                }),
            };
            if let Some(target) = target
                && !target.starts_with(&self.canonical)
            {
                return ImagePathError::LeavesFolder {
                    image: image.to_string(),
                    folder: self.root.clone(),
                    target,
                };
            }
        }
        ImagePathError::Missing {
            image: image.to_string(),
            folder: self.root.clone(),
        }
    }
}

fn has_drive(image: &str) -> bool {
    let bytes = image.as_bytes();
    bytes.len() >= 3
        && bytes[0].is_ascii_alphabetic()
        && bytes[1] == b':'
        && matches!(bytes[2], b'/' | b'\\')
}

/// Removes `.` and `..` by name alone; only for messages about links that lead nowhere.
fn normalise(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => {
                out.pop();
            }
            Component::CurDir => {}
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, ImageFolder) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("images");
        std::fs::create_dir_all(root.join("sub")).unwrap();
        std::fs::write(root.join("sub/a.png"), b"x").unwrap();
        std::fs::write(dir.path().join("secret.png"), b"x").unwrap();
        let folder = ImageFolder::open(&root).unwrap();
        (dir, folder)
    }

    #[test]
    fn files_below_resolve() {
        let (_dir, folder) = folder();
        assert!(folder.resolve("sub/a.png").unwrap().ends_with("sub/a.png"));
        assert!(folder.resolve("./sub/./a.png").is_ok());
    }

    #[test]
    fn absolute_and_parent_are_refused() {
        let (dir, folder) = folder();
        let absolute = dir.path().join("images/sub/a.png");
        for bad in [
            absolute.to_str().unwrap(),
            "/etc/passwd",
            "\\x",
            "C:\\x.png",
        ] {
            let error = folder.resolve(bad).unwrap_err();
            assert!(
                matches!(error, ImagePathError::Absolute { .. }),
                "{bad}: {error}"
            );
        }
        for bad in [
            "../secret.png",
            "sub/../sub/a.png",
            "sub\\..\\..\\secret.png",
            "..",
        ] {
            let error = folder.resolve(bad).unwrap_err();
            assert!(
                matches!(error, ImagePathError::Parent { .. }),
                "{bad}: {error}"
            );
        }
        for bad in ["", "  ", "a\0b"] {
            let error = folder.resolve(bad).unwrap_err();
            assert!(matches!(error, ImagePathError::NotAName { .. }), "{error}");
        }
    }

    #[test]
    fn missing_and_folders_are_named() {
        let (_dir, folder) = folder();
        for missing in ["no.png", "no/such/a.png", "sub/a.png/b.png"] {
            let error = folder.resolve(missing).unwrap_err();
            assert!(matches!(error, ImagePathError::Missing { .. }), "{error}");
            assert!(error.to_string().contains(missing));
        }
        let error = folder.resolve("sub").unwrap_err();
        assert!(matches!(error, ImagePathError::NotAFile { .. }), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn links_may_not_leave() {
        use std::os::unix::fs::symlink;
        let (dir, folder) = folder();
        let root = dir.path().join("images");
        symlink(dir.path().join("secret.png"), root.join("out.png")).unwrap();
        symlink(dir.path(), root.join("outdir")).unwrap();
        symlink("../gone.png", root.join("dangling.png")).unwrap();
        symlink("sub/a.png", root.join("in.png")).unwrap();
        symlink("loop.png", root.join("loop.png")).unwrap();
        for bad in [
            "out.png",
            "outdir/secret.png",
            "outdir/none.png",
            "dangling.png",
        ] {
            let error = folder.resolve(bad).unwrap_err();
            assert!(
                matches!(error, ImagePathError::LeavesFolder { .. }),
                "{bad}: {error}"
            );
        }
        assert!(folder.resolve("in.png").is_ok());
        assert!(folder.resolve("loop.png").is_err());
    }

    #[test]
    fn the_folder_must_exist() {
        let dir = tempfile::tempdir().unwrap();
        assert!(ImageFolder::open(&dir.path().join("none")).is_err());
        std::fs::write(dir.path().join("f"), b"x").unwrap();
        assert!(ImageFolder::open(&dir.path().join("f")).is_err());
    }
}
