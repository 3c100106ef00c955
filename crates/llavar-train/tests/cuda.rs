//! Whole runs on a GPU: resume, determinism, memory.
//!
//! `cargo test --release -p llavar-train --test cuda -- --ignored --test-threads=1` where one is.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use common::{World, weights};
use llavar_model::config::Pathways;
use llavar_tensor::{
    Device, Param, Tape, Tensor, Var,
    cuda::{Cuda, DeviceMemory},
};
use llavar_train::{Observer, Outcome, Resume, RunInfo, StepReport, TrainError, Trainer};

const PRECISIONS: [&str; 3] = ["f32", "bf16", "bf16-pure"];

fn gpu() -> Arc<Cuda> {
    Device::cuda(0).unwrap().as_cuda().unwrap().clone()
}

/// Keeps the reports, and the memory of the GPU at each.
struct Recorder {
    cuda: Arc<Cuda>,
    info: Option<RunInfo>,
    steps: Vec<StepReport>,
    memory: Vec<DeviceMemory>,
    stop_at: u64,
    stop: Arc<AtomicBool>,
}

impl Recorder {
    fn new(stop_at: u64) -> Self {
        Self {
            cuda: gpu(),
            info: None,
            steps: Vec::new(),
            memory: Vec::new(),
            stop_at,
            stop: Arc::default(),
        }
    }

    fn losses(&self) -> Vec<(u64, f64, Option<f32>)> {
        let line = |r: &StepReport| (r.step, r.loss, r.grad_norm);
        self.steps.iter().map(line).collect()
    }
}

impl Observer for Recorder {
    fn on_start(&mut self, info: &RunInfo) {
        self.info = Some(info.clone());
    }
    fn on_step(&mut self, report: &StepReport) {
        self.steps.push(report.clone());
        self.memory.push(self.cuda.memory());
        if report.step >= self.stop_at {
            self.stop.store(true, Relaxed);
        }
    }
}

fn on_gpu<'a>(sets: &[&'a str], precision: &'a str) -> Vec<String> {
    let mut all: Vec<String> = sets.iter().map(|s| (*s).to_owned()).collect();
    all.push("train.device=cuda".into());
    all.push(format!("train.precision={precision}"));
    all
}

fn open(world: &World, run: &str, sets: &[String], resume: Resume) -> Trainer {
    let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
    Trainer::new(world.recipe(&sets), &world.path(run), resume).unwrap()
}

fn train(world: &World, run: &str, sets: &[String], resume: Resume, stop_at: u64) -> Recorder {
    let mut recorder = Recorder::new(stop_at);
    let stop = recorder.stop.clone();
    let outcome = open(world, run, sets, resume)
        .run(&mut recorder, &stop)
        .unwrap();
    let finished = matches!(outcome, Outcome::Finished { .. });
    assert!(
        finished || recorder.steps.len() as u64 >= stop_at,
        "{outcome:?}"
    );
    recorder
}

#[test]
#[ignore = "needs a GPU"]
fn cuda_runs_learn_and_agree_with_the_cpu() {
    for pathways in Pathways::ALL {
        learns_and_agrees(&World::of_pathways(12, pathways));
    }
}

