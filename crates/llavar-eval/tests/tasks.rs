//! Task builders on the reference data: every benchmark that lies there, every published row.
#![allow(clippy::unwrap_used)]

use llavar_eval::tasks::{ImageCheck, Item, Options, Task, TaskError, task_names};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};

fn data(test: &str) -> Option<PathBuf> {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared");
    let shared = std::env::var_os("LLAVAR_SHARED").map_or_else(|| default.into(), PathBuf::from);
    let data = shared.join("data");
    if data.is_dir() {
        Some(data)
    } else {
        let _ = writeln!(std::io::stderr(), "SKIPPED {test}: LLAVAR_SHARED not found");
        None
    }
}

fn split(name: &str) -> Options {
    Options {
        split: Some(name.to_string()),
        ..Options::default()
    }
}

/// Rows of all files of the protocol whose name starts with `set`.
fn protocol(data: &Path, set: &str) -> Vec<Value> {
    let mut rows = Vec::new();
    for entry in std::fs::read_dir(data.join("protocol")).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_string_lossy().starts_with(set) {
            let text = std::fs::read_to_string(&path).unwrap();
            rows.extend(
                text.lines()
                    .map(|line| serde_json::from_str::<Value>(line).unwrap()),
            );
        }
    }
    rows
}

/// Questions and answers of each picture, in order.
type Asked = BTreeMap<String, Vec<(String, Vec<String>)>>;

fn published(rows: &[Value]) -> Asked {
    let mut asked = Asked::new();
    for row in rows {
        let answers = row["answers"].as_array().unwrap().iter();
        let answers = answers.map(|a| a.as_str().unwrap().to_string()).collect();
        let question = row["question"].as_str().unwrap().to_string();
        let image = row["image"].as_str().unwrap().to_string();
        asked.entry(image).or_default().push((question, answers));
    }
    asked
}

fn ours<'a>(items: impl IntoIterator<Item = &'a Item>) -> Asked {
    let mut asked = Asked::new();
    for item in items {
        let pair = (item.question.clone(), item.answers.clone());
        asked
            .entry(item.image_stem().to_string())
            .or_default()
            .push(pair);
    }
    asked
}

#[test]
fn funsd_questions_equal_the_published_protocol() {
    let Some(data) = data("funsd_questions_equal_the_published_protocol") else {
        return;
    };
    let rows = protocol(&data, "funsd");
    let task = Task::open("funsd", &data.join("FUNSD")).unwrap();
    assert_eq!(task.split, "test");
    // Whole forms: neither a question too few nor one too many, in the same order.
    assert_eq!(ours(&task.items), published(&rows));
    assert_eq!(task.items.len(), rows.len());
    eprintln!("FUNSD: {} rows equal; {}", rows.len(), task.missing);
}

#[test]
fn sroie_questions_equal_the_published_protocol() {
    let Some(data) = data("sroie_questions_equal_the_published_protocol") else {
        return;
    };
    let rows = protocol(&data, "sroie");
    let expected = published(&rows);
    let train = Task::open("sroie", &data.join("SROIE2019")).unwrap();
    let test = Task::open_with("sroie", &data.join("SROIE2019"), &split("test")).unwrap();
    assert!(train.note.is_some() && test.note.is_none());
    assert_eq!((&*train.split, &*test.split), ("train", "test"));
    let mut asked = ours(&train.items);
    asked.extend(ours(&test.items));
    asked.retain(|image, _| expected.contains_key(image));
    assert_eq!(asked, expected);
    eprintln!("SROIE: {} rows equal; {}", rows.len(), train.missing);
}

