//! Packs, mixtures, containers, samples that are cut or cannot be used.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use common::{World, weights};
use llavar_train::{Observer, Outcome, PackingReport, Resume, RunInfo, StepReport, Trainer};

#[derive(Default)]
struct Recorder {
    packing: Option<PackingReport>,
    steps: Vec<StepReport>,
    warnings: Vec<String>,
}

impl Observer for Recorder {
    fn on_start(&mut self, info: &RunInfo) {
        self.packing = info.packing.clone();
    }
    fn on_step(&mut self, report: &StepReport) {
        self.steps.push(report.clone());
    }
    fn on_warning(&mut self, message: &str) {
        self.warnings.push(message.to_owned());
    }
}

fn train(world: &World, run: &str, sets: &[&str]) -> Result<Recorder, String> {
    let mut recorder = Recorder::default();
    let mut trainer = Trainer::new(world.recipe(sets), &world.path(run), Resume::No)
        .map_err(|e| e.to_string())?;
    trainer
        .run(&mut recorder, &AtomicBool::new(false))
        .map_err(|e| e.to_string())?;
    Ok(recorder)
}

/// Trains to step `at`, stops, and goes on to the end with other settings of the loader.
fn interrupted(world: &World, run: &str, sets: &[&str], at: u64, then: &str) {
    let flag = std::sync::Arc::new(AtomicBool::new(false));
    struct StopAt(u64, std::sync::Arc<AtomicBool>);
    impl Observer for StopAt {
        fn on_step(&mut self, report: &StepReport) {
            self.1.store(report.step == self.0, Relaxed);
        }
    }
    let mut trainer = Trainer::new(world.recipe(sets), &world.path(run), Resume::No).unwrap();
    let outcome = trainer.run(&mut StopAt(at, flag.clone()), &flag).unwrap();
    assert!(matches!(outcome, Outcome::Interrupted { step, .. } if step == at));
    drop(trainer);
    let mut sets = sets.to_vec();
    sets.push(then);
    let mut trainer = Trainer::new(world.recipe(&sets), &world.path(run), Resume::Auto).unwrap();
    trainer
        .run(&mut Recorder::default(), &AtomicBool::new(false))
        .unwrap();
}

fn lines(path: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect()
}

const PACKED: [&str; 4] = [
    "group_by_modality_length=false",
    "pack_tokens=160",
    "per_device_train_batch_size=1",
    "gradient_accumulation_steps=2",
];

#[test]
fn packs_take_every_sample_once_an_epoch_and_resume_anywhere() {
    let world = World::new(20);
    let run = train(&world, "whole", &PACKED).unwrap();
    let packing = run.packing.clone().unwrap();
    assert_eq!(
        (packing.samples, packing.unusable, packing.pack_tokens),
        (20, 0, 160)
    );
    assert!(packing.utilisation > 0.7, "{packing:?}");
    // Two epochs of 14 pictures, when every step takes one pack.
    let mut one = PACKED.to_vec();
    one.push("gradient_accumulation_steps=1");
    let all = train(&world, "all", &one).unwrap().steps;
    let sum = |value: fn(&StepReport) -> f64| all.iter().map(|s| value(s) * s.seconds).sum::<f64>();
    assert_eq!(all.len(), 2 * packing.packs);
    assert_eq!(sum(|s| s.images_per_second).round() as usize, 28);
    assert_eq!(
        sum(|s| s.tokens_per_second).round() as u64,
        2 * packing.tokens
    );
    let last = run.steps.last().unwrap().loss;
    assert!(last < run.steps[0].loss, "{last}");
    let whole = weights(&world.path("whole"));
    let total = run.steps.len() as u64;
    for (at, then) in [
        (1, "dataloader_num_workers=0"),
        (total / 2, "dataloader_num_workers=3"),
        (total - 1, "dataloader_num_workers=1"),
    ] {
        let name = format!("stopped-{at}");
        interrupted(&world, &name, &PACKED, at, then);
        assert_eq!(whole, weights(&world.path(&name)), "stopped at {at}");
    }
}

