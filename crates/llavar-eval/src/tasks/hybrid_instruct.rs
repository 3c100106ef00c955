//! The test file of Hybrid-Instruct, any LLaVA JSON with questions, and LLaVA's question files (JSONL).
//!
//! # Source
//! `Hybrid_Instruct_test/vqa_test.json`: LLaVA JSON whose conversations repeat (extractive question and
//! answer, self-explain question and answer); pictures in `LLaVAR-2_img/`. As in the reference's
//! `model_vqa.py`, every pair is asked alone and `<image>` is taken out of the question.

use super::error::{BadRow, RowFault, TaskError};
use super::record::{self, Content, Record};
use super::task::{Draft, Question, Request};
use llavar_data::Sample;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

const IMAGE_FOLDERS: [&str; 4] = ["LLaVAR-2_img", "LLaVAR2_img", "images", "img"];

pub(super) fn read(request: &Request) -> Result<Draft, TaskError> {
    let (split, path) = request.choose(&["test"], |_| locate(request))?;
    let rows = match record::read_content(&path)? {
        Content::Rows(rows) => rows,
        Content::Object(map) => vec![(record::at_row(&path, 0), Ok(Value::Object(map)))],
    };
    let mut draft = Draft {
        split,
        ..Draft::default()
    };
    for (at, row) in rows {
        let questions = row.and_then(|row| match row.get("conversations") {
            None if row.get("text").is_some() => single(&row).map(|question| vec![question]),
            _ => pairs(row),
        });
        match questions {
            Ok(questions) => draft.questions.extend(questions),
            Err(fault) => draft.bad_rows.push(BadRow { at, fault }),
        }
    }
    let folder = path.parent().unwrap_or(&request.tree.root);
    draft.image_folders = image_folders(request, folder);
    draft.sources = vec![path];
    Ok(draft)
}

fn locate(request: &Request) -> Option<PathBuf> {
    let json = |file: &str| {
        [".json", ".jsonl", ".ndjson"]
            .iter()
            .any(|e| file.ends_with(e))
    };
    let exact = request.tree.find_file(|_, file| file == "vqa_test.json");
    exact.or_else(|| {
        request
            .tree
            .find_file(|_, file| json(file) && file.contains("vqa_test"))
    })
}

pub(super) fn image_folders(request: &Request, folder: &Path) -> Vec<PathBuf> {
    request.tree.image_folders(folder, &IMAGE_FOLDERS)
}

/// A row of LLaVA's own question files: `{question_id, image, text}`, `category` and `gt` where they are.
fn single(row: &Value) -> Result<Question, RowFault> {
    let row = Record::new(row)?;
    let id = row.id("question_id").or_else(|_| row.id("id"))?;
    Ok(Question {
        source_id: id.clone(),
        id,
        images: vec![row.text("image")?.to_string()],
        question: without_image(row.text("text")?),
        answers: row.texts("gt")?,
        category: row.text("category").ok().map(str::to_string),
        ..Question::default()
    })
}

/// All pairs of one record, each asked alone.
pub(super) fn pairs(row: Value) -> Result<Vec<Question>, RowFault> {
    let sample = Sample::from_json(row)?;
    let [image] = sample.images.as_slice() else {
        return Err(RowFault::ImageCount {
            images: sample.images.len(),
        });
    };
    let turns = &sample.conversations;
    let duos = turns.len() % 4 == 0;
    let mut questions = Vec::new();
    for (pair, turn) in turns.chunks_exact(2).enumerate() {
        let mut question = Question {
            id: format!("{}/{pair}", sample.id),
            source_id: sample.id.to_string(),
            images: vec![image.clone()],
            question: without_image(&turn[0].value),
            answers: vec![turn[1].value.clone()],
            ..Question::default()
        };
        if duos {
            let kind = if pair % 2 == 0 {
                "extractive"
            } else {
                "self_explain"
            };
            question.category = Some(kind.to_string());
        }
        if turns.len() > 2 {
            // The reference's name for the place of a pair in its conversation.
            question.extra.insert("qa_id".into(), json!(pair * 2));
        }
        questions.push(question);
    }
    Ok(questions)
}

/// The question without `<image>` and the line break that parts them.
pub(super) fn without_image(text: &str) -> String {
    let mut text = text.replace("<image>\n", "").replace("\n<image>", "");
    while let Some(at) = text.find("<image>") {
        text.replace_range(at..at + "<image>".len(), "");
    }
    text.trim().to_string()
}
