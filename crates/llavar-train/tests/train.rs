//! A tiny model learns, in both stages, both layouts and both weightings.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::{fs, sync::atomic::AtomicBool};

use common::World;
use llavar_train::{Observer, Outcome, Resume, RunInfo, Silent, StepReport, Trainer};

/// Keeps what it is told.
#[derive(Default)]
struct Recorder {
    info: Option<RunInfo>,
    steps: Vec<StepReport>,
    warnings: Vec<String>,
}

impl Observer for Recorder {
    fn on_start(&mut self, info: &RunInfo) {
        self.info = Some(info.clone());
    }
    fn on_step(&mut self, report: &StepReport) {
        self.steps.push(report.clone());
    }
    fn on_warning(&mut self, message: &str) {
        self.warnings.push(message.into());
    }
}

fn train(world: &World, run: &str, sets: &[&str]) -> Recorder {
    let mut trainer = Trainer::new(world.recipe(sets), &world.path(run), Resume::No).unwrap();
    let mut recorder = Recorder::default();
    let outcome = trainer.run(&mut recorder, &AtomicBool::new(false)).unwrap();
    assert!(matches!(outcome, Outcome::Finished { .. }));
    recorder
}

#[test]
fn the_loss_falls_and_the_log_tells() {
    let world = World::new(12);
    let run = train(&world, "run", &["num_train_epochs=12"]);
    let info = run.info.unwrap();
    assert_eq!(
        (info.samples, info.total_steps, run.steps.len()),
        (12, 36, 36)
    );
    assert!(info.memory.total() > 12 * info.parameters && info.memory.activations > 0);
    let (first, last) = (run.steps[0].loss, run.steps[35].loss);
    assert!(last < 0.6 * first, "{first} {last}");
    assert_eq!(run.steps[0].learning_rate, 0.0);
    assert!((run.steps[35].epoch - 12.0).abs() < 1e-9);
    let log = fs::read_to_string(world.path("run/train.jsonl")).unwrap();
    assert_eq!(log.lines().count(), 36);
    let line: serde_json::Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    assert_eq!(line["step"], 36);
    for key in [
        "loss",
        "learning_rate",
        "grad_norm",
        "supervised_tokens_per_second",
        "images_per_second",
        "data_wait_percent",
        "tensor_peak_bytes",
        "epoch",
    ] {
        assert!(line[key].is_number(), "{key}: {line}");
    }
    assert!(run.warnings.is_empty(), "{:?}", run.warnings);
    // The result is a model folder with its tokenizer, and loads as one.
    let folder = world.path("run/model");
    assert!(folder.join("tokenizer.json").is_file());
    let model = llavar_model::LlavaModel::load(&folder).unwrap();
    assert_eq!(model.config.as_json()["image_aspect_ratio"], "pad");
    assert_eq!(model.config.tokenizer_model_max_length, Some(512));
}

#[test]
fn stage_one_changes_projector_and_fusion_alone_and_stage_two_takes_them() {
    let world = World::new(9);
    train(
        &world,
        "one",
        &["stage=pretrain", "version=plain", "data.on_bad_sample=skip"],
    );
    let model = |folder: &str| llavar_model::LlavaModel::load(&world.path(folder)).unwrap();
    let (before, after) = (model("model"), model("one/model"));
    let mut changed = 0;
    for (a, b) in before.params().iter().zip(after.params()) {
        let name = a.name();
        assert_eq!(name, b.name());
        let same = a.value().to_f32_vec().unwrap() == b.value().to_f32_vec().unwrap();
        if name.contains("mm_projector") || name.contains("align_stages") {
            changed += usize::from(!same);
        } else {
            assert!(same, "{name} changed");
        }
    }
    assert!(changed >= 8, "{changed}");
    let adapter = format!("pretrain_mm_mlp_adapter={}", world.path("one").display());
    let recipe = world.recipe(&[&adapter]);
    let trainer = Trainer::new(recipe, &world.path("two"), Resume::No).unwrap();
    for (a, b) in trainer.model().params().iter().zip(after.params()) {
        assert_eq!(
            a.value().to_f32_vec().unwrap(),
            b.value().to_f32_vec().unwrap(),
            "{}",
            a.name()
        );
    }
}

