//! OCRBench: 1000 questions over 28 sets in one file.
//!
//! # Source
//! MultimodalOCR, `OCRBench.json`: a list of `{dataset_name, id, image_path, question, answers, type}`;
//! `answers` is a string or a list. `id` counts within `dataset_name`.

use super::error::TaskError;
use super::missing::Official;
use super::record::{self, Record};
use super::task::{Draft, Question, Request};

pub(super) fn read(request: &Request) -> Result<Draft, TaskError> {
    let (split, path) = request.choose(&["test"], |_| {
        let tree = &request.tree;
        tree.find_file(|_, file| file.eq_ignore_ascii_case("OCRBench.json"))
    })?;
    let rows = record::data_rows(&path)?;
    let (questions, bad_rows) = record::convert(&path, &rows, |_, row| {
        let row = Record::new(row)?;
        let (set, id) = (row.text("dataset_name")?, row.id("id")?);
        Ok(Question {
            id: format!("{set}/{id}"),
            images: vec![row.text("image_path")?.to_string()],
            question: row.text("question")?.to_string(),
            answers: row.texts("answers")?,
            category: Some(row.text("type")?.to_string()),
            extra: row.keep(&["dataset_name"]),
            source_id: id,
        })
    });
    let folder = path.parent().unwrap_or(&request.tree.root);
    Ok(Draft {
        split,
        image_folders: request
            .tree
            .image_folders(folder, &["OCRBench_Images", "images"]),
        official: Some(Official {
            found: questions.len(),
            published: 1000,
            unit: "questions",
        }),
        sources: vec![path],
        questions,
        bad_rows,
        ..Draft::default()
    })
}
