//! Folders that are incomplete, wrong or hostile.

use llavar_eval::tasks::{Options, Task, TaskError};
use serde_json::{Value, json};

use crate::{folder, image, write};

#[test]
fn what_cannot_be_opened_is_a_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    let error = Task::open("docvq", dir.path()).unwrap_err().to_string();
    assert!(error.contains("did you mean docvqa"), "{error}");
    let error = Task::open("docvqa", &dir.path().join("none")).unwrap_err();
    assert!(matches!(error, TaskError::NoFolder { .. }), "{error}");
    let error = Task::open("docvqa", dir.path()).unwrap_err();
    assert!(error.to_string().contains("val_v1.0.json"), "{error}");
    write(
        dir.path(),
        "val_v1.0.json",
        "{\"data\": [\n{\"questionId\": 1,,]}",
    );
    let error = Task::open("docvqa", dir.path()).unwrap_err();
    assert!(matches!(error, TaskError::Json { line: 2, .. }), "{error}");
    write(
        dir.path(),
        "val_v1.0.json",
        b"{\"data\": [{\"questionId\": \"\xFF\"}]}",
    );
    assert!(matches!(
        Task::open("docvqa", dir.path()),
        Err(TaskError::Json { .. })
    ));
    write(dir.path(), "val_v1.0.json", "{\"data\": 3}");
    assert!(matches!(
        Task::open("docvqa", dir.path()),
        Err(TaskError::Form { .. })
    ));
    write(
        dir.path(),
        "val_v1.0.json",
        "{\"data\": [{\"questionId\": 1}, 5]}",
    );
    let error = Task::open("docvqa", dir.path()).unwrap_err().to_string();
    assert!(
        error.contains("no question") && error.contains("row 0") && error.contains("\"image\""),
        "{error}"
    );
    for name in llavar_eval::tasks::task_names() {
        for content in [
            "",
            "null",
            "[]",
            "[[[[",
            "{}",
            "\u{0}\u{0}",
            "{\"data\":[null,[],{}]}",
        ] {
            write(dir.path(), "hostile.json", content);
            assert!(
                Task::open(name, &dir.path().join("hostile.json")).is_err(),
                "{name} {content:?}"
            );
        }
        let deep = "[".repeat(100_000);
        write(dir.path(), "hostile.json", deep);
        assert!(
            Task::open(name, &dir.path().join("hostile.json")).is_err(),
            "{name}"
        );
    }
}

#[test]
fn pictures_that_cannot_be_used_are_named() {
    let row = |id: i64, image: &str| json!({"questionId": id, "question": "q", "image": image, "answers": ["a"]});
    let rows = json!({"data": [row(1, "documents/a.png"), row(2, "../secret.png"), row(3, "/etc/passwd"),
        row(4, "documents/text.png"), row(5, "documents/empty.png"), row(6, "documents/a.png"), row(6, "documents/none.png"), row(7, "documents/conv.png")]});
    let dir = folder(
        &[("v/val_v1.0.json", rows)],
        &["v/documents/a.png", "secret.png", "v/documents/conv.jpg"],
    );
    write(dir.path(), "v/documents/text.png", "not a picture");
    write(dir.path(), "v/documents/empty.png", "");
    let task = Task::open("docvqa", &dir.path().join("v")).unwrap();
    let found: Vec<bool> = task.items.iter().map(|i| i.image_path.is_some()).collect();
    assert_eq!(found, [true, false, false, false, false, true, false, true]);
    assert_eq!(task.items[6].id, "6#2");
    let m = &task.missing;
    assert_eq!((m.images, m.questions_without_image), (7, 5));
    assert_eq!(m.images_absent, ["documents/none.png"]);
    let named: Vec<&str> = m.images_unusable.iter().map(|(name, _)| &**name).collect();
    assert_eq!(
        named,
        [
            "../secret.png",
            "/etc/passwd",
            "documents/text.png",
            "documents/empty.png"
        ]
    );
    assert_eq!(m.repeated_ids, ["6"]);
    let elsewhere = tempfile::tempdir().unwrap();
    image(elsewhere.path(), "documents/none.png");
    let options = Options {
        image_folder: Some(elsewhere.path().into()),
        ..Options::default()
    };
    let task = Task::open_with("docvqa", &dir.path().join("v"), &options).unwrap();
    assert!(task.missing.images_absent.is_empty());
}

