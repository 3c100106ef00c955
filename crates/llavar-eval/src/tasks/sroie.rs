//! SROIE 2019: four questions a receipt.
//!
//! # Source
//! `SROIEDataset` of MultimodalOCR (the protocol of the LLaVAR papers): the entity file is JSON; a question
//! is asked for every key that is there, also when its text is empty ([`super::Missing::empty_references`]
//! counts those), in the order company, date, address, total; files with `(` in their name, copies in the
//! original archive, are passed over. The protocol's receipts are those of the *train* split, so it is read
//! unless another is asked for; [`super::Task::note`] warns of models that were trained on it.

use super::error::{BadRow, RowFault, TaskError};
use super::funsd::{stems, unreadable};
use super::missing::Official;
use super::record::{Record, read_file};
use super::task::{Draft, Question, Request};
use super::tree::{Folder, Tree};
use llavar_data::import::sroie::QUESTIONS;
use llavar_image::ImageFormat;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Names of the folders in the release and in its copies.
const ENTITIES: [&str; 3] = ["entities", "key", "gt_answers"];
const IMAGES: [&str; 3] = ["img", "images", "image"];

const TRAIN_NOTE: &str = "the published protocol asks the receipts of the train split; score a model \
that was trained on them on split test";

/// Where one split lies.
struct Place {
    entities: PathBuf,
    images: PathBuf,
}

pub(super) fn read(request: &Request) -> Result<Draft, TaskError> {
    let (split, place) =
        request.choose(&["train", "test"], |split| locate(&request.tree, split))?;
    let entity_file = |name: &str| name.ends_with(".txt") || name.ends_with(".json");
    let mut receipts = stems(&place.entities, entity_file)?;
    receipts.retain(|receipt| !receipt.contains('('));
    let images = stems(&place.images, ImageFormat::is_named_so).unwrap_or_default();
    let lone = images
        .iter()
        .filter(|i| !receipts.contains(*i) && !i.contains('('));
    let mut draft = Draft {
        split,
        absent_files: lone
            .map(|i| format!("{}/{i}.txt", folder_name(&place.entities)))
            .collect(),
        official: Some(Official {
            found: receipts.len(),
            published: if split == "train" { 626 } else { 347 },
            unit: "receipts",
        }),
        sources: vec![place.entities.clone()],
        image_folders: vec![place.images],
        note: (split == "train").then_some(TRAIN_NOTE),
        ..Draft::default()
    };
    for receipt in &receipts {
        match questions(&place.entities, receipt) {
            Ok(questions) => draft.questions.extend(questions),
            Err(fault) => draft.bad_rows.push(BadRow {
                at: format!("{}/{receipt}", folder_name(&place.entities)),
                fault,
            }),
        }
    }
    Ok(draft)
}

fn folder_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

fn locate(tree: &Tree, split: &'static str) -> Option<Place> {
    let parts = |folder: &Folder| {
        let entities = ENTITIES.into_iter().find(|name| folder.has_folder(name))?;
        let images = IMAGES
            .into_iter()
            .find(|name| folder.has_folder(name))
            .unwrap_or("img");
        Some(Place {
            entities: folder.path.join(entities),
            images: folder.path.join(images),
        })
    };
    let named = |folder: &&Folder| super::split::canonical(folder.name()) == split;
    let below = tree.folders.iter().filter(named).find_map(parts);
    // One folder without a split's name: labels beside pictures, as MultimodalOCR keeps them, or the
    // two folders of a copy. Its receipts are the protocol's.
    below.or_else(|| {
        let root = tree.folders.first()?;
        let own_name = ["train", "test"].contains(&super::split::canonical(root.name()).as_str());
        if split != "train" || own_name {
            return None;
        }
        let flat = root.images > 0 && root.files.iter().any(|file| file.ends_with(".txt"));
        parts(root).or_else(|| {
            flat.then(|| Place {
                entities: root.path.clone(),
                images: root.path.clone(),
            })
        })
    })
}

/// The questions of one receipt.
fn questions(folder: &Path, receipt: &str) -> Result<Vec<Question>, RowFault> {
    let txt = folder.join(format!("{receipt}.txt"));
    let path = if txt.is_file() {
        txt
    } else {
        folder.join(format!("{receipt}.json"))
    };
    let bytes = read_file(&path).map_err(unreadable)?;
    let value: Value = serde_json::from_slice(&bytes).map_err(|error| RowFault::Unreadable {
        reason: error.to_string(),
    })?;
    let entities = Record::new(&value)?;
    let mut asked = Vec::new();
    for (key, question) in QUESTIONS {
        if !entities.0.contains_key(key) {
            continue;
        }
        asked.push(Question {
            id: format!("{receipt}/{key}"),
            source_id: receipt.to_string(),
            images: vec![format!("{receipt}.jpg")],
            question: question.to_string(),
            answers: vec![entities.id(key)?],
            category: Some(key.to_string()),
            ..Question::default()
        });
    }
    Ok(asked)
}
