//! TextVQA 0.5.1.
//!
//! # Source
//! `TextVQA_0.5.1_{train,val,test}.json`: `{"data": [{question_id, question, image_id, answers (ten),
//! image_classes, ...}]}`. Pictures of train *and* val lie in `train_images/`, those of test in
//! `test_images/`. OCR tokens: `TextVQA_Rosetta_OCR_v0.2_{split}.json`,
//! `{"data": [{image_id, ocr_tokens, ...}]}`.

use super::error::{BadRow, RowFault, TaskError};
use super::missing::Official;
use super::record::{self, Record};
use super::task::{Draft, Question, Request};
use serde_json::Value;
use std::collections::HashMap;

const IMAGE_FOLDERS: [&str; 4] = [
    "train_images",
    "train_val_images/train_images",
    "test_images",
    "images",
];

pub(super) fn read(request: &Request) -> Result<Draft, TaskError> {
    let named = |file: &str, part: &str, split: &str| {
        let file = file.to_lowercase();
        file.starts_with(part) && file.ends_with(&format!("_{split}.json"))
    };
    let (split, path) = request.choose(&["val", "train", "test"], |split| {
        request.tree.find_file(|_, file| {
            named(file, "textvqa_0.5", split) && !file.to_lowercase().contains("ocr")
        })
    })?;
    let rows = record::data_rows(&path)?;
    let (mut questions, mut bad_rows) = record::convert(&path, &rows, |_, row| {
        let row = Record::new(row)?;
        let id = row.id("question_id")?;
        Ok(Question {
            source_id: id.clone(),
            id,
            images: vec![format!("{}.jpg", row.text("image_id")?)],
            question: row.text("question")?.to_string(),
            answers: row.texts("answers")?,
            extra: row.keep(&["image_id", "image_classes"]),
            ..Question::default()
        })
    });
    let mut sources = vec![path];
    let mut absent_files = Vec::new();
    if request.ocr_tokens {
        let tokens = request.tree.folders.iter().find_map(|folder| {
            let file = folder
                .files
                .iter()
                .find(|f| named(f, "textvqa_rosetta_ocr", split))?;
            Some(folder.path.join(file))
        });
        if let Some(path) = tokens {
            add_tokens(
                &record::data_rows(&path)?,
                &mut questions,
                &mut bad_rows,
                &path,
            );
            sources.push(path);
        } else {
            absent_files.push(format!("TextVQA_Rosetta_OCR_v0.2_{split}.json"));
        }
    }
    let folder = sources[0].parent().unwrap_or(&request.tree.root);
    let published = match split {
        "train" => 34_602,
        "val" => 5_000,
        _ => 5_734,
    };
    Ok(Draft {
        split,
        image_folders: request.tree.image_folders(folder, &IMAGE_FOLDERS),
        official: Some(Official {
            found: questions.len(),
            published,
            unit: "questions",
        }),
        sources,
        questions,
        bad_rows,
        absent_files,
        ..Draft::default()
    })
}

/// Puts `ocr_tokens` of each picture into its questions.
fn add_tokens(
    rows: &[Value],
    questions: &mut [Question],
    bad_rows: &mut Vec<BadRow>,
    path: &std::path::Path,
) {
    let (tokens, bad) = record::convert(path, rows, |_, row| {
        let row = Record::new(row)?;
        let tokens = row.0.get("ocr_tokens").filter(|tokens| tokens.is_array());
        let tokens = tokens.ok_or(RowFault::MissingKey { key: "ocr_tokens" })?;
        Ok((row.text("image_id")?.to_string(), tokens.clone()))
    });
    bad_rows.extend(bad);
    let tokens: HashMap<String, Value> = tokens.into_iter().collect();
    for question in questions {
        let image = question.extra.get("image_id").and_then(Value::as_str);
        if let Some(tokens) = image.and_then(|image| tokens.get(image)) {
            question.extra.insert("ocr_tokens".into(), tokens.clone());
        }
    }
}
