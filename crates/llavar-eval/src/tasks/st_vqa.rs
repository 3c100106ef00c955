//! ST-VQA, task 3 (open dictionary).
//!
//! # Source
//! Robust Reading Competition, `train_task_3.json`: `{"data": [{question_id, question, answers,
//! dataset, file_name, file_path, ...}]}`. Pictures lie at `dataset/file_name` (MultimodalOCR's reading)
//! or at `file_path`. Only the train split has answers; the test split makes a submission file.

use super::error::TaskError;
use super::missing::Official;
use super::record::{self, Record};
use super::task::{Draft, Question, Request};

const IMAGE_FOLDERS: [&str; 11] = [
    "train_imgs",
    "test_imgs",
    "train_images",
    "test_images",
    "images",
    "imgs",
    "train",
    "test",
    "Images",
    "Images/train",
    "Images/test",
];

const TRAIN_NOTE: &str = "answers of the test split are not public: the published protocol asks the first \
5000 questions of the train split";

pub(super) fn read(request: &Request) -> Result<Draft, TaskError> {
    let (split, path) = request.choose(&["train", "val", "test"], |split| {
        let name = format!("{split}_task_3.json");
        request.tree.find_file(|_, file| file == name)
    })?;
    let rows = record::data_rows(&path)?;
    let (questions, bad_rows) = record::convert(&path, &rows, |index, row| {
        let row = Record::new(row)?;
        let set = row.text("dataset").ok();
        let mut images = Vec::new();
        if let (Some(set), Ok(name)) = (set, row.text("file_name")) {
            images.push(format!("{set}/{name}"));
        }
        match row.text("file_path") {
            Ok(path) => images.push(path.to_string()),
            Err(fault) if images.is_empty() => {
                images.push(row.text("file_name").map_err(|_| fault)?.to_string());
            }
            Err(_) => {}
        }
        images.extend(row.text("file_name").ok().map(str::to_string));
        // The train file of the first release has no question ids.
        let id = row
            .id("question_id")
            .unwrap_or_else(|_| format!("{split}/{index}"));
        Ok(Question {
            source_id: id.clone(),
            id,
            images,
            question: row.text("question")?.to_string(),
            answers: row.texts("answers")?,
            category: set.map(str::to_string),
            ..Question::default()
        })
    });
    let folder = path.parent().unwrap_or(&request.tree.root);
    Ok(Draft {
        split,
        image_folders: request.tree.image_folders(folder, &IMAGE_FOLDERS),
        official: (split == "train").then_some(Official {
            found: questions.len(),
            published: 26_074,
            unit: "questions",
        }),
        note: (split == "train").then_some(TRAIN_NOTE),
        sources: vec![path],
        questions,
        bad_rows,
        ..Draft::default()
    })
}
