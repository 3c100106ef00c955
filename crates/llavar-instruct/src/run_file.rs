//! What a run folder keeps beside its journal: how it was made, and what was made of every picture.

use std::{
    fs::File,
    io::{BufRead, BufReader, Write},
    path::{Component, Path, PathBuf},
};

use llavar_data::write::write_whole;
use serde::{Deserialize, Serialize};

use crate::{InstructError, PictureResult, Prompt, Sampling, Settings};

/// How a run was made: `run.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunFile {
    /// Version of the program.
    pub version: String,
    /// Folder of the pictures, as it was given.
    pub images: PathBuf,
    /// The same folder seen from the run folder, by which a run is read from anywhere; absent where the two have no
    /// root in common, and in runs of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images_from_run: Option<PathBuf>,
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

    /// Where the pictures of this run in the folder `run` are: seen from there, or as given. The first names the
    /// same folder wherever the program was started.
    pub fn folder(&self, run: &Path) -> PathBuf {
        let seen = self.images_from_run.as_ref().map(|images| run.join(images));
        seen.filter(|seen| seen.is_dir())
            .unwrap_or_else(|| self.images.clone())
    }

    /// Writes it, with the way to the pictures from the run folder, which is made where it is not there.
    ///
    /// # Errors
    /// [`InstructError::Io`].
    pub fn write(&self, run: &Path) -> Result<(), InstructError> {
        std::fs::create_dir_all(run).map_err(InstructError::io(run))?;
        let file = Self {
            images_from_run: seen_from(run, &self.images),
            ..self.clone()
        };
        write_json(&run.join(Self::NAME), &file)
    }
}

/// The way from one folder that is there to another, both links resolved; `None` without a root in common.
fn seen_from(folder: &Path, target: &Path) -> Option<PathBuf> {
    let (folder, target) = (folder.canonicalize().ok()?, target.canonicalize().ok()?);
    let shared = folder
        .components()
        .zip(target.components())
        .take_while(|(a, b)| a == b)
        .count();
    if shared == 0 {
        return None;
    }
    let up = folder
        .components()
        .skip(shared)
        .map(|_| Component::ParentDir);
    Some(up.chain(target.components().skip(shared)).collect())
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_folder_is_found_from_another() {
        let root = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let path = root.path().join(name);
            std::fs::create_dir_all(&path).unwrap();
            path
        };
        let (run, images) = (make("runs/posters"), make("pictures/of june"));
        let way = seen_from(&run, &images).unwrap();
        assert_eq!(way, Path::new("../../pictures/of june"));
        assert_eq!(
            run.join(&way).canonicalize().unwrap(),
            images.canonicalize().unwrap()
        );
        assert_eq!(seen_from(&images, &images.join("..")), Some("..".into()));
        assert_eq!(seen_from(&run, &run.join("new")), None, "not there yet");
    }
}
