//! The last filter: which duos a model's scores leave.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use llavar_data::Sample;
use serde::{Deserialize, Serialize};

use super::records;
use crate::{InstructError, PictureResult, run_file};

/// What was selected: `select/selected.json` of a run folder.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selection {
    /// The model that scored.
    pub model: String,
    /// Ids of the duos that stay.
    pub kept: BTreeSet<String>,
    /// Why the others go, by id.
    pub dropped: BTreeMap<String, String>,
}

impl Selection {
    /// Folder of selection in a run folder.
    pub const FOLDER: &'static str = "select";
    const FILE: &'static str = "select/selected.json";

    /// That of a run folder; `None` where nothing was selected.
    ///
    /// # Errors
    /// [`InstructError::Io`], [`InstructError::Line`].
    pub fn read(run: &Path) -> Result<Option<Self>, InstructError> {
        let path = run.join(Self::FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(InstructError::io(&path)(error)),
        };
        let selection = serde_json::from_str(&text).map_err(|error| InstructError::Line {
            line: error.line(),
            reason: error.to_string(),
            path,
        })?;
        Ok(Some(selection))
    }

    /// Writes it, or removes what was selected before.
    ///
    /// # Errors
    /// [`InstructError::Io`].
    pub fn write(run: &Path, selection: Option<&Self>) -> Result<(), InstructError> {
        let path = run.join(Self::FILE);
        match selection {
            Some(selection) => run_file::write_json(&path, selection),
            None => match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    Err(InstructError::io(&path)(error))
                }
                _ => Ok(()),
            },
        }
    }
}

/// What is to be scored: a record of every picture with duos, and the ids of its duos in order.
pub fn candidates(pictures: &[PictureResult]) -> (Vec<Sample>, Vec<Vec<String>>) {
    let with_duos: Vec<&PictureResult> = pictures.iter().filter(|p| !p.duos.is_empty()).collect();
    let ids = with_duos.iter().map(|picture| {
        let id = |duo: &crate::Duo| duo.id(&picture.hash);
        picture.duos.iter().map(id).collect()
    });
    let ids = ids.collect();
    (records::duos(&with_duos), ids)
}
