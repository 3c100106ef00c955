//! The importers of FUNSD and ChartQA, and the forms of turns on real labels.
#![allow(clippy::unwrap_used)]

mod common;

use llavar_data::import::{Form, TextLine, chart_qa, funsd, sroie};
use llavar_data::{Error, Sample};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;

fn turns(sample: &Sample) -> Vec<&str> {
    let turns = sample.conversations.iter();
    turns.map(|turn| turn.value.as_str()).collect()
}

fn write(root: &Path, name: &str, bytes: &[u8]) {
    let path = root.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

fn lay_forms(root: &Path) {
    let word = |x: i64, y: i64, text: &str| json!({"box": [x, y, x + 50, y + 20], "text": text});
    let entry = |id: i64, label: &str, words: Vec<Value>, links: Vec<[i64; 2]>| {
        let texts: Vec<&str> = words.iter().map(|w| w["text"].as_str().unwrap()).collect();
        json!({"id": id, "label": label, "text": texts.join(" "), "box": words[0]["box"],
            "words": words, "linking": links})
    };
    let form = json!({"form": [
        entry(0, "question", vec![word(10, 10, "DATE:")], vec![[0, 1]]),
        entry(1, "answer", vec![word(100, 11, "12/10/96")], vec![[0, 1]]),
        entry(2, "question", vec![word(10, 50, "TO")], vec![[2, 3], [2, 9]]),
        // Two printed lines in one box.
        entry(3, "answer", vec![word(100, 50, "Mr."), word(155, 50, "Doe"), word(100, 80, "Room 5")], vec![[2, 3]]),
        entry(4, "question", vec![word(10, 110, "EMPTY")], vec![]),
        entry(5, "other", vec![word(300, 400, "page"), word(355, 400, "1")], vec![]),
    ]});
    write(
        root,
        "training_data/annotations/a.json",
        form.to_string().as_bytes(),
    );
    write(root, "training_data/annotations/b.json", b"{\"form\": 7}");
    write(
        root,
        "training_data/annotations/c.json",
        form.to_string().as_bytes(),
    );
    write(root, "training_data/images/a.png", b"png");
    write(root, "training_data/images/b.png", b"png");
}

#[test]
fn forms_are_imported() {
    let dir = tempfile::tempdir().unwrap();
    lay_forms(dir.path());
    let import = |form| funsd::import(dir.path(), "train", form, 0).unwrap();
    let short = import(Form::Short);
    assert_eq!((short.pictures, short.samples.len()), (3, 1));
    assert_eq!(short.missing_images, ["c"]);
    assert_eq!(short.unreadable[0].0, "b");
    assert_eq!(short.samples[0].images, ["training_data/images/a.png"]);
    assert_eq!(
        turns(&short.samples[0]),
        [
            "<image>\nwhat is \"DATE:\" information in the image?",
            "12/10/96",
            "what is \"TO\" information in the image?",
            "Mr. Doe Room 5",
        ]
    );
    let duos = import(Form::Duo);
    let duo = turns(&duos.samples[0]);
    assert_eq!(duo[1], "The \"DATE\" information in the image is 12/10/96.");
    assert_eq!(
        duo[3],
        "The text \"12/10/96\" stands at the top left of the form."
    );
    assert!(
        duo[7].starts_with("The lines \"Mr. Doe\", \"Room 5\" stand at"),
        "{}",
        duo[7]
    );
    let read = import(Form::Read);
    assert_eq!(
        turns(&read.samples[0])[1],
        "DATE: 12/10/96\nTO Mr. Doe\nRoom 5\nEMPTY\npage 1"
    );
    for split in ["test", "../training_data", "nope"] {
        let error = funsd::import(dir.path(), split, Form::Short, 0).unwrap_err();
        assert!(matches!(error, Error::Layout { .. }), "{split}: {error}");
    }
}

#[test]
fn charts_are_imported() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let rows = json!([
        {"imgname": "a.png", "query": "How many?", "label": "57"},
        {"imgname": "a.png", "query": "Which one?", "label": 12.5},
        {"imgname": "gone.png", "query": "How many?", "label": "57"},
        {"imgname": "../../etc/passwd", "query": "How many?", "label": "57"},
    ]);
    write(root, "train/train_human.json", rows.to_string().as_bytes());
    write(root, "train/png/a.png", b"png");
    let read = |image: &str| {
        assert_eq!(image, "train/png/a.png");
        vec![
            TextLine {
                bounds: [0.0, 0.0, 90.0, 20.0],
                text: "Chickens".into(),
            },
            TextLine {
                bounds: [100.0, 300.0, 130.0, 320.0],
                text: "57%".into(),
            },
        ]
    };
    let import = |form| chart_qa::import(root, "train", form, 0, &read).unwrap();
    let short = import(Form::Short);
    assert_eq!(short.missing_images, ["../../etc/passwd", "gone.png"]);
    let expected = ["<image>\nHow many?", "57", "Which one?", "12.5"];
    assert_eq!(turns(&short.samples[0]), expected);
    let duos = import(Form::Duo);
    let duo = turns(&duos.samples[0]);
    assert_eq!(duo.len(), 4, "12.5 stands nowhere: {duo:?}");
    assert_eq!(
        duo[3],
        "The text \"57%\" stands at the bottom right of the chart."
    );
    assert_eq!(duos.unlocated, ["a: Which one?"]);
    assert_eq!(import(Form::Ask).samples.len(), 2);
    assert!(chart_qa::import(root, "val", Form::Short, 0, &read).is_err());
}

