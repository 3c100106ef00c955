//! Finding the pictures of a benchmark and looking at their headers.

use llavar_data::{ImageFolder, ImagePathError};
use llavar_image::{DecodeLimits, ImageFormat, probe_file};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// How closely pictures are looked at when a task is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ImageCheck {
    /// Not at all: for scoring answers that are already there.
    None,
    /// The file exists and its header gives a format and a size; no pixel is decoded.
    #[default]
    Header,
}

/// Folders in which the pictures of a task may lie, and what was found so far.
pub(super) struct Images {
    folders: Vec<ImageFolder>,
    check: ImageCheck,
    limits: DecodeLimits,
    seen: HashMap<String, Option<PathBuf>>,
    pub(super) absent: Vec<String>,
    pub(super) unusable: Vec<(String, String)>,
}

impl Images {
    /// Folders that do not exist are passed over.
    pub(super) fn new(folders: &[PathBuf], check: ImageCheck) -> Self {
        Self {
            folders: folders
                .iter()
                .filter_map(|f| ImageFolder::open(f).ok())
                .collect(),
            check,
            limits: DecodeLimits::default(),
            seen: HashMap::new(),
            absent: Vec::new(),
            unusable: Vec::new(),
        }
    }

    /// Distinct pictures asked for so far.
    pub(super) fn len(&self) -> usize {
        self.seen.len()
    }

    /// The file of a picture. `names` are the paths under which it may lie; the first is its name in
    /// reports.
    pub(super) fn find(&mut self, names: &[String]) -> Option<PathBuf> {
        let name = names.first()?;
        if self.check == ImageCheck::None {
            return None;
        }
        if let Some(known) = self.seen.get(name) {
            return known.clone();
        }
        let found = match self.locate(names) {
            Ok(Some(path)) => match probe_file(&path, &self.limits) {
                Ok(_) => Some(path),
                Err(error) => {
                    self.unusable.push((name.clone(), chain(&error)));
                    None
                }
            },
            Ok(None) => {
                self.absent.push(name.clone());
                None
            }
            Err(error) => {
                self.unusable.push((name.clone(), chain(&error)));
                None
            }
        };
        self.seen.insert(name.clone(), found.clone());
        found
    }

    /// Tries every folder with every name, then the same names with other extensions: copies of the
    /// published sets are often converted.
    fn locate(&self, names: &[String]) -> Result<Option<PathBuf>, ImagePathError> {
        let mut refused = None;
        for folder in &self.folders {
            for name in names {
                match folder.resolve(name) {
                    Ok(path) => return Ok(Some(path)),
                    Err(ImagePathError::Missing { .. } | ImagePathError::NotAFile { .. }) => {}
                    Err(error) => refused = Some(error),
                }
            }
        }
        if let Some(error) = refused {
            return Err(error);
        }
        for folder in &self.folders {
            for name in names {
                for extension in ImageFormat::ENDINGS {
                    let other = Path::new(name).with_extension(extension);
                    if let Some(Ok(path)) = other.to_str().map(|other| folder.resolve(other)) {
                        return Ok(Some(path));
                    }
                }
            }
        }
        Ok(None)
    }
}

/// An error with its sources, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(next) = source {
        let more = next.to_string();
        // Messages often quote their source already.
        if !line.contains(&more) {
            line = format!("{line}: {more}");
        }
        source = next.source();
    }
    line
}
