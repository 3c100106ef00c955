//! Steps with a spike: told, skipped, or passed over from the newest checkpoint on.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use common::{World, weights};
use llavar_train::{
    Observer, Outcome, Resume, StepReport, TrainError, Trainer,
    checkpoint::{TrainState, list},
};

const STEPS: usize = 30;
/// Steps (from 1) whose sample says something else than all others.
const ODD: [usize; 2] = [15, 25];

/// Sets of one sample a step, in order; the odd ones are those whose position is in `odd`.
fn write_data(world: &World, name: &str, odd: &[usize], leave_out: impl Fn(usize) -> bool) {
    let records: Vec<_> = (1..=STEPS + 20)
        .filter(|at| !leave_out(*at))
        .map(|at| {
            let answer = if odd.contains(&at) {
                "nine nine seven green"
            } else {
                "the total is red"
            };
            serde_json::json!({
                "id": format!("s{at}"),
                "conversations": [
                    {"from": "human", "value": "what is seven"},
                    {"from": "gpt", "value": answer},
                ],
            })
        })
        .collect();
    fs::write(world.path(name), serde_json::to_string(&records).unwrap()).unwrap();
}

fn recipe(world: &World, data: &str, sets: &[&str]) -> llavar_train::Recipe {
    let data = format!("data_path={}", world.path(data).display());
    let steps = format!("max_steps={STEPS}");
    let mut all = vec![
        data.as_str(),
        steps.as_str(),
        "shuffle=false",
        "group_by_modality_length=false",
        "per_device_train_batch_size=1",
        "gradient_accumulation_steps=1",
        "learning_rate=2e-2",
        "lr_scheduler_type=constant",
        "spike_window=6",
        "save_total_limit=0",
    ];
    all.extend(sets);
    world.recipe(&all)
}

/// Keeps what it is told, and stops after so many reports.
struct Recorder {
    steps: Vec<StepReport>,
    warnings: Vec<String>,
    rollbacks: Vec<(u64, u64)>,
    stop_after: usize,
    stop: AtomicBool,
}

impl Recorder {
    fn new(stop_after: usize) -> Self {
        Self {
            steps: Vec::new(),
            warnings: Vec::new(),
            rollbacks: Vec::new(),
            stop_after,
            stop: AtomicBool::new(stop_after == 0),
        }
    }
}

struct Watching<'a>(&'a mut Recorder, &'a AtomicBool);

impl Observer for Watching<'_> {
    fn on_step(&mut self, report: &StepReport) {
        self.0.steps.push(report.clone());
        if self.0.steps.len() >= self.0.stop_after {
            self.1.store(true, Relaxed);
        }
    }
    fn on_rollback(&mut self, spike: u64, to: u64) {
        self.0.rollbacks.push((spike, to));
    }
    fn on_warning(&mut self, message: &str) {
        self.0.warnings.push(message.into());
    }
}

fn train(
    world: &World,
    run: &str,
    recipe: llavar_train::Recipe,
    stop_after: usize,
) -> (Recorder, Result<Outcome, TrainError>, Trainer) {
    let mut recorder = Recorder::new(stop_after);
    let stop = AtomicBool::new(recorder.stop.load(Relaxed));
    let mut trainer = Trainer::new(recipe, &world.path(run), Resume::Auto).unwrap();
    let outcome = trainer.run(&mut Watching(&mut recorder, &stop), &stop);
    (recorder, outcome, trainer)
}