fn learns_and_agrees(world: &World) {
    let sets = ["num_train_epochs=12", "train.seed=3"];
    let mut on_cpu = Recorder::new(u64::MAX);
    let mut trainer = Trainer::new(world.recipe(&sets), &world.path("cpu"), Resume::No).unwrap();
    trainer.run(&mut on_cpu, &AtomicBool::new(false)).unwrap();
    // Rounding grows from step to step; the beginning is what must agree.
    let agreement = [(8, 1e-3), (3, 0.02), (3, 0.05)];
    for (precision, (steps, tolerance)) in PRECISIONS.into_iter().zip(agreement) {
        let run = train(
            world,
            precision,
            &on_gpu(&sets, precision),
            Resume::No,
            u64::MAX,
        );
        let info = run.info.as_ref().unwrap();
        assert!(info.device.starts_with("cuda:0 ("), "{}", info.device);
        assert!(info.memory.capacity.unwrap() > info.memory.on_device());
        assert_eq!(run.steps.len(), on_cpu.steps.len());
        for (i, (a, b)) in run.steps.iter().zip(&on_cpu.steps).enumerate() {
            assert_eq!((a.step, a.supervised_tokens), (b.step, b.supervised_tokens));
            if i < steps {
                let error = (a.loss / b.loss - 1.0).abs();
                assert!(
                    error < tolerance,
                    "{precision} step {i}: {} {}",
                    a.loss,
                    b.loss
                );
            }
        }
        let (first, last) = (run.steps[0].loss, run.steps.last().unwrap().loss);
        assert!(last < 0.7 * first, "{precision}: {first} {last}");
    }
}

/// Two runs with the same losses and weights, which are returned.
fn trained_twice(world: &World, precision: &str, sets: &[String]) -> (Recorder, Vec<u8>) {
    let [a, b] = ["a", "b"].map(|run| {
        let name = format!("{precision}-{run}");
        let run = train(world, &name, sets, Resume::No, u64::MAX);
        (run, weights(&world.path(&name)))
    });
    assert_eq!(a.0.losses(), b.0.losses(), "{precision}");
    assert!(a.1 == b.1, "{precision}");
    a
}

#[test]
#[ignore = "needs a GPU"]
fn cuda_runs_are_the_same_bits_again_and_when_they_resume() {
    let world = World::new(10);
    let sets = ["num_train_epochs=3", "save_steps=2"];
    for precision in PRECISIONS {
        let sets = on_gpu(&sets, precision);
        let name = |run: &str| format!("{precision}-{run}");
        let (a, bits) = trained_twice(&world, precision, &sets);
        for stop_at in [1, 3, 4] {
            let run = name(&format!("stopped-{stop_at}"));
            let first = train(&world, &run, &sets, Resume::No, stop_at);
            let second = train(&world, &run, &sets, Resume::Auto, u64::MAX);
            assert!(
                bits == weights(&world.path(&run)),
                "{precision} after {stop_at}"
            );
            let both = [first.losses(), second.losses()].concat();
            assert_eq!(
                both,
                a.losses(),
                "every step once, {precision} after {stop_at}"
            );
        }
    }
}

#[test]
#[ignore = "needs a GPU"]
fn cuda_fp8_learns_as_bf16_does() {
    let world = World::wide(12, false);
    let base = ["num_train_epochs=12", "train.seed=3"];
    for precision in ["bf16", "bf16-pure"] {
        let run = |name: &str, sets: &[&str]| {
            let run = format!("{precision}-{name}");
            train(&world, &run, &on_gpu(sets, precision), Resume::No, u64::MAX)
        };
        let (plain, fp8) = (
            run("plain", &base),
            run("fp8", &[&base[..], &["fp8=true"]].concat()),
        );
        assert_ne!(plain.losses(), fp8.losses(), "{precision}: that was bf16");
        let info = fp8.info.as_ref().unwrap();
        assert!(
            info.device.ends_with("with FP8 products"),
            "{}",
            info.device
        );
        let more = info.memory.weights - plain.info.as_ref().unwrap().memory.weights;
        assert!(more > 0 && info.warnings.iter().all(|w| !w.contains("fp8")));
        for (a, b) in fp8.steps.iter().zip(&plain.steps).take(3) {
            let error = (a.loss / b.loss - 1.0).abs();
            assert!(
                error < 0.05,
                "{precision} step {}: {} {}",
                a.step,
                a.loss,
                b.loss
            );
        }
        let (first, last) = (fp8.steps[0].loss, fp8.steps.last().unwrap().loss);
        assert!(last < 0.7 * first, "{precision}: {first} {last}");
    }
}