/// Padding and the split into micro-batches do not change what is learned.
#[test]
fn layouts_and_splits_agree() {
    let world = World::new(8);
    let losses = |run: &str, sets: &[&str]| -> Vec<f64> {
        train(&world, run, sets)
            .steps
            .iter()
            .map(|s| s.loss)
            .collect()
    };
    let packed = losses("packed", &["gradient_checkpointing=true"]);
    for (run, sets) in [
        ("padded", vec!["layout=padded"]),
        ("tokens", vec!["max_tokens_per_micro_batch=60"]),
        ("whole", vec!["max_tokens_per_micro_batch=100000"]),
        ("inline", vec!["dataloader_num_workers=0"]),
    ] {
        for (step, (a, b)) in packed.iter().zip(losses(run, &sets)).enumerate() {
            assert!((a - b).abs() < 2e-4 * a, "{run} step {step}: {a} {b}");
        }
    }
    // The reference's weighting is another one, because the answers differ in length.
    let reference = losses("reference", &["loss_weighting=micro_batch"]);
    let differ = packed
        .iter()
        .zip(&reference)
        .any(|(a, b)| (a - b).abs() > 1e-3);
    assert!(differ, "{packed:?} {reference:?}");
}

#[test]
fn bad_samples_stop_the_run_or_are_put_aside() {
    let world = World::new(10);
    fs::write(world.path("images/4.png"), b"").unwrap();
    fs::write(world.path("images/7.png"), b"\x89PNG\r\n\x1a\nbroken").unwrap();
    let mut trainer = Trainer::new(world.recipe(&[]), &world.path("a"), Resume::No).unwrap();
    let error = trainer
        .run(&mut Silent, &AtomicBool::new(false))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(".png") && error.contains("sample s"),
        "{error}"
    );

    let run = train(
        &world,
        "b",
        &["on_bad_sample=skip", "image_cache_bytes=1000000"],
    );
    // The two, and how many there were.
    assert_eq!(run.warnings.len(), 3, "{:?}", run.warnings);
    let said = run.warnings.last().unwrap();
    assert!(said.starts_with("2 samples could not be used"), "{said}");
    let list = fs::read_to_string(world.path("b/quarantine.jsonl")).unwrap();
    let mut ids: Vec<String> = list
        .lines()
        .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["id"].to_string())
        .collect();
    ids.sort();
    assert_eq!(ids, ["\"s4\"", "\"s7\""]);

    let recipe = world.recipe(&["on_bad_sample=skip", "max_bad_samples=1"]);
    let mut trainer = Trainer::new(recipe, &world.path("c"), Resume::No).unwrap();
    let error = trainer
        .run(&mut Silent, &AtomicBool::new(false))
        .unwrap_err()
        .to_string();
    assert!(error.contains("allowed are 1"), "{error}");
}

#[test]
fn settings_that_cannot_work_are_named() {
    let world = World::new(4);
    let open = |sets: &[&str]| {
        let run = world.path("run");
        Trainer::new(world.recipe(sets), &run, Resume::No)
            .unwrap_err()
            .to_string()
    };
    assert!(open(&["freeze=[\"*\"]"]).contains("no weight is left to train"));
    assert!(open(&["freeze=[\"no.such*\"]"]).contains("no.such*"));
    assert!(open(&["data_path=nowhere.json"]).contains("nowhere.json"));
    assert!(open(&["model_name_or_path=nowhere"]).contains("nowhere"));
    assert!(open(&["input_image_size=100"]).contains("model"));
    let adapter = format!("pretrain_mm_mlp_adapter={}", world.path("images").display());
    assert!(open(&[&adapter]).contains("holds no mm_projector.safetensors"));
    // The CPU has no FP8: what is wrong, why, and what to do.
    let fp8 = open(&["fp8=true"]);
    for part in ["train.fp8", "on the CPU", "train.fp8=false"] {
        assert!(fp8.contains(part), "{fp8}");
    }
}

#[test]
fn gradients_that_are_not_finite_are_skipped_and_counted() {
    let world = World::new(8);
    let sets = ["learning_rate=1e30", "warmup_ratio=0", "max_grad_norm=0"];
    let run = train(&world, "run", &sets);
    let skipped = run.steps.iter().filter(|s| s.skipped).count();
    assert!(skipped > 0 && !run.steps[0].skipped, "{skipped}");
    // One a step, and in the end that the model is that of an earlier one.
    assert_eq!(run.warnings.len(), skipped + 1);
    let last = run.warnings.last().unwrap();
    assert!(last.contains("the model is that of step 1"), "{last}");
    assert!(
        run.steps
            .iter()
            .filter(|s| s.skipped)
            .all(|s| s.grad_norm.is_none())
    );
    let state =
        llavar_train::checkpoint::TrainState::read(&world.path("run/checkpoints/step-00000004"));
    let state = state.unwrap();
    assert_eq!((state.step, state.skipped_steps), (4, skipped as u64));
    assert_eq!(state.updates + state.skipped_steps, 4);
}
