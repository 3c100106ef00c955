//! `llavar data doctor`: reports, exit codes, clean copies; training on packs by the command line.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs;

use common::World;
use serde_json::json;

#[test]
fn the_doctor_finds_what_training_would_and_its_copy_trains_in_packs() {
    let world = World::new("doctor");
    let doctor = |data: &str, more: &[&str]| {
        let args = [
            "data",
            "doctor",
            data,
            "--image-folder",
            "docs",
            "--model",
            "model",
        ];
        world.run(&args, more)
    };
    let value = doctor("docs/data.json", &["--json"]).json();
    let mut records = world.records();
    assert_eq!(
        (&value["samples"], &value["bad"]),
        (&json!(records.len()), &json!(0))
    );
    assert_eq!(value["images_checked"], true);
    assert!(value["supervised_tokens"].as_u64().unwrap() > 0);

    let whole = records.len();
    records[0]["image"] = "nowhere.jpg".into();
    records[1]["conversations"][0]["from"] = "martian".into();
    records.push(records[2].clone());
    world.write_records("bad.json", &records);
    // The report is there all the same.
    for (more, words) in [
        (&[][..], ["2 of ", "cannot be used", "--fix"]),
        (
            &["--fix", "clean.jsonl"],
            ["2 of ", "clean.jsonl", "3 left out"],
        ),
    ] {
        let run = doctor("bad.json", more);
        assert_eq!(run.code, Some(3), "{run:?}");
        assert!(words.iter().all(|w| run.err.contains(w)), "{run:?}");
        assert!(
            run.out.contains("nowhere.jpg") && run.out.contains("martian"),
            "{run:?}"
        );
    }
    doctor("bad.json", &["--fix", "clean.jsonl"]).fails(2, &["exists already", "--force"]);
    let list = fs::read_to_string(world.path("clean.jsonl.quarantine.jsonl")).unwrap();
    for word in ["nowhere.jpg", "martian", "\"phase\":\"duplicate\""] {
        assert!(list.contains(word), "{list}");
    }
    let text = doctor("clean.jsonl", &["--strict"]).ok();
    assert!(text.contains("packs of  4096 tokens"), "{text}");
    let clean = fs::read_to_string(world.path("clean.jsonl")).unwrap();
    assert_eq!(clean.lines().count(), whole - 2);
    doctor("nowhere.json", &[]).fails(3, &["nowhere.json"]);
    doctor("docs/data.json", &["--version", "v7"]).fails(2, &["v7", "phi3_instruct"]);

    for fix in ["new.parquet", "new.tar", "new.json.gz", "NEW.TAR"] {
        doctor("bad.json", &["--fix", fix]).fails(2, &[fix, ".json or .jsonl"]);
        assert!(!world.path(fix).exists());
    }

    let packed = ["--set", "train.pack_tokens=2048"];
    let run = world.train("clean.jsonl", "run", &packed);
    let said = run.err.clone();
    run.ok();
    assert!(said.contains("% filled"), "{said}");
}

/// A tar of one file after the other.
fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = Vec::new();
    for (name, bytes) in files {
        let mut header = [0; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[100..107].copy_from_slice(b"0000644");
        header[124..135].copy_from_slice(format!("{:011o}", bytes.len()).as_bytes());
        header[148..156].fill(b' ');
        header[156] = b'0';
        header[257..265].copy_from_slice(b"ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        tar.extend(header);
        tar.extend(*bytes);
        tar.resize(tar.len().next_multiple_of(512), 0);
    }
    tar.resize(tar.len() + 1024, 0);
    tar
}

#[test]
fn no_copy_is_offered_of_pictures_in_containers() {
    let world = World::new("doctor_tar");
    let record = json!({"conversations": [
        {"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "Nothing."},
    ]});
    let record = record.to_string();
    let files = [("a.json", record.as_bytes()), ("a.png", b"no picture")];
    fs::write(world.path("w.tar"), tar(&files)).unwrap();
    let doctor = ["data", "doctor", "w.tar", "--pixels"];
    let run = world.run(&doctor, &[]);
    assert_eq!(run.code, Some(3), "{run:?}");
    assert!(run.err.contains("1 of 1 samples"), "{run:?}");
    assert!(
        run.err.contains("hint:") && !run.err.contains("--fix"),
        "{run:?}"
    );
    // Which would be refused.
    let run = world.run(&doctor, &["--fix", "clean.json"]);
    assert!(run.err.contains("unpack them first"), "{run:?}");
}
