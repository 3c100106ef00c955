//! What a run folder keeps beside its journal: how it was made, and what was made of every picture.

use std::{
    fs::File,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
};

use llavar_data::write::write_whole;
use serde::{Deserialize, Serialize};

use crate::{InstructError, PictureResult, Prompt, Sampling, Settings};

/// How a run was made: `run.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunFile {
    /// Version of the program.
    pub version: String,
    /// Folder of the pictures.
    pub images: PathBuf,
    /// File of captions.
    pub captions: Option<PathBuf>,
    /// OCR engine.
    pub ocr: String,
    /// The server; `template` without one.
    pub endpoint: String,
    /// How the model was asked; absent without one.
    pub sampling: Option<Sampling>,
    /// The prompts.
    pub prompts: Vec<Prompt>,
    /// What was made.
    pub settings: Settings,
    /// Part of the pictures that is kept for testing, 0 to 1.
    pub test_fraction: f64,
}

impl RunFile {
    const NAME: &'static str = "run.json";

    /// Reads that of a run folder.
    ///
    /// # Errors
    /// [`InstructError::Io`], [`InstructError::Line`].
    pub fn read(run: &Path) -> Result<Self, InstructError> {
        let path = run.join(Self::NAME);
        let text = std::fs::read_to_string(&path).map_err(InstructError::io(&path))?;
        serde_json::from_str(&text).map_err(|error| InstructError::Line {
            line: error.line(),
            reason: error.to_string(),
            path,
        })
    }

    /// Writes it.
    ///
    /// # Errors
    /// [`InstructError::Io`].
    pub fn write(&self, run: &Path) -> Result<(), InstructError> {
        write_json(&run.join(Self::NAME), self)
    }
}

const PICTURES: &str = "pictures.jsonl";

/// Writes what was made of every picture: `pictures.jsonl` of a run folder.
///
/// # Errors
/// [`InstructError::Io`].
pub fn write_pictures(run: &Path, pictures: &[PictureResult]) -> Result<(), InstructError> {
    write_lines(&run.join(PICTURES), pictures)
}

/// Reads it.
///
/// # Errors
/// [`InstructError::Io`], [`InstructError::Line`].
pub fn read_pictures(run: &Path) -> Result<Vec<PictureResult>, InstructError> {
    let path = run.join(PICTURES);
    let file = File::open(&path).map_err(InstructError::io(&path))?;
    let mut pictures = Vec::new();
    for (i, line) in BufReader::new(file).lines().enumerate() {
        let line = line.map_err(InstructError::io(&path))?;
        let picture = serde_json::from_str(&line).map_err(|error| InstructError::Line {
            path: path.clone(),
            line: i + 1,
            reason: error.to_string(),
        })?;
        pictures.push(picture);
    }
    Ok(pictures)
}

/// Writes one JSON value a line; aside first, then renamed.
pub(crate) fn write_lines<T: Serialize>(
    path: &Path,
    values: impl IntoIterator<Item = T>,
) -> Result<(), InstructError> {
    write_aside(path, |out| {
        for value in values {
            serde_json::to_writer(&mut *out, &value)?;
            out.write_all(b"\n")?;
        }
        Ok(())
    })
}

/// Writes one JSON value.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), InstructError> {
    write_aside(path, |out| {
        serde_json::to_writer_pretty(&mut *out, value)?;
        out.write_all(b"\n")
    })
}

/// Writes a file aside and renames it.
pub(crate) fn write_aside(
    path: &Path,
    body: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
) -> Result<(), InstructError> {
    write_whole(path, body).map_err(InstructError::io(path))
}