#[test]
fn a_pack_is_learned_from_as_its_samples_alone_are() {
    let world = World::new(6);
    let loss = |run: &str, sets: &[&str]| {
        let mut all = vec![
            "group_by_modality_length=false",
            "max_steps=1",
            "learning_rate=0",
        ];
        all.extend(sets);
        let run = train(&world, run, &all).unwrap();
        (run.steps[0].loss, run.steps[0].supervised_tokens)
    };
    // One step over the whole set: in packs, and one by one.
    let packed = loss(
        "packs",
        &[
            "pack_tokens=160",
            "per_device_train_batch_size=64",
            "gradient_accumulation_steps=1",
        ],
    );
    let single = loss(
        "single",
        &[
            "per_device_train_batch_size=1",
            "gradient_accumulation_steps=6",
        ],
    );
    assert_eq!(packed.1, single.1);
    assert!(
        (packed.0 - single.0).abs() < 1e-4 * single.0,
        "{packed:?} {single:?}"
    );
}

#[test]
fn what_is_cut_is_named_and_images_stay_whole() {
    let world = World::new(12);
    let text = fs::read_to_string(world.path("data.json")).unwrap();
    let mut records: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    // Too long at the end; and a second picture that has no room.
    records[0]["conversations"][1]["value"] = "red blue ".repeat(200).into();
    records[1]["image"] = serde_json::json!(["1.png", "3.png"]);
    records[1]["conversations"] = serde_json::json!([
        {"from": "human", "value": "<image> what"}, {"from": "gpt", "value": "red ".repeat(110)},
        {"from": "human", "value": "<image> what"}, {"from": "gpt", "value": "blue"},
    ]);
    fs::write(
        world.path("data.json"),
        serde_json::to_string(&records).unwrap(),
    )
    .unwrap();
    let run = train(&world, "packs", &PACKED).unwrap();
    let mut cut = lines(&world.path("packs/truncated.jsonl"));
    cut.sort_by_key(|line| line["index"].as_u64());
    assert_eq!(cut.len(), 2, "{cut:?}");
    assert_eq!(
        (&cut[0]["id"], &cut[0]["images_dropped"]),
        (&"s0".into(), &0.into())
    );
    assert_eq!(
        (&cut[1]["id"], &cut[1]["images_dropped"]),
        (&"s1".into(), &1.into())
    );
    assert!(cut[0]["tokens_cut"].as_u64().unwrap() > 300);
    assert!(cut[0]["supervised_cut"].as_u64().unwrap() > 300);
    assert!(
        run.warnings
            .last()
            .unwrap()
            .starts_with("2 samples were cut"),
        "{:?}",
        run.warnings
    );
    // Without packs the longest text cuts, and says so too.
    train(&world, "plain", &["model_max_length=200"]).unwrap();
    assert_eq!(lines(&world.path("plain/truncated.jsonl")).len(), 1);
}

#[test]
fn bad_samples_in_packs_and_in_a_row() {
    let world = World::new(24);
    let text = fs::read_to_string(world.path("data.json")).unwrap();
    let mut records: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    records[5]["conversations"][0]["from"] = "robot".into();
    fs::write(
        world.path("data.json"),
        serde_json::to_string(&records).unwrap(),
    )
    .unwrap();
    fs::write(world.path("images/7.png"), b"not a picture").unwrap();
    let stop = train(&world, "stop", &PACKED).map(|_| ()).unwrap_err();
    assert!(stop.contains("sample s5"), "{stop}");
    let mut skip = PACKED.to_vec();
    skip.push("on_bad_sample=skip");
    let run = train(&world, "skip", &skip).unwrap();
    assert_eq!(run.packing.unwrap().unusable, 1);
    let mut bad: Vec<String> = lines(&world.path("skip/quarantine.jsonl"))
        .iter()
        .map(|l| {
            format!(
                "{} {}",
                l["id"].as_str().unwrap(),
                l["phase"].as_str().unwrap()
            )
        })
        .collect();
    bad.sort();
    assert_eq!(bad, ["s5 read", "s7 image"]);
    interrupted(&world, "again", &skip, 2, "dataloader_num_workers=0");
    assert_eq!(weights(&world.path("skip")), weights(&world.path("again")));
    // The folder is gone: the run stops at once and says what it looks like.
    fs::rename(world.path("images"), world.path("images-gone")).unwrap();
    fs::create_dir(world.path("images")).unwrap();
    let sets = [
        "on_bad_sample=skip",
        "max_consecutive_bad_samples=3",
        "shuffle=false",
        "group_by_modality_length=false",
    ];
    let records: Vec<_> = records
        .into_iter()
        .filter(|r| r.get("image").is_some())
        .collect();
    fs::write(
        world.path("data.json"),
        serde_json::to_string(&records).unwrap(),
    )
    .unwrap();
    let error = train(&world, "gone", &sets).map(|_| ()).unwrap_err();
    assert!(
        error.contains("4 samples in a row") && error.contains("image folder"),
        "{error}"
    );
}