fn log(run: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(run.join("train.jsonl")).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn spikes_are_told_or_skipped() {
    let world = World::new(3);
    write_data(&world, "odd.json", &ODD[..1], |_| false);
    for (guard, what) in [
        ("spike_z_loss=8", "loss"),
        ("spike_z_grad_norm=8", "gradient norm"),
    ] {
        for (on_spike, skipped) in [("warn", false), ("skip", true)] {
            let run = format!("{on_spike} {what}");
            let on_spike = format!("on_spike={on_spike}");
            let sets = [guard, &on_spike, "save_steps=1", "max_steps=15"];
            let (seen, outcome, trainer) =
                train(&world, &run, recipe(&world, "odd.json", &sets), 99);
            outcome.unwrap();
            let at = &seen.steps[14];
            let losses: Vec<f64> = seen.steps.iter().map(|s| s.loss).collect();
            assert!(
                at.spike && at.skipped == skipped,
                "{run}: {losses:?} {at:?}"
            );
            let others = seen.steps[..14].iter();
            assert!(others.clone().all(|s| !s.spike && !s.skipped), "{run}");
            assert!(others.clone().take(7).all(|s| s.loss_z.is_none()), "{run}");
            assert!(others.skip(7).all(|s| s.loss_z.is_some()), "{run}");
            assert!(
                seen.warnings[0].contains(what),
                "{run}: {:?}",
                seen.warnings
            );
            assert!(
                seen.warnings[0].contains("step 15"),
                "{run}: {:?}",
                seen.warnings
            );
            let state = trainer.state();
            assert_eq!(
                (state.guard.spikes, state.updates),
                (1, 15 - u64::from(skipped))
            );
            // Skipped means that the weights stay as they were, to the bit.
            let before = world
                .path(&run)
                .join("checkpoints/step-00000014/model/model.safetensors");
            let same = fs::read(before).unwrap() == weights(&world.path(&run));
            assert_eq!(same, skipped, "{run}");
            assert_eq!(log(&world.path(&run))[14]["spike"], true, "{run}");
        }
    }
}

const BACK: [&str; 3] = ["spike_z_loss=8", "on_spike=rollback", "save_steps=10"];

/// After two rollbacks the weights are those of a run that never had the data between checkpoint and spike.
#[test]
fn a_rollback_passes_over_the_data_up_to_the_spike() {
    let world = World::new(3);
    write_data(&world, "odd.json", &ODD, |_| false);
    let (seen, outcome, trainer) = train(&world, "back", recipe(&world, "odd.json", &BACK), 99);
    outcome.unwrap();
    // Data 11 to 15 are passed over first; what was the data of step 25 is that of step 20 then.
    assert_eq!(seen.rollbacks, [(15, 10), (20, 10)]);
    let state = trainer.state();
    assert_eq!((state.guard.rollbacks, state.guard.passed_steps), (2, 15));
    assert_eq!((state.step, state.updates), (30, 30));
    let steps: Vec<u64> = log(&world.path("back"))
        .iter()
        .map(|line| line["step"].as_u64().unwrap())
        .collect();
    assert_eq!(steps, (1..=30).collect::<Vec<u64>>(), "every step once");
    write_data(&world, "clean.json", &ODD, |at| (11..=25).contains(&at));
    let (_, outcome, _) = train(&world, "clean", recipe(&world, "clean.json", &[]), 99);
    outcome.unwrap();
    assert!(weights(&world.path("back")) == weights(&world.path("clean")));
}

#[test]
fn stopped_anywhere_a_run_that_goes_back_ends_in_the_same_bits() {
    let world = World::new(3);
    write_data(&world, "odd.json", &ODD, |_| false);
    let whole = recipe(&world, "odd.json", &BACK);
    train(&world, "whole", whole.clone(), 99).1.unwrap();
    let want = weights(&world.path("whole"));
    let curve = |run: &str| -> Vec<String> {
        let lines = log(&world.path(run));
        let part = |l: &serde_json::Value| format!("{} {} {}", l["step"], l["loss"], l["loss_z"]);
        lines.iter().map(part).collect()
    };
    for stop_after in [9, 14, 15, 16, 22, 25, 26, 40] {
        let run = format!("stopped {stop_after}");
        let (_, outcome, trainer) = train(&world, &run, whole.clone(), stop_after);
        assert!(
            matches!(outcome, Ok(Outcome::Interrupted { .. })),
            "{outcome:?}"
        );
        drop(trainer);
        let (_, outcome, trainer) = train(&world, &run, whole.clone(), 99);
        assert!(
            matches!(outcome, Ok(Outcome::Finished { .. })),
            "{outcome:?}"
        );
        assert!(weights(&world.path(&run)) == want, "{run}");
        assert_eq!(curve(&run), curve("whole"), "{run}");
        assert_eq!(trainer.state().guard.passed_steps, 15, "{run}");
    }
}

/// A rate that throws the weights out of all range with the first update, and what becomes of it.
const DIVERGES: [&str; 4] = [
    "learning_rate=1e30",
    "max_grad_norm=0",
    "save_steps=1",
    "save_total_limit=2",
];

#[test]
fn a_run_that_has_diverged_ends_and_keeps_its_checkpoints() {
    let world = World::new(3);
    write_data(&world, "data.json", &[], |_| false);
    let sets = [&DIVERGES[..], &["logging_steps=5"]].concat();
    let (seen, outcome, trainer) = train(&world, "run", recipe(&world, "data.json", &sets), 99);
    let error = outcome.unwrap_err();
    let TrainError::Diverged { first, step } = error else {
        panic!("{error}")
    };
    assert!(first <= 4 && step == first + 7, "{first} {step}");
    assert_eq!(seen.warnings.len() as u64, step + 1 - first);
    // What was saved before is there, and can be read.
    let kept = list(&world.path("run")).unwrap();
    let steps: Vec<u64> = kept.iter().map(|c| c.step).collect();
    let from = first.saturating_sub(2).max(1);
    assert_eq!(steps, (from..step).collect::<Vec<u64>>());
    for checkpoint in &kept {
        TrainState::read(&checkpoint.path).unwrap();
    }
    drop(trainer);
    // The mean of a line of the log is of the losses that are numbers.
    assert!(log(&world.path("run"))[0]["loss"].is_number());
}

#[test]
fn a_run_that_has_diverged_goes_back_where_it_may() {
    let world = World::new(3);
    write_data(&world, "data.json", &[], |_| false);
    let back = ["spike_z_loss=8", "on_spike=rollback", "max_rollbacks=2"];
    // The first step has a rate of 0, the second breaks the weights, and all from the third on fail.
    let late = [
        "lr_scheduler_type=constant_with_warmup",
        "warmup_steps=2",
        "warmup_ratio=0",
    ];
    let sets = [&DIVERGES[..], &back, &late].concat();
    let (seen, outcome, _) = train(&world, "run", recipe(&world, "data.json", &sets), 99);
    let error = outcome.unwrap_err();
    assert!(
        matches!(error, TrainError::TooManyRollbacks { limit: 2, .. }),
        "{error}"
    );
    assert_eq!(
        seen.rollbacks,
        [(2, 1), (2, 1)],
        "before the step that broke them"
    );
    let none = [&sets[..], &["save_steps=0"]].concat();
    let (_, outcome, _) = train(&world, "none", recipe(&world, "data.json", &none), 99);
    let error = outcome.unwrap_err();
    assert!(matches!(error, TrainError::Diverged { .. }), "{error}");
}

/// JSON has no word for a sum that is not a number; files of before say null.
#[test]
fn a_state_without_a_mean_loss_is_read() {
    let world = World::new(3);
    write_data(&world, "data.json", &[], |_| false);
    let sets = ["max_steps=2", "save_steps=1"];
    train(&world, "run", recipe(&world, "data.json", &sets), 99)
        .1
        .unwrap();
    let folder = &list(&world.path("run")).unwrap()[0].path;
    let path = folder.join("state.json");
    let mut state: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    state["log_loss"] = serde_json::Value::Null;
    fs::write(&path, state.to_string()).unwrap();
    assert_eq!(TrainState::read(folder).unwrap().log_loss, 0.0);
}

#[test]
fn too_many_rollbacks_stop_the_run_and_without_checkpoint_the_step_is_skipped() {
    let world = World::new(3);
    write_data(&world, "odd.json", &ODD, |_| false);
    let sets = [&BACK[..], &["max_rollbacks=1"]].concat();
    let (_, outcome, _) = train(&world, "limit", recipe(&world, "odd.json", &sets), 99);
    let error = outcome.unwrap_err();
    assert!(
        matches!(error, TrainError::TooManyRollbacks { step: 20, limit: 1 }),
        "{error}"
    );
    assert!(error.to_string().contains("train.max_rollbacks"), "{error}");
    let kept: Vec<u64> = list(&world.path("limit"))
        .unwrap()
        .iter()
        .map(|c| c.step)
        .collect();
    assert_eq!(kept, [10], "nothing after the spike is saved");

    let sets = [&BACK[..], &["save_steps=0", "max_steps=17"]].concat();
    let (seen, outcome, trainer) = train(&world, "none", recipe(&world, "odd.json", &sets), 99);
    outcome.unwrap();
    assert!(seen.rollbacks.is_empty());
    assert!(
        seen.warnings[1].contains("no checkpoint yet"),
        "{:?}",
        seen.warnings
    );
    assert_eq!((trainer.state().step, trainer.state().updates), (17, 16));
}