#[test]
#[ignore = "needs a GPU"]
fn cuda_fp8_runs_repeat_resume_and_recompute_to_the_same_bits() {
    let world = World::wide(10, false);
    let sets = [
        "num_train_epochs=3",
        "save_steps=2",
        "save_total_limit=0",
        "fp8=true",
    ];
    for precision in ["bf16", "bf16-pure"] {
        let sets = on_gpu(&sets, precision);
        let name = |run: &str| format!("{precision}-{run}");
        let (a, bits) = trained_twice(&world, precision, &sets);
        let first = train(&world, &name("stopped"), &sets, Resume::No, 3);
        let second = train(&world, &name("stopped"), &sets, Resume::Auto, u64::MAX);
        assert_eq!([first.losses(), second.losses()].concat(), a.losses());
        assert!(
            bits == weights(&world.path(&name("stopped"))),
            "{precision}"
        );
        let again = [&sets[..], &["gradient_checkpointing=true".to_owned()]].concat();
        let again = train(&world, &name("again"), &again, Resume::No, u64::MAX);
        assert_eq!(
            again.losses(),
            a.losses(),
            "{precision}: recomputation changes bits"
        );
        // A run does not change its products on the way.
        let sets: Vec<&str> = sets
            .iter()
            .map(String::as_str)
            .filter(|s| *s != "fp8=true")
            .collect();
        let from = Resume::From(world.path(&name("a/checkpoints/step-00000002")));
        let error = Trainer::new(world.recipe(&sets), &world.path(&name("other")), from);
        let error = error.err().unwrap().to_string();
        assert!(error.contains("train.fp8"), "{error}");
    }
}

#[test]
#[ignore = "needs a GPU"]
fn cuda_fp8_says_what_stays_in_bf16() {
    let world = World::new(8);
    // Keys and values of 8 columns, an MLP of 24: five weights of each layer cannot.
    let sets = on_gpu(&["max_steps=2", "fp8=true"], "bf16");
    let run = train(&world, "run", &sets, Resume::No, u64::MAX);
    let warnings = &run.info.unwrap().warnings;
    let said = warnings
        .iter()
        .any(|w| w.starts_with("train.fp8:") && w.contains("10 of 14"));
    assert!(said, "{warnings:?}");
}

#[test]
#[ignore = "needs a GPU"]
fn cuda_compact_checkpoints_resume_bit_by_bit() {
    let world = World::wide(8, false);
    let sets = [
        "num_train_epochs=4",
        "save_steps=2",
        "save_total_limit=0",
        "compact_checkpoints=true",
        "ema_decay=0.7",
    ];
    for precision in PRECISIONS {
        let sets = on_gpu(&sets, precision);
        let whole = train(&world, precision, &sets, Resume::No, u64::MAX);
        let bits = weights(&world.path(precision));
        for step in [2, 4, 6] {
            let run = format!("{precision}-{step}");
            let from = format!("{precision}/checkpoints/step-{step:08}");
            let from = Resume::From(world.path(&from));
            let rest = train(&world, &run, &sets, from, u64::MAX);
            assert_eq!(rest.losses(), whole.losses()[step..], "{precision} {step}");
            assert!(bits == weights(&world.path(&run)), "{precision} {step}");
        }
    }
}

#[test]
#[ignore = "needs a GPU"]
fn cuda_the_last_step_has_a_time_like_the_others() {
    let world = World::new(8);
    let sets = on_gpu(&["num_train_epochs=24", "save_steps=0"], "bf16");
    let run = train(&world, "run", &sets, Resume::No, u64::MAX);
    let mut times: Vec<f64> = run.steps.iter().skip(8).map(|s| s.seconds).collect();
    let last = times.pop().unwrap();
    times.sort_by(f64::total_cmp);
    let middle = times[times.len() / 2];
    println!("last step {last:.4} s, median {middle:.4} s");
    assert!(last > 0.5 * middle, "{last} s, median {middle} s");
}

