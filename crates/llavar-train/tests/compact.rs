//! Compact checkpoints: small, in small files, and a run that resumes from one ends as the run that wrote it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use common::World;
use llavar_model::LlavaModel;
use llavar_train::{
    Observer, Resume, Silent, StepReport, TrainError, Trainer,
    checkpoint::{list, verify},
};

#[derive(Default)]
struct Losses(Vec<f64>);

impl Observer for Losses {
    fn on_step(&mut self, report: &StepReport) {
        self.0.push(report.loss);
    }
}

fn train(world: &World, run: &str, sets: &[&str], resume: Resume) -> Vec<f64> {
    let mut trainer = Trainer::new(world.recipe(sets), &world.path(run), resume).unwrap();
    let mut losses = Losses::default();
    trainer.run(&mut losses, &AtomicBool::new(false)).unwrap();
    losses.0
}

fn values(folder: &Path) -> BTreeMap<String, Vec<f32>> {
    let model = LlavaModel::load(folder).unwrap();
    let params = model.params().into_iter();
    params
        .map(|p| (p.name().to_owned(), p.value().to_f32_vec().unwrap()))
        .collect()
}

/// Files of a folder and all below it, with their sizes in bytes.
fn files(folder: &Path) -> Vec<(String, u64)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => all.extend(files(&entry.path())),
            false => all.push((
                entry.file_name().to_string_lossy().into_owned(),
                entry.metadata().unwrap().len(),
            )),
        }
    }
    all
}

const COMPACT: [&str; 4] = [
    "num_train_epochs=4",
    "save_steps=1",
    "save_total_limit=0",
    "compact_checkpoints=true",
];

#[test]
fn a_run_that_resumes_from_any_save_ends_in_the_same_bits() {
    let averages: &[&str] = &["ema_decay=0.7", "max_shard_bytes=65536"];
    let stage_1: &[&str] = &["stage=pretrain", "learning_rate=1e-2"];
    for (name, freeze, more) in [("a", false, averages), ("b", true, stage_1)] {
        let world = World::wide(8, freeze);
        let sets = [&COMPACT[..], more].concat();
        let whole = train(&world, name, &sets, Resume::No);
        assert_eq!(whole.len(), 8);
        let want = values(&world.path(name).join("model"));
        let start = values(&world.path("model"));
        let moved = want
            .iter()
            .filter(|(n, v)| start.get(*n) != Some(v))
            .count();
        assert!(moved > 5, "{moved}");
        for info in list(&world.path(name)).unwrap().into_iter().step_by(3) {
            assert_eq!(verify(&info.path), Ok(()));
            let run = format!("{name}-{}", info.step);
            let from = Resume::From(info.path.clone());
            let losses = train(&world, &run, &sets, from);
            assert_eq!(losses, whole[info.step as usize..], "{name} {}", info.step);
            for folder in ["model", "model-ema"] {
                let whole = world.path(name).join(folder);
                if whole.exists() {
                    let resumed = values(&world.path(&run).join(folder));
                    assert!(resumed == values(&whole), "{folder} {name} {}", info.step);
                }
            }
        }
    }
}

#[test]
fn an_interruption_saves_small_too_and_what_follows_is_decided_by_its_saves() {
    struct StopAt<'a>(u64, &'a AtomicBool);
    impl Observer for StopAt<'_> {
        fn on_step(&mut self, report: &StepReport) {
            self.1.store(report.step >= self.0, Relaxed);
        }
    }
    let world = World::wide(8, false);
    let sets = [&COMPACT[..], &["save_steps=2"]].concat();
    let whole = train(&world, "whole", &sets, Resume::No);
    // At a planned save an interruption leaves no trace.
    let stop = AtomicBool::new(false);
    let mut trainer = Trainer::new(world.recipe(&sets), &world.path("cut"), Resume::No).unwrap();
    trainer.run(&mut StopAt(4, &stop), &stop).unwrap();
    drop(trainer);
    let rest = train(&world, "cut", &sets, Resume::Auto);
    assert_eq!(rest, whole[4..]);
    // Between two of them its own save is one more, and the same steps follow however often one resumes from it.
    let stop = AtomicBool::new(false);
    let mut trainer = Trainer::new(world.recipe(&sets), &world.path("odd"), Resume::No).unwrap();
    trainer.run(&mut StopAt(3, &stop), &stop).unwrap();
    trainer.run(&mut Silent, &AtomicBool::new(false)).unwrap();
    drop(trainer);
    let third = world.path("odd/checkpoints/step-00000003");
    train(&world, "odd-again", &sets, Resume::From(third));
    assert!(values(&world.path("odd/model")) == values(&world.path("odd-again/model")));

    // Other steps for its saves would be another run.
    let other = [&sets[..], &["save_steps=3", "num_train_epochs=4"]].concat();
    let from = world.path("whole/checkpoints/step-00000004");
    let error = Trainer::new(world.recipe(&other), &world.path("x"), Resume::From(from));
    let error = error.unwrap_err();
    assert!(matches!(error, TrainError::RecipeChanged { .. }), "{error}");
    assert!(error.to_string().contains("train.save_steps"), "{error}");
}

