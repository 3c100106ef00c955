//! What every engine offers, and how one is named on a command line.

use std::{fmt, path::PathBuf, str::FromStr};

use crate::{
    Line, OcrError, Page,
    ppocr::{ModelSet, PpOcr, Settings, models::SETS},
};

/// Reads text off pictures.
pub trait Engine: Send + Sync {
    /// Its name, as on the command line.
    fn name(&self) -> &'static str;

    /// All that a result depends on beside the picture: program or models with their versions, settings.
    /// `None` for an engine whose results are not to be cached.
    fn fingerprint(&self) -> Option<String>;

    /// The lines of a picture, in the engine's order: from top to bottom, neighbours from left to right.
    ///
    /// # Errors
    /// When the picture or the engine fails. A picture without text is no error.
    fn read(&self, page: &Page) -> Result<Vec<Line>, OcrError>;
}

/// Finds nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoEngine;

impl Engine for NoEngine {
    fn name(&self) -> &'static str {
        "none"
    }

    fn fingerprint(&self) -> Option<String> {
        None
    }

    fn read(&self, _page: &Page) -> Result<Vec<Line>, OcrError> {
        Ok(Vec::new())
    }
}

/// Which engine to use, as given on a command line: see [`EngineChoice::KNOWN`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum EngineChoice {
    /// No OCR.
    #[default]
    None,
    /// The `tesseract` program.
    Tesseract,
    /// PP-OCR with a set of models.
    PpOcr(&'static ModelSet),
    /// Results in JSON files: in a folder, in one file, or beside each picture.
    Sidecar(Option<PathBuf>),
}

impl EngineChoice {
    /// How engines are written.
    pub const KNOWN: &'static str =
        "ppocr, ppocr-v4, tesseract, sidecar, sidecar:FILE-OR-FOLDER, none";

    /// The best engine that can be used here as it is: PP-OCR if its models have been fetched, else Tesseract
    /// if it is installed.
    pub fn ready() -> Option<(Self, Box<dyn Engine>)> {
        let sets = SETS.iter().map(Self::PpOcr);
        let mut known = sets.chain([Self::Tesseract]);
        known.find_map(|choice| choice.open().ok().map(|engine| (choice, engine)))
    }

    /// Makes the engine ready.
    ///
    /// # Errors
    /// When its program, models or files are not there.
    pub fn open(&self) -> Result<Box<dyn Engine>, OcrError> {
        Ok(match self {
            Self::None => Box::new(NoEngine),
            Self::Tesseract => Box::new(crate::Tesseract::find()?),
            Self::PpOcr(set) => Box::new(PpOcr::of_user(set, Settings::default())?),
            Self::Sidecar(place) => Box::new(crate::Sidecar::open(place.as_deref())?),
        })
    }
}

impl FromStr for EngineChoice {
    type Err = OcrError;

    fn from_str(name: &str) -> Result<Self, OcrError> {
        if let Some(set) = ModelSet::named(name) {
            return Ok(Self::PpOcr(set));
        }
        Ok(match name.split_once(':') {
            None if name == "none" => Self::None,
            None if name == "tesseract" => Self::Tesseract,
            None if name == "sidecar" => Self::Sidecar(None),
            Some(("sidecar", place)) if !place.is_empty() => Self::Sidecar(Some(place.into())),
            _ => {
                return Err(OcrError::UnknownEngine {
                    name: name.to_owned(),
                    known: Self::KNOWN,
                });
            }
        })
    }
}

impl fmt::Display for EngineChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Tesseract => f.write_str("tesseract"),
            Self::PpOcr(set) => f.write_str(set.name),
            Self::Sidecar(None) => f.write_str("sidecar"),
            Self::Sidecar(Some(place)) => write!(f, "sidecar:{}", place.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for name in [
            "none",
            "ppocr",
            "ppocr-v4",
            "tesseract",
            "sidecar",
            "sidecar:a/b.json",
        ] {
            let choice: EngineChoice = name.parse().unwrap();
            assert_eq!(choice.to_string(), name);
        }
        for name in ["", "paddle", "sidecar:", "none:x"] {
            let error = name.parse::<EngineChoice>().unwrap_err();
            assert!(error.to_string().contains("tesseract"), "{error}");
        }
    }
}
