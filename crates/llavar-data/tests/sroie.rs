//! The SROIE importer and statistics over what it makes.
#![allow(clippy::unwrap_used)]

mod common;

use llavar_data::import::{Form, sroie::import};
use llavar_data::{Dataset, Role, Template, TemplateName, stats::Stats, write::write_llava_json};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

#[test]
fn questions_equal_the_published_protocol() {
    let Some(shared) = common::shared("questions_equal_the_published_protocol") else {
        return;
    };
    let root = shared.join("data/SROIE2019");
    let mut asked: BTreeMap<(String, String), String> = BTreeMap::new();
    for split in ["train", "test"] {
        let result = import(&root, split, Form::Short, 0).unwrap();
        assert!(
            result.samples.len() > 100
                && result.missing_images.is_empty()
                && result.unreadable.is_empty()
        );
        for sample in result.samples {
            for pair in sample.conversations.chunks(2) {
                let question = pair[0].value.trim_start_matches("<image>\n").to_string();
                asked.insert((sample.id.to_string(), question), pair[1].value.clone());
            }
        }
    }
    let mut rows = 0;
    let protocol =
        std::fs::read_to_string(shared.join("data/protocol/sroie_multimodalocr_quarter.jsonl"))
            .unwrap();
    for line in protocol.lines() {
        let row: Value = serde_json::from_str(line).unwrap();
        let key = (
            row["image"].as_str().unwrap().to_string(),
            row["question"].as_str().unwrap().to_string(),
        );
        assert_eq!(
            asked.get(&key).map(String::as_str),
            row["answers"][0].as_str(),
            "{key:?}"
        );
        rows += 1;
    }
    assert!(rows > 600, "{rows}");
}

#[test]
fn duos_quote_the_receipt() {
    let Some(shared) = common::shared("duos_quote_the_receipt") else {
        return;
    };
    let root = shared.join("data/SROIE2019");
    let result = import(&root, "train", Form::Duo, 0).unwrap();
    let facts: usize = result
        .samples
        .iter()
        .map(|s| s.conversations.len() / 4)
        .sum();
    eprintln!(
        "{} receipts, {facts} duos, {} facts not found in the boxes",
        result.receipts,
        result.unlocated.len()
    );
    assert!(result.unlocated.len() * 10 < facts);
    for sample in &result.samples {
        assert_eq!(sample.conversations.len() % 4, 0);
        let boxes = std::fs::read(root.join(format!("train/box/{}.txt", sample.id))).unwrap();
        let boxes = String::from_utf8_lossy(&boxes);
        for duo in sample.conversations.chunks(4) {
            assert!(duo[1].value.ends_with('.') && duo[3].value.ends_with("of the receipt."));
            let quoted = duo[3].value.split('"').nth(1).unwrap();
            assert!(boxes.contains(quoted), "{quoted:?}");
        }
    }
    // It reads back as data with images below the folder.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sroie.json");
    write_llava_json(&path, &result.samples).unwrap();
    let data = Dataset::open(&path, Some(&root)).unwrap();
    let tokenizer = common::small_tokenizer();
    let template = Template::new(TemplateName::V1);
    let stats = Stats::of_dataset(&data, Some((&tokenizer, &template)));
    assert_eq!(
        (stats.samples, stats.images, stats.bad_samples),
        (result.samples.len(), result.samples.len(), 0)
    );
    assert_eq!((stats.missing_images, stats.answers), (0, facts * 2));
    assert!(stats.tokens > stats.supervised_tokens && stats.supervised_tokens > Some(0));
    assert_eq!(
        stats.lengths.iter().map(|b| b.count).sum::<usize>(),
        stats.samples
    );
    eprintln!("{stats}");
    assert!(stats.to_string().contains("supervised"));
    let json = serde_json::to_value(&stats).unwrap();
    assert_eq!(json["samples"], stats.samples);
    assert!(stats.lengths.iter().all(|b| b.from < b.to && b.count > 0));
}

fn lay(root: &Path, name: &str, parts: &[(&str, &[u8])]) {
    for (part, bytes) in parts {
        let extension = if *part == "img" { "jpg" } else { "txt" };
        std::fs::create_dir_all(root.join("train").join(part)).unwrap();
        std::fs::write(root.join(format!("train/{part}/{name}.{extension}")), bytes).unwrap();
    }
}

