//! DocVQA (single page), 1.0.
//!
//! # Source
//! Robust Reading Competition, `{train,val,test}_v1.0.json` or `..._withQT.json`: `{"data": [{questionId,
//! question, image, docId, ucsf_document_id, ucsf_document_page_no, answers, question_types}]}`; the test
//! split has no answers. `image` is `documents/X_1.png`; newer archives unpack to `spdocvqa_images/X_1.png`.

use super::error::TaskError;
use super::missing::Official;
use super::record::{self, Record};
use super::task::{Draft, Question, Request};

pub(super) fn read(request: &Request) -> Result<Draft, TaskError> {
    let (split, path) = request.choose(&["val", "train", "test"], |split| {
        let names = [
            format!("{split}_v1.0.json"),
            format!("{split}_v1.0_withQT.json"),
        ];
        request
            .tree
            .find_file(|_, file| names.iter().any(|name| name == file))
    })?;
    let rows = record::data_rows(&path)?;
    let (questions, bad_rows) = record::convert(&path, &rows, |_, row| {
        let row = Record::new(row)?;
        let id = row.id("questionId")?;
        let image = row.text("image")?;
        let name = image.rsplit('/').next().unwrap_or(image);
        let types = row.texts("question_types")?;
        Ok(Question {
            source_id: id.clone(),
            id,
            images: vec![image.to_string(), name.to_string()],
            question: row.text("question")?.to_string(),
            answers: row.texts("answers")?,
            category: (!types.is_empty()).then(|| types.join(", ")),
            extra: row.keep(&["docId", "ucsf_document_id", "ucsf_document_page_no"]),
        })
    });
    let folder = path.parent().unwrap_or(&request.tree.root);
    let published = match split {
        "train" => 39_463,
        "val" => 5_349,
        _ => 5_188,
    };
    let below = ["spdocvqa_images", "images", split];
    Ok(Draft {
        split,
        image_folders: request.tree.image_folders(folder, &below),
        official: Some(Official {
            found: questions.len(),
            published,
            unit: "questions",
        }),
        sources: vec![path],
        questions,
        bad_rows,
        ..Draft::default()
    })
}