/// Paths of all values of a document.
fn pointers(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_string());
    match value {
        Value::Array(list) => {
            for (i, value) in list.iter().enumerate() {
                pointers(value, &format!("{at}/{i}"), found);
            }
        }
        Value::Object(map) => {
            for (key, value) in map {
                let key = key.replace('~', "~0").replace('/', "~1");
                pointers(value, &format!("{at}/{key}"), found);
            }
        }
        _ => {}
    }
}

#[test]
fn any_value_may_be_anything() {
    let row = json!({"questionId": 1, "question_id": 1, "question": "q", "image": "a.png", "image_id": "a",
        "image_local_name": "a.png", "answers": ["x"], "dataset": "s", "file_name": "a.png", "file_path": "s/a.png",
        "answer_type": ["t"], "question_types": ["t"], "caption_str": "c", "reference_strs": ["c"], "image_name": "a"});
    let ocrbench = json!([{"dataset_name": "s", "id": 1, "image_path": "a.png", "question": "q", "answers": "x", "type": "t"}]);
    let chart = json!([{"imgname": "a.png", "query": "q", "label": "1"}]);
    let form = json!({"form": [{"id": 0, "label": "question", "text": "A", "linking": [[0, 1]]},
        {"id": 1, "label": "answer", "text": "B", "linking": [[0, 1]]}]});
    let llava = json!([{"id": "p", "image": "a.png", "conversations": [{"from": "human", "value": "<image>\nq"}, {"from": "gpt", "value": "a"}]}]);
    let coco = json!({"images": [{"id": 1, "file_name": "a.png"}], "annotations": [{"image_id": 1, "caption": "c"}]});
    let data = json!({"data": [row]});
    let mut opened = 0;
    for (task, name, whole) in [
        ("ocrbench", "OCRBench.json", &ocrbench),
        ("stvqa", "train_task_3.json", &data),
        ("textvqa", "TextVQA_0.5.1_val.json", &data),
        ("docvqa", "val_v1.0.json", &data),
        ("infovqa", "infographicsVQA_val_v1.0.json", &data),
        ("chartqa", "test_human.json", &chart),
        ("funsd", "testing_data/annotations/a.json", &form),
        (
            "sroie",
            "train/entities/a.txt",
            &json!({"company": "A", "date": "d", "address": "x", "total": "1"}),
        ),
        (
            "words",
            "test.jsonl",
            &json!({"image": "a.png", "question": "q", "answers": ["x"]}),
        ),
        ("hybrid_instruct", "vqa_test.json", &llava),
        ("captions", "captions_val.json", &coco),
        ("captions", "captions_val.json", &data),
        ("captions", "captions_val.json", &llava),
    ] {
        let mut places = Vec::new();
        pointers(whole, "", &mut places);
        for place in places {
            for hostile in [
                json!(null),
                json!(-1.5e300),
                json!([]),
                json!({}),
                json!([[null]]),
                json!("\u{0}../.."),
                json!(u64::MAX),
            ] {
                let mut changed = whole.clone();
                *changed.pointer_mut(&place).unwrap() = hostile;
                let dir = folder(&[(name, changed)], &["a.png"]);
                let Ok(opened_task) = Task::open(task, dir.path()) else {
                    continue;
                };
                opened += 1;
                let missing = &opened_task.missing;
                let found = opened_task.answerable().count();
                assert_eq!(
                    found + missing.questions_without_image,
                    opened_task.items.len()
                );
                assert!(!missing.line().contains('\n'));
            }
        }
    }
    assert!(opened > 100, "{opened}");
}