#[test]
fn it_takes_about_4_bytes_a_weight_in_files_of_the_size_that_was_asked_for() {
    let world = World::wide(8, false);
    let sets = [&COMPACT[..], &["save_steps=0", "max_shard_bytes=65536"]].concat();
    train(&world, "small", &sets, Resume::No);
    let plain = [&COMPACT[..3], &["save_steps=0"]].concat();
    train(&world, "plain", &plain, Resume::No);
    let step = "checkpoints/step-00000008";
    let size = |run: &str| {
        let all = files(&world.path(run).join(step));
        let tensors = all
            .iter()
            .filter(|(name, _)| name.ends_with(".safetensors"));
        tensors.map(|(_, bytes)| *bytes).sum::<u64>()
    };
    let params = LlavaModel::load(&world.path("model")).unwrap().params();
    let count = |large: bool| {
        let params = params.iter().filter(|p| (p.numel() >= 4096) == large);
        params.map(|p| p.numel() as u64).sum::<u64>()
    };
    let (large, rest) = (count(true), count(false));
    assert!(large > rest, "{large} {rest}");
    // The fresh adapters of stage 2 are small; headers are 200 bytes a tensor.
    let (small, plain) = (size("small"), size("plain"));
    assert!(plain > 12 * (large + rest), "{plain}");
    let headers = 3 * 250 * params.len() as u64;
    let most = 4 * large + large / 16 + 12 * rest + 2 * headers;
    assert!(small < most, "{small} {most}");
    assert!(plain - small > 7 * large, "{plain} {small}");
    for (name, bytes) in files(&world.path("small").join(step)) {
        assert!(bytes <= 65536, "{name} has {bytes} bytes");
    }
    let names = files(&world.path("small").join(step));
    let many = |start: &str| names.iter().filter(|(n, _)| n.starts_with(start)).count();
    assert!(
        many("optimizer-part-") > 1 && many("model-0") > 1,
        "{names:?}"
    );
    assert_eq!(many("model.safetensors.index.json"), 1);
}

#[test]
fn saving_at_every_step_hardly_changes_what_is_learned() {
    let world = World::wide(12, false);
    let sets = |more: &[&'static str]| {
        let common = [
            "num_train_epochs=16",
            "save_total_limit=1",
            "learning_rate=3e-3",
        ];
        [&common[..], more].concat()
    };
    let plain = train(&world, "plain", &sets(&[]), Resume::No);
    let compact = sets(&["compact_checkpoints=true", "save_steps=1"]);
    let small = train(&world, "small", &compact, Resume::No);
    let (first, last) = (plain[0], plain[plain.len() - 1]);
    assert!(last < 0.6 * first, "{first} {last}");
    let far = plain.iter().zip(&small).map(|(a, b)| (a - b).abs());
    let far = far.fold(0.0, f64::max);
    assert!(far < 0.03 * (first - last), "{far} of {first} to {last}");
    assert!(far > 0.0);
}

#[test]
fn the_trained_model_is_written_in_the_type_that_is_asked_for() {
    let world = World::wide(8, false);
    let dtype = |run: &str| {
        let text = fs::read_to_string(world.path(run).join("model/config.json")).unwrap();
        let config: serde_json::Value = serde_json::from_str(&text).unwrap();
        config["torch_dtype"].as_str().unwrap().to_owned()
    };
    let one = ["max_steps=2"];
    train(&world, "plain", &one, Resume::No);
    train(
        &world,
        "half",
        &[&one[..], &["save_dtype=bf16"]].concat(),
        Resume::No,
    );
    let compact = [&one[..], &["compact_checkpoints=true"]].concat();
    train(&world, "small", &compact, Resume::No);
    train(
        &world,
        "wide",
        &[&compact[..], &["save_dtype=f32"]].concat(),
        Resume::No,
    );
    let all = ["plain", "half", "small", "wide"].map(dtype);
    assert_eq!(all, ["float32", "bfloat16", "bfloat16", "float32"]);
    let (plain, half) = (
        values(&world.path("plain/model")),
        values(&world.path("half/model")),
    );
    let mut rounded = 0;
    for (name, plain) in &plain {
        rounded += usize::from(plain != &half[name]);
        for (a, b) in plain.iter().zip(&half[name]) {
            assert!((a - b).abs() <= a.abs() / 256.0, "{name}: {a} {b}");
        }
        let norm = name.contains("norm");
        assert!(!norm || plain == &half[name], "{name}");
    }
    assert!(rounded > 5);
    // The state of a compact run is rounded when it is saved, whatever its last folder is written in.
    assert!(values(&world.path("small/model")) == values(&world.path("wide/model")));
}

#[test]
fn a_run_changes_to_small_checkpoints_when_it_is_told_twice() {
    let world = World::wide(8, false);
    let sets = ["num_train_epochs=4", "save_steps=2", "save_total_limit=0"];
    train(&world, "plain", &sets, Resume::No);
    let from = || Resume::From(world.path("plain/checkpoints/step-00000004"));
    let more = [&sets[..], &["compact_checkpoints=true"]].concat();
    let error = Trainer::new(world.recipe(&more), &world.path("x"), from()).unwrap_err();
    assert!(
        error.to_string().contains("train.compact_checkpoints"),
        "{error}"
    );
    let told = [&more[..], &["allow_recipe_change=true"]].concat();
    let losses = train(&world, "small", &told, from());
    assert_eq!(losses.len(), 4);
    let back = [&sets[..], &["allow_recipe_change=true"]].concat();
    let step = world.path("small/checkpoints/step-00000006");
    assert_eq!(train(&world, "back", &back, Resume::From(step)).len(), 2);
}
