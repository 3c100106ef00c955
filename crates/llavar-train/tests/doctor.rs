//! The doctor sees what training would meet, and its copy is clean.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::{fs, path::Path, sync::atomic::AtomicBool};

use common::World;
use llavar_data::{Dataset, Tokenizer};
use llavar_train::{
    Resume, Silent, Trainer,
    doctor::{Doctor, Options, Report},
};

fn doctor(world: &World, sets: &[&str], pixels: bool, threads: usize) -> Doctor {
    let tokenizer = Tokenizer::from_folder(&world.path("model")).unwrap();
    let options = Options {
        pixels,
        threads,
        image_tokens: 16,
    };
    Doctor::open(&world.recipe(sets), Some(tokenizer), options).unwrap()
}

fn examine(doctor: &Doctor, fix: Option<&Path>) -> Report {
    doctor.examine(fix, &mut |_| true).unwrap().unwrap()
}

/// 600 samples, so that blocks of several threads follow each other; some bad in every way.
fn ailing() -> World {
    let world = World::new(600);
    let text = fs::read_to_string(world.path("data.json")).unwrap();
    let mut records: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    for i in (2..600).step_by(3) {
        records[i]["conversations"][0]["value"] = format!("what is seven {i}").into();
    }
    records[10]["conversations"][0]["from"] = "robot".into();
    records[300]["image"] = "nowhere.png".into();
    records[599]["conversations"][1]["value"] = "".into();
    records[2]["note"] = "stray".into();
    for i in [30, 402] {
        records[i] = records[0].clone();
        records[i]["id"] = format!("copy-{i}").into();
    }
    records[31]["id"] = "s28".into();
    records[33]["conversations"][1]["value"] = "red ".repeat(600).into();
    let turns = records[60]["conversations"].as_array_mut().unwrap();
    turns.insert(0, serde_json::json!({"from": "gpt", "value": "stray"}));
    fs::write(
        world.path("data.json"),
        serde_json::to_string(&records).unwrap(),
    )
    .unwrap();
    fs::write(world.path("images/303.png"), b"not a picture").unwrap();
    // The header is sound, the picture is not there.
    let whole = fs::read(world.path("images/306.png")).unwrap();
    fs::write(world.path("images/306.png"), &whole[..50]).unwrap();
    world
}

#[test]
fn every_fault_is_counted_and_named_and_the_copy_trains() {
    let world = ailing();
    let report = examine(&doctor(&world, &[], false, 3), None);
    assert_eq!((report.samples, report.good, report.bad), (600, 596, 4));
    let named: Vec<_> = report
        .first_bad
        .iter()
        .map(|b| (b.index, b.phase))
        .collect();
    assert_eq!(
        named,
        [
            (10, "read"),
            (300, "image path"),
            (303, "image"),
            (599, "read")
        ]
    );
    let copies: Vec<_> = report
        .first_duplicates
        .iter()
        .map(|d| (d.index, d.of))
        .collect();
    assert_eq!(copies, [(30, 0), (402, 0)]);
    assert_eq!(
        (
            report.repeated_ids,
            report.dropped_turns,
            report.cut_samples
        ),
        (1, 1, 1)
    );
    assert_eq!(report.unknown_fields.get("note"), Some(&1));
    assert_eq!(report.smallest_image, Some((40, 30)));
    assert!(report.supervised_tokens.unwrap() < report.lengths.total);
    assert!(report.lengths.min < report.lengths.median && report.lengths.max <= 512 + 16);
    assert!(!report.is_usable());
    let packs = &report.packing[1];
    assert!(
        packs.pack_tokens == 4096 && packs.utilisation > 0.9,
        "{packs:?}"
    );
    // The report does not depend on the threads; pixels find what headers do not show.
    let text = |r: &Report| serde_json::to_string(r).unwrap();
    assert_eq!(
        text(&report),
        text(&examine(&doctor(&world, &[], false, 1), None))
    );
    let pixels = examine(&doctor(&world, &[], true, 2), None);
    assert_eq!(pixels.bad, 5);
    assert!(
        pixels
            .first_bad
            .iter()
            .any(|b| b.index == 306 && b.phase == "image")
    );

    for name in ["clean.json", "clean.jsonl"] {
        let clean = world.path(name);
        let before = fs::read(world.path("data.json")).unwrap();
        examine(&doctor(&world, &[], true, 2), Some(&clean));
        assert_eq!(before, fs::read(world.path("data.json")).unwrap());
        assert_eq!(Dataset::open(&clean, None).unwrap().len(), 600 - 5 - 2);
        let list = fs::read_to_string(world.path(&format!("{name}.quarantine.jsonl"))).unwrap();
        let phases: Vec<serde_json::Value> = list
            .lines()
            .map(|l| serde_json::from_str(l).unwrap())
            .collect();
        assert_eq!(phases.len(), 7);
        assert_eq!(phases[1]["phase"], "duplicate");
        let path = format!("data_path={}", clean.display());
        let again = examine(&doctor(&world, &[&path], true, 2), None);
        assert!(again.is_usable() && again.duplicates == 0, "{again}");
    }
    // What the doctor let pass, training takes.
    let path = format!("data_path={}", world.path("clean.jsonl").display());
    let recipe = world.recipe(&[&path, "max_steps=2", "per_device_train_batch_size=16"]);
    let mut trainer = Trainer::new(recipe, &world.path("run"), Resume::No).unwrap();
    trainer.run(&mut Silent, &AtomicBool::new(false)).unwrap();
}

#[test]
fn stopping_leaves_no_file_and_without_a_tokenizer_words_count() {
    let world = ailing();
    let clean = world.path("clean.jsonl");
    let stopped = doctor(&world, &[], false, 2)
        .examine(Some(&clean), &mut |done| done < 300)
        .unwrap();
    assert!(stopped.is_none());
    let left: Vec<_> = fs::read_dir(world.dir.path())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("clean"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    let plain = Doctor::open(&world.recipe(&[]), None, Options::default()).unwrap();
    let report = examine(&plain, None);
    assert_eq!(
        (report.unit, report.supervised_tokens, report.bad),
        ("words", None, 4)
    );
    assert!(report.to_string().contains("repeated ids"));
}