#[test]
fn funsd_questions_equal_the_published_protocol() {
    let Some(shared) = common::shared("funsd_questions_equal_the_published_protocol") else {
        return;
    };
    let imported = funsd::import(&shared.join("data/FUNSD"), "test", Form::Short, 0).unwrap();
    let mut asked = BTreeSet::new();
    for sample in &imported.samples {
        for pair in turns(sample).chunks(2) {
            let question = pair[0].trim_start_matches("<image>\n").to_owned();
            asked.insert((sample.id.to_string(), question, pair[1].to_owned()));
        }
    }
    let protocol = shared.join("data/protocol/funsd_multimodalocr.jsonl");
    let mut rows = 0;
    for line in std::fs::read_to_string(protocol).unwrap().lines() {
        let row: Value = serde_json::from_str(line).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let key = (
            text(&row["image"]),
            text(&row["question"]),
            text(&row["answers"][0]),
        );
        assert!(asked.contains(&key), "{key:?}");
        rows += 1;
    }
    assert!(rows > 300, "{rows}");
}

#[test]
fn answers_hold_the_labels_word_for_word() {
    let Some(shared) = common::shared("answers_hold_the_labels_word_for_word") else {
        return;
    };
    let receipts = shared.join("data/SROIE2019");
    let of = |form| sroie::import(&receipts, "train", form, 0).unwrap().samples;
    let mut labels: std::collections::BTreeMap<String, BTreeSet<String>> = Default::default();
    for sample in of(Form::Short) {
        let answers = sample.conversations.iter().skip(1).step_by(2);
        labels.insert(
            sample.id.to_string(),
            answers.map(|t| t.value.clone()).collect(),
        );
    }
    let ask = of(Form::Ask);
    assert!(ask.len() > 7 * labels.len(), "{} samples", ask.len());
    for sample in ask {
        let id = sample.id.to_string();
        let receipt = id.split('/').next().unwrap();
        assert!(
            labels[receipt].contains(&sample.conversations[1].value),
            "{id}"
        );
    }
    for sample in of(Form::Duo) {
        for duo in sample.conversations.chunks(4) {
            let holds = |label: &String| duo[1].value.contains(label.as_str());
            assert!(
                labels[&sample.id.to_string()].iter().any(holds),
                "{}",
                duo[1].value
            );
        }
    }
}
