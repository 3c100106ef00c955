//! Task builders on small folders in the published layouts, whole, incomplete and hostile.
#![allow(clippy::unwrap_used)]

mod hostile;
mod published;

use std::path::Path;

use llavar_eval::tasks::Task;
use serde_json::{Value, json};
use tempfile::TempDir;

fn write(root: &Path, name: &str, content: impl AsRef<[u8]>) {
    let path = root.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

fn image(root: &Path, name: &str) {
    let picture = llavar_image::RgbImage::filled(8, 6, [250, 250, 250]);
    write(root, name, llavar_image::encode_png(&picture).unwrap());
}

fn folder(files: &[(&str, Value)], images: &[&str]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, value) in files {
        write(dir.path(), name, value.to_string());
    }
    for name in images {
        image(dir.path(), name);
    }
    dir
}

fn asked(task: &Task) -> Vec<(&str, &str, &str, bool)> {
    task.items
        .iter()
        .map(|i| {
            (
                &*i.id,
                &*i.question,
                i.answers.first().map_or("", |a| a),
                i.image_path.is_some(),
            )
        })
        .collect()
}

fn text_vqa() -> Value {
    let answers = [
        "nokia", "nokia", "nokia ", "nokia", "toshiba", "nokia", "nokia", "nokia", "nokia", "nokia",
    ];
    json!({"dataset_type": "val", "dataset_name": "textvqa", "dataset_version": "0.5.1", "data": [
        {"question": "what is the brand of this camera?", "image_id": "003a8ae2ef43b901", "image_classes": ["Camera"],
         "flickr_original_url": "", "image_width": 1024, "image_height": 664, "answers": answers,
         "question_tokens": ["what"], "question_id": 34602, "set_name": "val"},
        {"question": "what year?", "image_id": "gone", "answers": ["1990"], "question_id": 34603, "set_name": "val"},
    ]})
}