#[test]
#[ignore = "needs a GPU"]
fn cuda_recomputation_changes_no_bit() {
    let world = World::new(8);
    let run = |how: &str| {
        let sets = on_gpu(&[how], "bf16");
        train(&world, how, &sets, Resume::No, u64::MAX).losses()
    };
    let all = run("gradient_checkpointing=true");
    for how in ["=false", "=3", "=auto"] {
        assert_eq!(run(&format!("gradient_checkpointing{how}")), all, "{how}");
    }
}

#[test]
#[ignore = "needs a GPU"]
fn cuda_memory_is_flat_over_a_thousand_steps() {
    let world = World::new(12);
    let sets = on_gpu(&["max_steps=1000", "data.shuffle=false"], "bf16");
    let run = train(&world, "run", &sets, Resume::No, u64::MAX);
    assert_eq!(run.memory.len(), 1000);
    // Two epochs have shown every shape.
    let steady = run.memory[20];
    for (step, memory) in run.memory.iter().enumerate().skip(20) {
        assert_eq!(
            (memory.in_use, memory.reserved),
            (steady.in_use, steady.reserved),
            "step {}",
            step + 1
        );
    }
    println!("{steady:?}");
}

/// Takes what the card has left, down to small pieces.
fn fill(device: &Device) -> Vec<Tensor> {
    let tape = Tape::inference();
    let place = |n: usize| {
        let ones = Tensor::from_vec(vec![1.0f32; n], &[n, 1]).unwrap();
        ones.to_device(device).unwrap()
    };
    let sizes = [
        (1 << 20, 1 << 12),
        (1 << 18, 1 << 10),
        (1 << 12, 1 << 10),
        (1 << 9, 1 << 9),
    ];
    let products: Vec<(Var, Param)> = sizes
        .into_iter()
        .map(|(rows, columns)| {
            let pair = (
                Var::constant(place(rows)),
                Param::new("ones", place(columns)),
            );
            // Loads what this product needs while there is room for it.
            tape.linear(&pair.0, &pair.1, None).unwrap();
            pair
        })
        .collect();
    let mut held = Vec::new();
    for (x, weight) in &products {
        loop {
            match tape.linear(x, weight, None) {
                Ok(y) => held.push(y.value().clone()),
                Err(llavar_tensor::Error::OutOfMemory { .. }) => break,
                Err(other) => panic!("{other}"),
            }
        }
    }
    held
}

#[test]
#[ignore = "needs a GPU"]
fn cuda_a_full_card_is_an_error_and_the_run_goes_on_when_there_is_room() {
    let world = World::new(64);
    let sets = [
        "per_device_train_batch_size=64",
        "gradient_accumulation_steps=1",
        "max_steps=3",
    ];
    let sets = on_gpu(&sets, "f32");
    // Once in peace: afterwards every kernel and plan is there.
    let want = train(&world, "peace", &sets, Resume::No, u64::MAX);
    let mut trainer = open(&world, "run", &sets, Resume::No);
    let device = Device::cuda(0).unwrap();
    let held = fill(&device);
    let mut recorder = Recorder::new(u64::MAX);
    let stop = AtomicBool::new(false);
    let error = trainer.run(&mut recorder, &stop).unwrap_err();
    let TrainError::OutOfMemory { advice, plan, .. } = &error else {
        panic!("{error}")
    };
    assert!(
        advice.contains("per_device_train_batch_size=32"),
        "{advice}"
    );
    assert!(error.to_string().contains("activations"), "{error}");
    assert!(plan.on_device() > 0 && recorder.steps.is_empty());
    drop(held);
    trainer.run(&mut recorder, &stop).unwrap();
    assert_eq!(recorder.losses(), want.losses());
    let bits = |run: &str| weights(Path::new(&world.path(run)));
    assert!(bits("run") == bits("peace"));
}
