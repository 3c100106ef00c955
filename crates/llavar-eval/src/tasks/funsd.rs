//! FUNSD: one question for every linked field of a form.
//!
//! # Source
//! `FUNSDDataset` of MultimodalOCR (the protocol of the LLaVAR papers) on `testing_data/annotations`.
//! For every box labelled `question`, in file order, the texts of the boxes labelled `answer` to which its
//! links point, in the order of the links (repeated links repeat the text), joined by one space once
//! there is text; a question without any text is left out. Nothing is trimmed.

use super::error::{BadRow, RowFault, TaskError};
use super::missing::Official;
use super::record::{self, Record};
use super::task::{Draft, Question, Request};
use super::tree::Folder;
use llavar_image::ImageFormat;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

pub(super) fn read(request: &Request) -> Result<Draft, TaskError> {
    let tree = &request.tree;
    let (split, folder) = request.choose(&["test", "train"], |split| {
        let is_split = |folder: &&Folder| {
            super::split::canonical(folder.name()) == split && folder.has_folder("annotations")
        };
        let found = tree.folders.iter().find(is_split);
        // A folder of forms under a name of its own counts as the test split.
        let bare = || {
            tree.folders
                .first()
                .filter(|f| split == "test" && is_forms(f))
        };
        found.or_else(bare).map(|folder| folder.path.clone())
    })?;
    let annotations = folder.join("annotations");
    let forms = stems(&annotations, |name| name.ends_with(".json"))?;
    let mut draft = Draft {
        split,
        image_folders: vec![folder.join("images")],
        sources: vec![annotations.clone()],
        official: Some(Official {
            found: forms.len(),
            published: if split == "test" { 50 } else { 149 },
            unit: "forms",
        }),
        ..Draft::default()
    };
    let images = stems(&folder.join("images"), ImageFormat::is_named_so).unwrap_or_default();
    let lone = images.iter().filter(|stem| !forms.contains(*stem));
    draft.absent_files = lone
        .map(|stem| format!("annotations/{stem}.json"))
        .collect();
    for form in &forms {
        let path = annotations.join(format!("{form}.json"));
        match record::read_json(&path)
            .map_err(unreadable)
            .and_then(|value| questions(form, &value))
        {
            Ok(questions) => draft.questions.extend(questions),
            Err(fault) => draft.bad_rows.push(BadRow {
                at: format!("annotations/{form}.json"),
                fault,
            }),
        }
    }
    Ok(draft)
}

fn is_forms(folder: &Folder) -> bool {
    folder.has_folder("annotations") && folder.has_folder("images")
}

pub(super) fn unreadable(error: TaskError) -> RowFault {
    RowFault::Unreadable {
        reason: error.to_string(),
    }
}

/// File names without extension, sorted.
pub(super) fn stems(
    folder: &Path,
    wanted: impl Fn(&str) -> bool,
) -> Result<BTreeSet<String>, TaskError> {
    let io = |source| TaskError::Io {
        path: folder.to_path_buf(),
        source,
    };
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let name = entry.map_err(io)?.file_name();
        let Some(name) = name
            .to_str()
            .filter(|name| wanted(name) && !name.starts_with('.'))
        else {
            continue;
        };
        found.extend(name.rsplit_once('.').map(|(stem, _)| stem.to_string()));
    }
    Ok(found)
}

/// The questions of one form.
fn questions(form: &str, annotation: &Value) -> Result<Vec<Question>, RowFault> {
    let boxes = annotation.get("form").and_then(Value::as_array);
    let boxes = boxes.ok_or(RowFault::MissingKey { key: "form" })?;
    let boxes: Vec<Record> = boxes.iter().map(Record::new).collect::<Result<_, _>>()?;
    let links = |of: &Record| -> Vec<Option<i64>> {
        let list = of.0.get("linking").and_then(Value::as_array);
        list.into_iter()
            .flatten()
            .map(|link| link.get(1).and_then(Value::as_i64))
            .collect()
    };
    let label =
        |of: &Record, wanted: &str| of.0.get("label").and_then(Value::as_str) == Some(wanted);
    let mut answers: BTreeMap<i64, Vec<&str>> = BTreeMap::new();
    for one in boxes
        .iter()
        .filter(|one| label(one, "answer") && !links(one).is_empty())
    {
        let id = one
            .0
            .get("id")
            .and_then(Value::as_i64)
            .ok_or(RowFault::MissingKey { key: "id" })?;
        answers.entry(id).or_default().push(one.text("text")?);
    }
    let mut asked = Vec::new();
    for (index, one) in boxes
        .iter()
        .enumerate()
        .filter(|(_, one)| label(one, "question"))
    {
        let mut answer = String::new();
        let linked = links(one)
            .into_iter()
            .flatten()
            .filter_map(|to| answers.get(&to));
        for text in linked.flatten() {
            if !answer.is_empty() {
                answer.push(' ');
            }
            answer.push_str(text);
        }
        if answer.is_empty() {
            continue;
        }
        let id = one.id("id").unwrap_or_else(|_| format!("box {index}"));
        asked.push(Question {
            id: format!("{form}/{id}"),
            source_id: form.to_string(),
            images: vec![format!("{form}.png")],
            question: format!(
                "what is \"{}\" information in the image?",
                one.text("text")?
            ),
            answers: vec![answer],
            ..Question::default()
        });
    }
    Ok(asked)
}
