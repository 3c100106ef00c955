//! Caption sets: one item a picture, all its captions as references.
//!
//! # Source
//! COCO: `{"images": [{id, file_name}], "annotations": [{image_id, caption}]}`. TextCaps 0.1: `{"data":
//! [{image_id, image_name, caption_str, reference_strs}]}`. LLaVA JSON (detail captions such as TRINS-Cap):
//! one question with its caption. Plain rows: `{image, caption | captions | references}`.

use super::error::{BadRow, RowFault, TaskError};
use super::hybrid_instruct;
use super::record::{self, Content, Record};
use super::task::{Draft, Question, Request};
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// What is asked where the set has no question of its own (as lmms-eval asks COCO and TextCaps).
const QUESTION: &str = "Provide a one-sentence caption for the provided image.";

const IMAGE_FOLDERS: [&str; 9] = [
    "images",
    "val2014",
    "train2014",
    "test2014",
    "val2017",
    "train2017",
    "train_images",
    "test_images",
    "LLaVAR-2_img",
];

pub(super) fn read(request: &Request) -> Result<Draft, TaskError> {
    let (split, path) =
        request.choose(&["val", "test", "train"], |split| locate(request, split))?;
    let mut draft = match record::read_content(&path)? {
        Content::Object(map) if map.contains_key("annotations") => coco(&path, &map)?,
        Content::Object(mut map) => match map.remove("data") {
            Some(Value::Array(rows)) => text_caps(&path, &rows),
            Some(_) => return Err(form(&path)),
            None => plain(vec![(record::at_row(&path, 0), Ok(Value::Object(map)))]),
        },
        Content::Rows(rows) => plain(rows),
    };
    let folder = path.parent().unwrap_or(&request.tree.root);
    draft.split = split;
    draft.image_folders = request.tree.image_folders(folder, &IMAGE_FOLDERS);
    draft.sources = vec![path];
    Ok(draft)
}

fn form(path: &Path) -> TaskError {
    TaskError::Form {
        path: path.to_path_buf(),
        expected: "COCO captions, TextCaps, LLaVA JSON, or rows of image and captions",
    }
}

fn locate(request: &Request, split: &str) -> Option<PathBuf> {
    let named = |file: &str| {
        let file = file.to_lowercase();
        let json = [".json", ".jsonl", ".ndjson"]
            .iter()
            .any(|e| file.ends_with(e));
        json && file.contains("cap") && file.contains(split)
    };
    let tree = &request.tree;
    // A file that names no split is the one there is.
    let any = || {
        let unsplit = |file: &str| {
            let file = file.to_lowercase();
            let json = [".json", ".jsonl", ".ndjson"]
                .iter()
                .any(|e| file.ends_with(e));
            json && file.contains("caption")
                && !["val", "train", "test"].iter().any(|s| file.contains(s))
        };
        if split == "test" {
            tree.find_file(|_, file| unsplit(file))
        } else {
            None
        }
    };
    tree.find_file(|_, file| named(file)).or_else(any)
}

/// Captions are grouped by picture, in the order of the pictures.
fn coco(path: &Path, file: &Map<String, Value>) -> Result<Draft, TaskError> {
    let list = |key| {
        file.get(key)
            .and_then(Value::as_array)
            .ok_or_else(|| form(path))
    };
    let (images, mut bad_rows) = record::convert(path, list("images")?, |_, row| {
        let row = Record::new(row)?;
        Ok((row.id("id")?, row.text("file_name")?.to_string()))
    });
    let (captions, bad) = record::convert(path, list("annotations")?, |_, row| {
        let row = Record::new(row)?;
        Ok((row.id("image_id")?, row.text("caption")?.to_string()))
    });
    bad_rows.extend(bad);
    let mut by_image: HashMap<String, Vec<String>> = HashMap::new();
    for (image, caption) in captions {
        by_image.entry(image).or_default().push(caption);
    }
    let questions = images.into_iter().map(|(id, file_name)| {
        let answers = by_image.remove(&id).unwrap_or_default();
        caption(id, file_name, QUESTION, answers)
    });
    let questions = questions.collect();
    // What is left belongs to pictures that the file does not list.
    let mut orphans: Vec<String> = by_image.into_keys().collect();
    orphans.sort();
    bad_rows.extend(orphans.into_iter().map(|image| BadRow {
        at: format!("annotations of image_id {image}"),
        fault: RowFault::MissingKey { key: "images" },
    }));
    Ok(Draft {
        questions,
        bad_rows,
        ..Draft::default()
    })
}

/// TextCaps repeats a picture for every caption and gives all of them each time.
fn text_caps(path: &Path, rows: &[Value]) -> Draft {
    let (rows, bad_rows) = record::convert(path, rows, |_, row| {
        let row = Record::new(row)?;
        let id = row.id("image_id")?;
        let name = row
            .text("image_name")
            .map_or_else(|_| id.clone(), str::to_string);
        let all = row.texts("reference_strs")?;
        let own = row.texts("caption_str")?;
        Ok((id, name, all, own))
    });
    let mut at: HashMap<String, usize> = HashMap::new();
    let mut questions: Vec<Question> = Vec::new();
    for (id, name, all, own) in rows {
        let place = *at.entry(id.clone()).or_insert_with(|| {
            let file = if llavar_image::ImageFormat::is_named_so(&name) {
                name
            } else {
                format!("{name}.jpg")
            };
            questions.push(caption(id, file, QUESTION, Vec::new()));
            questions.len() - 1
        });
        let references = &mut questions[place].answers;
        if all.is_empty() {
            references.extend(own);
        } else if references.is_empty() {
            *references = all;
        }
    }
    Draft {
        questions,
        bad_rows,
        ..Draft::default()
    }
}

fn plain(rows: Vec<(String, Result<Value, RowFault>)>) -> Draft {
    let mut draft = Draft::default();
    for (at, row) in rows {
        match row.and_then(plain_row) {
            Ok(questions) => draft.questions.extend(questions),
            Err(fault) => draft.bad_rows.push(BadRow { at, fault }),
        }
    }
    draft
}

fn plain_row(row: Value) -> Result<Vec<Question>, RowFault> {
    if row.get("conversations").is_some() {
        return hybrid_instruct::pairs(row);
    }
    let row = Record::new(&row)?;
    let image = row
        .text("image")
        .or_else(|fault| row.text("file_name").map_err(|_| fault))?;
    let mut answers = Vec::new();
    for key in ["captions", "references", "caption", "answers"] {
        if answers.is_empty() {
            answers = row.texts(key)?;
        }
    }
    let id = row
        .id("id")
        .or_else(|_| row.id("image_id"))
        .unwrap_or_else(|_| image.to_string());
    let question = row.text("question").unwrap_or(QUESTION);
    Ok(vec![caption(id, image.to_string(), question, answers)])
}

fn caption(id: String, image: String, question: &str, answers: Vec<String>) -> Question {
    Question {
        source_id: id.clone(),
        id,
        images: vec![image],
        question: question.to_string(),
        answers,
        ..Question::default()
    }
}