/// Every file of a benchmark against its own annotations, read plainly here.
#[test]
fn every_split_that_lies_there_is_read_whole() {
    let Some(data) = data("every_split_that_lies_there_is_read_whole") else {
        return;
    };
    let json =
        |path: PathBuf| -> Value { serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap() };
    // ChartQA
    let root = data.join("ChartQA Dataset");
    for name in ["train", "val", "test"] {
        let mut expected = Vec::new();
        for part in ["human", "augmented"] {
            let path = root.join(name).join(format!("{name}_{part}.json"));
            if path.is_file() {
                for row in json(path).as_array().unwrap() {
                    let text = |key: &str| row[key].as_str().unwrap().to_string();
                    expected.push((
                        text("imgname"),
                        text("query"),
                        text("label"),
                        part.to_string(),
                    ));
                }
            }
        }
        if expected.is_empty() {
            continue;
        }
        let task = Task::open_with("chartqa", &root, &split(name)).unwrap();
        let got = task.items.iter().map(|i| {
            let category = i.category.clone().unwrap();
            (
                i.image.clone(),
                i.question.clone(),
                i.answers.join("|"),
                category,
            )
        });
        let got: Vec<_> = got.collect();
        assert_eq!(got, expected, "{name}");
        assert!(task.missing.images_absent.is_empty() && task.missing.rows.is_empty());
    }
    // DocVQA
    let rows = json(data.join("DocVQA/val_v1.0.json"));
    let task = Task::open("docvqa", &data.join("DocVQA")).unwrap();
    for (item, row) in task.items.iter().zip(rows["data"].as_array().unwrap()) {
        assert_eq!(item.id, row["questionId"].to_string());
        assert_eq!(Value::from(item.answers.clone()), row["answers"]);
        assert_eq!(item.question, row["question"].as_str().unwrap());
    }
    assert_eq!(task.items.len(), rows["data"].as_array().unwrap().len());
    // OCRBench
    let rows = json(data.join("OCRBench/OCRBench.json"));
    let rows = rows.as_array().unwrap();
    let task = Task::open("ocrbench", &data.join("OCRBench")).unwrap();
    assert_eq!(task.items.len(), rows.len());
    for (item, row) in task.items.iter().zip(rows) {
        let answers = match &row["answers"] {
            Value::Array(list) => list.clone(),
            one => vec![one.clone()],
        };
        assert_eq!(Value::from(item.answers.clone()), Value::from(answers));
        assert_eq!(item.category.as_deref(), row["type"].as_str());
        assert_eq!(item.source_id, row["id"].to_string());
    }
    // Word sets
    let task = Task::open("IIIT5K", &data.join("IIIT5K")).unwrap();
    assert_eq!(task.name, "iiit5k");
    let lines = std::fs::read_to_string(data.join("IIIT5K/test.jsonl")).unwrap();
    let lines: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(task.items.len(), lines.len());
    for (item, row) in task.items.iter().zip(&lines) {
        assert_eq!(
            (&*item.image, &*item.question),
            (
                row["image"].as_str().unwrap(),
                row["question"].as_str().unwrap()
            )
        );
        assert_eq!(Value::from(item.answers.clone()), row["answers"]);
    }
}

#[test]
fn ids_are_unique_and_every_picture_that_is_there_is_found() {
    let Some(data) = data("ids_are_unique_and_every_picture_that_is_there_is_found") else {
        return;
    };
    let mut opened = 0;
    for name in task_names() {
        for wanted in [None, Some("train"), Some("val"), Some("test")] {
            let options = Options {
                split: wanted.map(str::to_string),
                ..Options::default()
            };
            // The folder that holds all benchmarks is enough.
            let task = match Task::open_with(name, &data, &options) {
                Ok(task) => task,
                Err(TaskError::NoLayout { .. } | TaskError::NoSplit { .. }) => continue,
                Err(error) => panic!("{name}: {error}"),
            };
            opened += 1;
            let ids: BTreeSet<&str> = task.items.iter().map(|i| &*i.id).collect();
            assert_eq!(ids.len(), task.items.len(), "{name}: ids repeat");
            assert!(
                task.missing.images_absent.is_empty(),
                "{name}: {}",
                task.missing
            );
            assert!(
                task.missing.images_unusable.is_empty(),
                "{name}: {}",
                task.missing
            );
            assert_eq!(task.answerable().count(), task.items.len());
            assert!(!task.missing.line().contains('\n'));
            let suffix = task.prompt_suffix;
            let first = &task.items[0];
            assert_eq!(task.prompt(first), format!("{}{suffix}", first.question));
            eprintln!(
                "{name} {}: {} questions; {}",
                task.split,
                task.items.len(),
                task.missing
            );
        }
    }
    assert!(opened >= 12, "{opened}");
}

#[test]
fn the_parent_the_folder_and_the_split_give_the_same() {
    let Some(data) = data("the_parent_the_folder_and_the_split_give_the_same") else {
        return;
    };
    for (name, places) in [
        ("funsd", &["", "FUNSD", "FUNSD/testing_data"][..]),
        ("sroie", &["", "SROIE2019", "SROIE2019/train"]),
        ("chartqa", &["", "ChartQA Dataset", "ChartQA Dataset/test"]),
        ("docvqa", &["", "DocVQA", "DocVQA/val_v1.0.json"]),
        ("ocrbench", &["", "OCRBench", "OCRBench/OCRBench.json"]),
        ("iiit5k", &["", "IIIT5K", "IIIT5K/test.jsonl"]),
    ] {
        let open = |place: &&str| Task::open(name, &data.join(place)).unwrap();
        let tasks: Vec<Task> = places.iter().map(open).collect();
        for task in &tasks[1..] {
            assert_eq!(
                task.items,
                tasks[0].items,
                "{name}: {}",
                task.folder.display()
            );
            assert_eq!(task.split, tasks[0].split);
        }
        assert!(tasks[0].items.iter().all(|item| item.image_path.is_some()));
    }
    let test = Task::open("sroie", &data.join("SROIE2019/test")).unwrap();
    assert_eq!(test.split, "test");
}

#[test]
fn without_looking_at_pictures_nothing_is_missing() {
    let Some(data) = data("without_looking_at_pictures_nothing_is_missing") else {
        return;
    };
    let options = Options {
        image_check: ImageCheck::None,
        ..Options::default()
    };
    let task = Task::open_with("funsd", &data, &options).unwrap();
    assert_eq!(task.missing.questions_without_image, 0);
    assert!(task.items.iter().all(|item| item.image_path.is_none()));
}
