//! What the scores of a file were measured with.

use std::{fs::File, io::Read, path::Path};

use serde::{Deserialize, Serialize};

use crate::{
    Compat, Duos, ScoreSet, Scorer, SelectError,
    hash::{START, fnv1a},
    scorer::Model,
};

/// Bytes of each file of the model folder that count: enough to tell models apart, quick for large ones.
const FINGERPRINT_BYTES: u64 = 1 << 20;

/// Settings that decide the scores; a file never holds rows of two of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunInfo {
    /// Version of the columns.
    pub schema: u32,
    /// Hash over names, sizes and first MiB of the model folder's files; name and address of a model on a
    /// server.
    pub model: String,
    /// Conversation template.
    pub template: String,
    /// Element type of the model.
    pub dtype: String,
    /// Scores measured.
    pub scores: ScoreSet,
    /// When conversations are duos.
    pub duos: Duos,
    /// Spans of the formulas.
    pub compat: Compat,
    /// Longest text, tokens; absent where a server sets the limit.
    pub max_length: Option<usize>,
}

impl RunInfo {
    /// The settings of a scorer; `folder` is where its model lies, and of no account for one on a server.
    ///
    /// # Errors
    /// [`SelectError::Io`] where the folder cannot be read.
    pub fn new(scorer: &Scorer<'_>, folder: &Path) -> Result<Self, SelectError> {
        let options = scorer.options();
        let (model, dtype) = match scorer.model() {
            Model::Local(assistant) => {
                (fingerprint(folder)?, assistant.model().dtype().to_string())
            }
            Model::Remote(model) => (model.to_string(), "of the server".to_owned()),
        };
        Ok(Self {
            schema: 1,
            model,
            template: scorer.template().name().as_str().to_owned(),
            dtype,
            scores: options.scores,
            duos: options.duos,
            compat: options.compat,
            max_length: scorer.max_length(),
        })
    }

    /// The first setting that differs: its name, the one here, the other.
    pub(crate) fn difference(&self, other: &Self) -> Option<(&'static str, String, String)> {
        let fields = |info: &Self| {
            [
                ("schema", info.schema.to_string()),
                ("model", info.model.clone()),
                ("template", info.template.clone()),
                ("dtype", info.dtype.clone()),
                ("scores", info.scores.to_string()),
                ("duos", format!("{:?}", info.duos).to_lowercase()),
                ("compat", format!("{:?}", info.compat).to_lowercase()),
                (
                    "max length",
                    info.max_length.map_or("none".to_owned(), |n| n.to_string()),
                ),
            ]
        };
        let pairs = fields(self).into_iter().zip(fields(other));
        pairs
            .filter(|((_, a), (_, b))| a != b)
            .map(|((name, a), (_, b))| (name, a, b))
            .next()
    }
}

fn fingerprint(folder: &Path) -> Result<String, SelectError> {
    let io = |source| SelectError::Io {
        path: folder.to_path_buf(),
        source,
    };
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .map_err(io)?
        .filter_map(Result::ok)
        .filter(|entry| entry.path().is_file())
        .map(|entry| (entry.file_name(), entry.path()))
        .filter(|(name, _)| {
            let name = name.to_string_lossy();
            [".json", ".safetensors", ".bin", ".model"]
                .iter()
                .any(|end| name.ends_with(end))
        })
        .collect();
    files.sort();
    let mut hash = START;
    for (name, path) in files {
        let file = File::open(&path).map_err(io)?;
        let size = file.metadata().map_err(io)?.len();
        let mut start = Vec::new();
        file.take(FINGERPRINT_BYTES)
            .read_to_end(&mut start)
            .map_err(io)?;
        hash = fnv1a(hash, name.to_string_lossy().as_bytes());
        hash = fnv1a(hash, &size.to_le_bytes());
        hash = fnv1a(hash, &start);
    }
    Ok(format!("{hash:016x}"))
}
