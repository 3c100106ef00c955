//! ChartQA: human and augmented questions.
//!
//! # Source
//! The release's `ChartQA Dataset/{train,val,test}/{split}_{human,augmented}.json`: a list of
//! `{imgname, query, label}`; pictures in `png/` beside it. The files have no ids: ours are the part
//! and the row, `human/0`.

use super::error::TaskError;
use super::missing::Official;
use super::record::{self, Record};
use super::task::{Draft, Question, Request};
use std::path::Path;

const PARTS: [&str; 2] = ["human", "augmented"];

pub(super) fn read(request: &Request) -> Result<Draft, TaskError> {
    let (split, path) = request.choose(&["test", "val", "train"], |split| {
        let names = PARTS.map(|part| format!("{split}_{part}.json"));
        request
            .tree
            .find_file(|_, file| names.iter().any(|name| name == file))
    })?;
    let folder = path.parent().unwrap_or(&request.tree.root);
    let mut draft = Draft {
        split,
        image_folders: request.tree.image_folders(folder, &["png", "images"]),
        ..Draft::default()
    };
    for part in PARTS {
        let name = format!("{split}_{part}.json");
        let path = folder.join(&name);
        let other_file_given = request.tree.file.as_ref().is_some_and(|file| *file != path);
        if path.is_file() && !other_file_given {
            read_part(&path, part, &mut draft)?;
        } else if !other_file_given {
            draft.absent_files.push(name);
        }
    }
    if draft.sources.is_empty() {
        // A file under another name was given.
        let part = if path.to_string_lossy().contains("augmented") {
            "augmented"
        } else {
            "human"
        };
        read_part(&path, part, &mut draft)?;
    }
    draft.official = Some(Official {
        found: draft.questions.len(),
        published: match split {
            "train" => 28_299,
            "val" => 1_920,
            _ => 2_500,
        },
        unit: "questions",
    });
    Ok(draft)
}

fn read_part(path: &Path, part: &'static str, draft: &mut Draft) -> Result<(), TaskError> {
    let rows = record::data_rows(path)?;
    let (questions, bad) = record::convert(path, &rows, |index, row| {
        let row = Record::new(row)?;
        let id = format!("{part}/{index}");
        Ok(Question {
            source_id: id.clone(),
            id,
            images: vec![row.text("imgname")?.to_string()],
            question: row.text("query")?.to_string(),
            answers: row.texts("label")?,
            category: Some(part.to_string()),
            ..Question::default()
        })
    });
    draft.questions.extend(questions);
    draft.bad_rows.extend(bad);
    draft.sources.push(path.to_path_buf());
    Ok(())
}