#[test]
fn weighted_sets_of_several_forms_make_one_epoch() {
    let world = World::new(12);
    // Text alone, as JSONL; and a tar whose pictures lie in it.
    let line = |i: usize| {
        serde_json::json!({"id": format!("t{i}"), "conversations": [
            {"from": "human", "value": "what is the total"}, {"from": "gpt", "value": "seven"}]})
        .to_string()
    };
    let text: Vec<String> = (0..10).map(line).collect();
    fs::write(world.path("text.jsonl"), text.join("\n")).unwrap();
    let mut builder = tar::Builder::new(Vec::new());
    for i in 0..4 {
        let picture = fs::read(world.path("images/0.png")).unwrap();
        let record = serde_json::json!({"conversations": [
            {"from": "human", "value": "<image> what is the total"}, {"from": "gpt", "value": "nine"}]});
        for (name, bytes) in [
            (format!("{i}.png"), picture),
            (format!("{i}.json"), record.to_string().into_bytes()),
        ] {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_cksum();
            builder.append_data(&mut header, name, &*bytes).unwrap();
        }
    }
    fs::write(world.path("shard.tar"), builder.into_inner().unwrap()).unwrap();
    let paths = ["data.json", "text.jsonl", "shard.tar"].map(|n| world.path(n));
    let paths = format!("data_path={paths:?}");
    let weights_of = |run: &str, extra: &[&str]| {
        let mut sets = vec![
            &*paths,
            "data.weights=[1, 0.5, 2]",
            "max_steps=0",
            "num_train_epochs=2",
            "per_device_train_batch_size=1",
            "gradient_accumulation_steps=1",
            "group_by_modality_length=false",
        ];
        sets.extend(extra);
        let recorder = train(&world, run, &sets).unwrap();
        (
            sets.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>(),
            recorder,
        )
    };
    let (sets, run) = weights_of("mixed", &[]);
    // 12 + 5 + 8 samples an epoch, with 8 + 8 pictures.
    assert_eq!(run.steps.len(), 2 * 25);
    let images: f64 = run
        .steps
        .iter()
        .map(|s| s.images_per_second * s.seconds)
        .sum();
    assert_eq!(images.round() as usize, 2 * 16);
    let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
    interrupted(&world, "broken", &sets, 30, "dataloader_num_workers=0");
    assert_eq!(
        weights(&world.path("mixed")),
        weights(&world.path("broken"))
    );
    // The same in packs: the half set has packs of its own.
    let (_, run) = weights_of("packed", &["pack_tokens=160"]);
    let packing = run.packing.unwrap();
    assert_eq!(packing.samples, 26);
    assert!(run.steps.iter().map(|s| s.supervised_tokens).sum::<usize>() > 0);
    // And grouped by modality.
    let (_, run) = weights_of("grouped", &["group_by_modality_length=true"]);
    assert_eq!(run.steps.len(), 50);
    let error = world_error(&world, &[&paths, "data.weights=[1, 2]"]);
    assert!(error.contains("one for each of the 3"), "{error}");
}

fn world_error(world: &World, sets: &[&str]) -> String {
    let mut all: Vec<String> = vec![format!(
        "model_name_or_path={}",
        world.path("model").display()
    )];
    all.extend(sets.iter().map(|s| (*s).to_owned()));
    llavar_train::Recipe::resolve("nano-sft", &all)
        .unwrap_err()
        .to_string()
}
