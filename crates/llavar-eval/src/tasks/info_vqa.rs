//! InfographicVQA 1.0.
//!
//! # Source
//! Robust Reading Competition, `infographicsVQA_{train,val,test}_v1.0.json` or `..._withQT.json`:
//! `{"data": [{questionId, question, image_local_name, image_url, ocr_output_file, answers, data_split,
//! answer_type, "operation/reasoning"}]}`; the test split has no answers. Pictures lie in
//! `infographicsvqa_images/`.

use super::error::TaskError;
use super::missing::Official;
use super::record::{self, Record};
use super::task::{Draft, Question, Request};

const IMAGE_FOLDERS: [&str; 4] = [
    "infographicsvqa_images",
    "infographicVQA_images",
    "infographicsVQA_images",
    "images",
];

pub(super) fn read(request: &Request) -> Result<Draft, TaskError> {
    let (split, path) = request.choose(&["val", "train", "test"], |split| {
        request.tree.find_file(|_, file| {
            let file = file.to_lowercase();
            let part = format!("_{split}_v1.0");
            file.starts_with("infographic") && file.ends_with(".json") && file.contains(&part)
        })
    })?;
    let rows = record::data_rows(&path)?;
    let (questions, bad_rows) = record::convert(&path, &rows, |_, row| {
        let row = Record::new(row)?;
        let id = row.id("questionId")?;
        let image = row
            .text("image_local_name")
            .or_else(|fault| row.text("image").map_err(|_| fault))?;
        let types = row.texts("answer_type")?;
        Ok(Question {
            source_id: id.clone(),
            id,
            images: vec![image.to_string()],
            question: row.text("question")?.to_string(),
            answers: row.texts("answers")?,
            category: (!types.is_empty()).then(|| types.join(", ")),
            extra: row.keep(&["operation/reasoning", "image_url", "ocr_output_file"]),
        })
    });
    let folder = path.parent().unwrap_or(&request.tree.root);
    let published = match split {
        "train" => 23_946,
        "val" => 2_801,
        _ => 3_288,
    };
    Ok(Draft {
        split,
        image_folders: request.tree.image_folders(folder, &IMAGE_FOLDERS),
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