#[test]
fn missing_and_broken_files_are_counted_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let entities = br#"{"company": "Acme Ltd", "date": "", "address": "1, Road", "total": "9.00"}"#;
    let boxes = b"0,0,9,0,9,9,0,9,ACME LTD\n0,50,9,50,9,59,0,59,1, ROAD\n0,90,9,90,9,99,0,99,TOTAL\n90,90,99,90,99,99,90,99,9.00\nbad,line\n1,2,3\n\xff\n";
    lay(
        root,
        "good",
        &[("img", b"x"), ("box", boxes), ("entities", entities)],
    );
    lay(root, "no_box", &[("img", b"x"), ("entities", entities)]);
    lay(root, "no_img", &[("box", boxes), ("entities", entities)]);
    lay(root, "no_ent", &[("img", b"x"), ("box", boxes)]);
    lay(
        root,
        "broken",
        &[
            ("img", b"x"),
            ("box", boxes),
            ("entities", b"{\"company\": "),
        ],
    );
    lay(
        root,
        "list",
        &[("img", b"x"), ("box", boxes), ("entities", b"[1]")],
    );
    let short = import(root, "train", Form::Short, 0).unwrap();
    let ids = |samples: &[llavar_data::Sample]| {
        samples.iter().map(|s| s.id.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(ids(&short.samples), ["good", "no_box"]);
    assert_eq!(short.receipts, 6);
    assert_eq!(short.missing_boxes, ["no_box"]);
    assert_eq!(short.missing_images, ["no_img"]);
    assert_eq!(short.missing_entities, ["no_ent"]);
    assert_eq!(
        short
            .unreadable
            .iter()
            .map(|(n, _)| n.as_str())
            .collect::<Vec<_>>(),
        ["broken", "list"]
    );
    assert_eq!(short.empty_entities, ["good: date", "no_box: date"]);
    assert_eq!(short.samples[0].images, ["train/img/good.jpg"]);
    let duo = import(root, "train", Form::Duo, 0).unwrap();
    assert_eq!(ids(&duo.samples), ["good"]);
    let turns = &duo.samples[0].conversations;
    assert_eq!(turns.len(), 12);
    assert!(turns[0].value.starts_with("<image>\n") && turns[0].from == Role::Human);
    assert_eq!(
        turns[1].value,
        "The company that issued this invoice is Acme Ltd."
    );
    assert_eq!(
        turns[3].value,
        "The text \"ACME LTD\" stands at the top left of the receipt."
    );
    assert_eq!(
        turns[11].value,
        "The text \"9.00\" stands at the bottom right of the receipt."
    );
    for bad in ["test", "..", "a/b"] {
        assert!(import(root, bad, Form::Short, 0).is_err());
    }
    std::fs::remove_dir_all(root.join("train/img")).unwrap();
    assert!(
        import(root, "train", Form::Short, 0)
            .unwrap_err()
            .to_string()
            .contains("img")
    );
}

#[test]
fn statistics_count_what_is_bad() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f.jsonl");
    let turns = r#"[{"from": "human", "value": "a b"}, {"from": "gpt", "value": "c d e"}]"#;
    let image = r#"[{"from": "system", "value": "s"}, {"from": "human", "value": "<image> b"}, {"from": "gpt", "value": "c"}]"#;
    let question = r#"[{"from": "human", "value": "q"}]"#;
    let lines = [
        format!(r#"{{"id": 1, "conversations": {turns}}}"#),
        format!(r#"{{"id": 2, "image": "none.png", "conversations": {image}}}"#),
        format!(r#"{{"id": 3, "image": "x.png", "conversations": {turns}}}"#),
        format!(r#"{{"id": 4, "conversations": {question}}}"#),
    ];
    std::fs::write(&path, lines.join("\n")).unwrap();
    let data = Dataset::open(&path, Some(dir.path())).unwrap();
    let words = Stats::of_dataset(&data, None);
    assert_eq!(
        (
            words.samples,
            words.bad_samples,
            words.text_only,
            words.images
        ),
        (3, 1, 2, 1)
    );
    assert_eq!(
        (words.words, words.longest, words.median, words.tokens),
        (9, 5, 3, None)
    );
    assert_eq!(
        (
            words.turns,
            words.answers,
            words.dropped_turns,
            words.missing_images
        ),
        (5, 2, 1, 1)
    );
    assert!(
        words.faults[0].contains("none.png") && words.faults[1].contains("id \"3\""),
        "{:?}",
        words.faults
    );
    // With a template, a sample that teaches nothing is bad too.
    let tokenizer = common::small_tokenizer();
    let template = Template::new(TemplateName::V1);
    let tokens = Stats::of_dataset(&data, Some((&tokenizer, &template)));
    assert_eq!((tokens.samples, tokens.bad_samples), (2, 2));
    assert!(
        tokens
            .faults
            .iter()
            .any(|f| f.contains("sample 4: no supervised token"))
    );
}
