//! One question of a benchmark.

use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// One question about one picture, with its references.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// Id, unique within the task. The data set's own question id where it has one.
    pub id: String,
    /// Id as the data set gives it; may be shared by several questions (an image id, a sample id).
    pub source_id: String,
    /// Path of the picture as the data set names it.
    pub image: String,
    /// The file, if it is there and its header can be read; links are resolved.
    pub image_path: Option<PathBuf>,
    /// The question without the task's suffix. Nothing of it is changed, not even white space.
    pub question: String,
    /// References in the data set's order, with repetitions (TextVQA counts them); none for the
    /// test split of a challenge.
    pub answers: Vec<String>,
    /// Kind of the question (OCRBench type, human or augmented, ...), for tables per kind.
    pub category: Option<String>,
    /// What else the data set says and a metric or a prompt may need.
    pub extra: Map<String, Value>,
}

impl Item {
    /// File name of the picture without folder and extension: what FUNSD and SROIE call the form.
    pub fn image_stem(&self) -> &str {
        stem(&self.image)
    }
}

/// File name without folder and extension; folders end in either slash.
pub(crate) fn stem(path: &str) -> &str {
    let name = path.rsplit(['/', '\\']).next().unwrap_or(path);
    Path::new(name)
        .file_stem()
        .and_then(|stem| stem.to_str())
        .unwrap_or(name)
}
