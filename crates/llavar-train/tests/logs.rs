//! What a run writes about itself, read by others: TensorBoard, the list of worst samples, events.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::io::Write as _;
use std::{
    fs,
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use common::World;
use llavar_train::{Observer, Outcome, Resume, Silent, StepReport, Trainer, runs::Run};
use serde_json::Value;

/// Stops after a step of so many reports.
struct StopAfter<'a>(u64, &'a AtomicBool);

impl Observer for StopAfter<'_> {
    fn on_step(&mut self, report: &StepReport) {
        self.1.store(report.step >= self.0, Relaxed);
    }
}

fn train(world: &World, run: &str, sets: &[&str]) -> Outcome {
    let mut trainer = Trainer::new(world.recipe(sets), &world.path(run), Resume::Auto).unwrap();
    trainer.run(&mut Silent, &AtomicBool::new(false)).unwrap()
}

/// The Python that has `tensorboard`: `LLAVAR_PYTHON`, or `python3`.
fn tensorboard(folder: &Path) -> Option<Value> {
    let python = std::env::var("LLAVAR_PYTHON").unwrap_or_else(|_| "python3".into());
    let has = Command::new(&python)
        .args(["-c", "import tensorboard"])
        .output();
    if !has.is_ok_and(|out| out.status.success()) {
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED tensorboard_shows_every_step_once: {python} has no tensorboard (pip install tensorboard, and name \
             that Python in LLAVAR_PYTHON)"
        );
        return None;
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/read_events.py");
    let out = Command::new(&python)
        .arg(script)
        .arg(folder)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    Some(serde_json::from_str(text.lines().last().unwrap()).unwrap())
}

/// A run that lost the steps after its last checkpoint: the second session writes them again.
#[test]
fn tensorboard_shows_every_step_once() {
    let world = World::new(8);
    let sets = ["num_train_epochs=4", "save_steps=3", "log.peak_tflops=0.1"];
    let stop = AtomicBool::new(false);
    let mut trainer = Trainer::new(world.recipe(&sets), &world.path("run"), Resume::No).unwrap();
    let outcome = trainer.run(&mut StopAfter(5, &stop), &stop).unwrap();
    assert!(matches!(outcome, Outcome::Interrupted { step: 5, .. }));
    drop(trainer);
    // As if it had been killed: what it saved last is gone.
    fs::remove_dir_all(world.path("run/checkpoints/step-00000005")).unwrap();
    assert!(matches!(
        train(&world, "run", &sets),
        Outcome::Finished { step: 8, .. }
    ));
    let run = Run::with_steps(&world.path("run")).unwrap();
    assert_eq!(fs::read_dir(world.path("run/tb")).unwrap().count(), 2);
    let Some(seen) = tensorboard(&world.path("run/tb")) else {
        return;
    };
    for (tag, key) in [
        ("train/loss", "loss"),
        ("train/learning_rate", "learning_rate"),
        ("train/grad_norm", "grad_norm"),
        ("train/tokens_per_second", "tokens_per_second"),
        ("train/mfu_percent", "mfu_percent"),
        ("train/data_wait_percent", "data_wait_percent"),
    ] {
        let want: Vec<(u64, f32)> = run
            .values(key)
            .into_iter()
            .map(|(step, value)| (step, value as f32))
            .collect();
        let got: Vec<(u64, f32)> = serde_json::from_value(seen["scalars"][tag].clone()).unwrap();
        assert_eq!(got, want, "{tag}");
        assert_eq!(want.len(), 8, "{tag}");
    }
    assert!(
        seen["scalars"]["train/tensor_peak_gib"][0][1]
            .as_f64()
            .unwrap()
            > 0.0
    );
    let recipe = seen["texts"]["recipe"].as_str().unwrap();
    assert!(recipe.contains("num_train_epochs = 4"), "{recipe}");
}

/// The loss of a sample in a batch is the loss that it has alone.
#[test]
fn worst_samples_have_their_own_losses() {
    let world = World::new(12);
    let common = [
        "learning_rate=0",
        "shuffle=false",
        "group_by_modality_length=false",
    ];
    let with = |more: &[&'static str]| [&common[..], more, &["num_train_epochs=1"]].concat();
    let alone = [
        "per_device_train_batch_size=1",
        "gradient_accumulation_steps=1",
    ];
    train(&world, "alone", &with(&alone));
    let alone = Run::with_steps(&world.path("alone"))
        .unwrap()
        .values("loss");
    for (run, sets) in [
        ("packed", ["layout=packed", "log.worst_samples=12"]),
        ("padded", ["layout=padded", "log.worst_samples=12"]),
        ("packs", ["pack_tokens=512", "log.worst_samples=12"]),
    ] {
        let batch = ["per_device_train_batch_size=3"];
        train(&world, run, &with(&[&sets[..], &batch].concat()));
        let run = Run::with_steps(&world.path(run)).unwrap();
        assert_eq!(run.worst.len(), 12, "{run:?}");
        let mut last = f64::INFINITY;
        for sample in &run.worst {
            let number = |key: &str| sample[key].as_f64().unwrap();
            let index = sample["index"].as_u64().unwrap();
            let want = alone[index as usize].1;
            assert!((number("loss") - want).abs() < 1e-4, "{sample}: {want}");
            let step = number("step") as u64;
            let mean = run.values("loss")[step as usize - 1].1;
            assert!((number("excess") - (want - mean)).abs() < 1e-4, "{sample}");
            assert!(number("excess") <= last, "{sample}");
            last = number("excess");
            assert_eq!(sample["id"], format!("s{index}"));
            assert!(
                sample["answer"]
                    .as_str()
                    .unwrap()
                    .starts_with("the total is")
            );
            let images = sample["images"].as_array().unwrap();
            assert_eq!(images.len(), usize::from(index % 3 != 2));
        }
    }
    train(
        &world,
        "none",
        &with(&["log.worst_samples=0", "log.tensorboard=false"]),
    );
    assert!(!world.path("none/worst_samples.jsonl").exists());
    assert!(!world.path("none/tb").exists());
}

#[test]
fn events_tell_the_course_of_a_run() {
    let world = World::new(6);
    let sets = ["num_train_epochs=2", "save_steps=1", "save_total_limit=1"];
    train(&world, "run", &sets);
    let run = Run::open(&world.path("run")).unwrap();
    let names: Vec<&str> = run
        .events
        .iter()
        .map(|e| e["event"].as_str().unwrap())
        .collect();
    assert_eq!(
        (names[0], *names.last().unwrap()),
        ("start", "finish"),
        "{names:?}"
    );
    assert_eq!(
        names.iter().filter(|n| **n == "checkpoint").count(),
        run.rows.len()
    );
    assert!(
        run.fact("device")
            .unwrap()
            .as_str()
            .unwrap()
            .starts_with("cpu")
    );
    assert!(
        run.events
            .iter()
            .all(|e| e["time"].as_f64().unwrap() > 1.7e9)
    );
    assert_eq!(run.status.as_str(), "finished");
}
