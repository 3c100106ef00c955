//! Exact resume: a run that was stopped or killed anywhere ends with the bits of an unbroken one.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::{Duration, Instant},
};

use common::{World, recipe, weights};
use llavar_train::{
    Observer, Outcome, Resume, Silent, StepReport, TrainError, Trainer,
    checkpoint::{list, verify},
};

/// Sets the stop flag once `at` steps are done.
struct StopAt<'a> {
    at: u64,
    stop: &'a AtomicBool,
}

impl Observer for StopAt<'_> {
    fn on_step(&mut self, report: &StepReport) {
        if report.step >= self.at {
            self.stop.store(true, Relaxed);
        }
    }
}

fn finish(world: &World, run: &str, sets: &[&str], resume: Resume) -> Vec<u8> {
    let path = world.path(run);
    let mut trainer = Trainer::new(world.recipe(sets), &path, resume).unwrap();
    let outcome = trainer.run(&mut Silent, &AtomicBool::new(false)).unwrap();
    assert!(matches!(outcome, Outcome::Finished { .. }), "{outcome:?}");
    weights(&path)
}

/// Loss and gradient norm of each line of the log, which must not depend on interruptions either.
fn curve(run: &Path) -> Vec<(u64, String, String)> {
    let log = fs::read_to_string(run.join("train.jsonl")).unwrap();
    log.lines()
        .map(|line| {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            let text = |key: &str| value[key].to_string();
            (
                value["step"].as_u64().unwrap(),
                text("loss"),
                text("grad_norm"),
            )
        })
        .collect()
}

#[test]
fn stopped_anywhere_the_result_is_the_same_bits() {
    // In batches of 2, 2 a step: an epoch of 8 samples ends with a step, one of 10 in the middle of one.
    let packs = ["group_by_modality_length=false", "pack_tokens=200"];
    for (samples, more) in [(10, [].as_slice()), (8, &[]), (10, &packs)] {
        stopped_at_every_step(samples, more);
    }
}

fn stopped_at_every_step(samples: usize, more: &[&str]) {
    let world = World::new(samples);
    let mut sets = vec!["num_train_epochs=3", "logging_steps=2"];
    sets.extend(more);
    let unbroken = finish(&world, "unbroken", &sets, Resume::No);
    let steps = curve(&world.path("unbroken")).last().unwrap().0;
    assert!(steps >= 3, "{steps}");
    for at in 0..=steps {
        let run = format!("stopped-{at}");
        let stop = AtomicBool::new(at == 0);
        let mut trainer = Trainer::new(world.recipe(&sets), &world.path(&run), Resume::No).unwrap();
        let outcome = trainer.run(&mut StopAt { at, stop: &stop }, &stop).unwrap();
        drop(trainer);
        match outcome {
            Outcome::Interrupted { step, checkpoint } => {
                assert_eq!(step, at);
                assert_eq!(verify(&checkpoint), Ok(()));
            }
            Outcome::Finished { .. } => assert_eq!(at, steps),
        }
        // With another number of data workers each time.
        let workers = format!("dataloader_num_workers={}", at % 4);
        let other = [&sets[..], &[workers.as_str()]].concat();
        let resumed = finish(&world, &run, &other, Resume::Auto);
        assert!(resumed == unbroken, "stopped after step {at}");
        assert_eq!(
            curve(&world.path(&run)),
            curve(&world.path("unbroken")),
            "stopped after {at}"
        );
    }
}

#[test]
fn resume_in_another_folder_with_other_workers_and_after_the_end() {
    let world = World::new(9);
    let sets = ["num_train_epochs=2", "save_steps=2", "save_total_limit=0"];
    let unbroken = finish(&world, "a", &sets, Resume::No);
    let more = [
        &sets[..],
        &["dataloader_num_workers=3", "image_cache_bytes=100000"],
    ]
    .concat();
    let from = world.path("a/checkpoints/step-00000002");
    let other = finish(&world, "b", &more, Resume::From(from));
    assert!(other == unbroken);
    // Once more on a finished run: nothing is trained, the model is the same.
    assert!(finish(&world, "a", &sets, Resume::Auto) == unbroken);
    assert!(finish(&world, "c", &sets, Resume::From(world.path("a"))) == unbroken);
    // More epochs: what the shorter run has published stays beside what the longer one publishes.
    let longer = [
        &sets[..],
        &["num_train_epochs=3", "allow_recipe_change=true"],
    ]
    .concat();
    let end = finish(&world, "a", &longer, Resume::Auto);
    assert!(end != unbroken);
    let kept = fs::read(world.path("a/earlier-model/model.safetensors")).unwrap();
    assert!(kept == unbroken);
}

#[test]
fn a_resumed_run_may_freeze_more_and_cannot_count_its_data_anew() {
    let world = World::new(8);
    let sets = ["num_train_epochs=2", "save_steps=2", "save_total_limit=0"];
    finish(&world, "a", &sets, Resume::No);
    let from = || Resume::From(world.path("a/checkpoints/step-00000002"));
    let told = |set: &'static str| [&sets[..], &["allow_recipe_change=true", set]].concat();
    let frozen = told("freeze=[\"*norm*\"]");
    let error = Trainer::new(
        world.recipe(&[&sets[..], &["freeze=[\"*norm*\"]"]].concat()),
        &world.path("b"),
        from(),
    );
    assert!(matches!(
        error.unwrap_err(),
        TrainError::RecipeChanged { .. }
    ));
    finish(&world, "b", &frozen, from());
    // Said or unsaid, the size that the model has is no change.
    finish(&world, "d", &told("input_image_size=64"), from());
    let larger = told("input_image_size=128");
    let Err(error) = Trainer::new(world.recipe(&larger), &world.path("e"), from()) else {
        panic!("another size was taken");
    };
    assert!(
        matches!(&error, TrainError::RecipeFixed { keys, .. } if keys[0].contains("image_size")),
        "{error}"
    );
    let more = told("gradient_accumulation_steps=3");
    let error = Trainer::new(world.recipe(&more), &world.path("c"), from()).unwrap_err();
    assert!(
        matches!(&error, TrainError::RecipeFixed { keys, .. } if keys[0].contains("accumulation")),
        "{error}"
    );
}

#[test]
fn a_step_that_is_not_there_is_an_error_and_the_best_checkpoint_stays() {
    let world = World::new(8);
    let sets = [
        "num_train_epochs=4",
        "save_steps=1",
        "save_total_limit=1",
        "metric_for_best_model=loss",
        "learning_rate=0.3",
        "warmup_steps=4",
    ];
    finish(&world, "run", &sets, Resume::No);
    let run = world.path("run");
    let all = list(&run).unwrap();
    let best = all.iter().find(|info| info.best).unwrap();
    assert!(all.len() <= 2 && all.last().unwrap().step == 8, "{all:?}");
    // Of what is left, none is better; the smoothed loss is that of the log.
    assert!(
        all.iter()
            .all(|i| i.metrics["loss"] >= best.metrics["loss"])
    );
    let (mut sum, mut weight) = (0.0, 0.0);
    for (step, loss, _) in curve(&run) {
        if step <= best.step {
            sum = 0.98 * sum + 0.02 * loss.parse::<f64>().unwrap();
            weight = 0.98 * weight + 0.02;
        }
    }
    assert!((best.metrics["loss"] - sum / weight).abs() < 1e-9);

    let gone = run.join("checkpoints/step-00000003");
    let error = Trainer::new(world.recipe(&sets), &run, Resume::From(gone)).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("step-00000003") && text.contains("holds steps"),
        "{text}"
    );
    let nowhere = world.path("nowhere");
    let error = Trainer::new(world.recipe(&sets), &run, Resume::From(nowhere)).unwrap_err();
    assert!(error.to_string().contains("no such folder"), "{error}");

    // A checkpoint of the same step from another run is never written over.
    let other = world.path("other");
    finish(&world, "other", &sets, Resume::No);
    let theirs = other.join("checkpoints/step-00000008");
    let before = fs::read(run.join("checkpoints/step-00000008/state.json")).unwrap();
    let error = Trainer::new(world.recipe(&sets), &run, Resume::From(theirs)).unwrap_err();
    assert!(error.to_string().contains("run folder holds"), "{error}");
    assert!(before == fs::read(run.join("checkpoints/step-00000008/state.json")).unwrap());
}

#[test]
fn damage_and_misuse_are_named_and_nothing_is_lost() {
    let world = World::new(8);
    let sets = ["num_train_epochs=3", "save_steps=2", "save_total_limit=0"];
    let unbroken = finish(&world, "run", &sets, Resume::No);
    let run = world.path("run");
    let open = |sets: &[&str], resume| Trainer::new(world.recipe(sets), &run, resume);

    let error = open(&sets, Resume::No).unwrap_err();
    assert!(matches!(error, TrainError::RunFolderUsed { .. }), "{error}");
    let changed = [&sets[..], &["learning_rate=3e-3"]].concat();
    let error = open(&changed, Resume::Auto).unwrap_err();
    assert!(error.to_string().contains("train.learning_rate"), "{error}");
    let middle = run.join("checkpoints/step-00000002");
    let error = open(&sets, Resume::From(middle)).unwrap_err();
    assert!(error.to_string().contains("later"), "{error}");
    let held = open(&sets, Resume::Auto).unwrap();
    let error = open(&sets, Resume::Auto).unwrap_err();
    assert!(matches!(error, TrainError::RunFolderBusy { .. }), "{error}");
    drop(held);

    // One flipped bit in the newest: it is set aside, and the one before leads to the same end.
    let all = list(&run).unwrap();
    let newest = &all.last().unwrap().path;
    let file = newest.join("optimizer.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&file, bytes).unwrap();
    let error = open(&sets, Resume::From(newest.clone())).unwrap_err();
    assert!(
        error.to_string().contains("optimizer.safetensors"),
        "{error}"
    );
    let trainer = open(&sets, Resume::Auto).unwrap();
    assert!(trainer.info().warnings[0].contains("optimizer.safetensors"));
    assert_eq!(trainer.state().step, 4);
    drop(trainer);
    assert!(run.join("checkpoints/damaged-step-00000006").is_dir());
    assert!(finish(&world, "run", &sets, Resume::Auto) == unbroken);

    // Other data under the same name, of another size and of the same.
    let text = fs::read_to_string(world.path("data.json")).unwrap();
    fs::write(world.path("data.json"), text.replace("seven", "eight")).unwrap();
    let error = open(&sets, Resume::Auto).unwrap_err();
    assert!(matches!(error, TrainError::DataChanged { .. }), "{error}");
    fs::write(world.path("data.json"), text.replace("seven", "seventeen")).unwrap();
    let error = open(&sets, Resume::Auto).unwrap_err();
    assert!(matches!(error, TrainError::DataChanged { .. }), "{error}");

    // Where no checkpoint is sound none is moved, and nobody begins again over what was done.
    let log = fs::read(run.join("train.jsonl")).unwrap();
    for info in list(&run).unwrap() {
        fs::write(info.path.join("optimizer.safetensors"), "cut").unwrap();
    }
    for _ in 0..2 {
        let error = open(&sets, Resume::Auto).unwrap_err();
        assert!(
            matches!(error, TrainError::NoValidCheckpoint { .. }),
            "{error}"
        );
        let error = open(&sets, Resume::No).unwrap_err();
        assert!(matches!(error, TrainError::RunFolderUsed { .. }), "{error}");
    }
    fs::remove_dir_all(run.join("checkpoints")).unwrap();
    let error = open(&sets, Resume::Auto).unwrap_err();
    assert!(matches!(error, TrainError::NoCheckpoint { .. }), "{error}");
    assert_eq!(fs::read(run.join("train.jsonl")).unwrap(), log);
}

const CHILD: &str = "LLAVAR_TRAIN_TEST_CHILD";
const CHILD_SETS: [&str; 4] = [
    "num_train_epochs=16",
    "save_steps=1",
    "save_total_limit=2",
    "image_cache_bytes=1000000",
];

/// Not a test of its own: the process that the test below kills.
#[test]
#[ignore = "started by another test"]
fn child() {
    let dir = PathBuf::from(std::env::var(CHILD).expect("started by another test"));
    let run = dir.join("killed");
    let result = Trainer::new(recipe(&dir, &CHILD_SETS), &run, Resume::Auto)
        .and_then(|mut trainer| trainer.run(&mut Silent, &AtomicBool::new(false)));
    match result {
        Ok(_) => std::process::exit(10),
        Err(error) if error.is_disk_full() => std::process::exit(11),
        Err(error) => panic!("{error:?}"),
    }
}

fn spawn(world: &World, limit_kib: Option<u64>) -> Child {
    let exe = std::env::current_exe().unwrap();
    let mut command = match limit_kib {
        None => Command::new(exe),
        Some(kib) => {
            let mut shell = Command::new("bash");
            // The signal is ignored, so that writing beyond the limit is an error like a full disk.
            let script = format!("trap '' XFSZ; ulimit -f {kib}; exec \"$0\" \"$@\"");
            shell.arg("-c").arg(script).arg(exe);
            shell
        }
    };
    command
        .args(["--ignored", "--exact", "child"])
        .env(CHILD, world.dir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Waits until the child ends by itself or `when` says to kill it; its exit code if it ended.
fn watch(mut child: Child, mut when: impl FnMut() -> bool) -> Option<i32> {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        if when() || begun.elapsed() > Duration::from_secs(60) {
            child.kill().unwrap();
            child.wait().unwrap();
            return None;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
}

fn partial(world: &World) -> bool {
    let names = fs::read_dir(world.path("killed/checkpoints"))
        .into_iter()
        .flatten();
    names
        .flatten()
        .any(|e| e.file_name().to_string_lossy().starts_with(".partial-"))
}

#[test]
fn a_full_disk_is_an_error_and_costs_nothing_but_time() {
    let world = World::new(10);
    let unbroken = finish(&world, "unbroken", &CHILD_SETS, Resume::No);
    // Some steps without a limit, then with one that the optimizer's file passes.
    let two = || list(&world.path("killed")).unwrap().len() == 2;
    assert_eq!(watch(spawn(&world, None), two), None);
    let before = list(&world.path("killed")).unwrap();
    let newest = before.last().unwrap();
    let size = |name: &str| fs::metadata(newest.path.join(name)).unwrap().len();
    let (model, moments) = (
        size("model/model.safetensors"),
        size("optimizer.safetensors"),
    );
    assert!(moments > model + 4096);
    let limit = (model + moments) / 2 / 1024;
    assert_eq!(watch(spawn(&world, Some(limit)), || false), Some(11));
    assert!(!partial(&world));
    let after = list(&world.path("killed")).unwrap();
    assert_eq!(after.last().unwrap().step, newest.step);
    for info in &after {
        assert_eq!(verify(&info.path), Ok(()));
    }
    // And with one that already the weights pass.
    assert_eq!(watch(spawn(&world, Some(model / 2048)), || false), Some(11));
    assert_eq!(watch(spawn(&world, None), || false), Some(10));
    assert!(weights(&world.path("killed")) == unbroken);
}

/// Puts a file where a checkpoint is about to be written, and counts what is said about it.
struct InTheWay {
    path: PathBuf,
    warnings: usize,
}

impl Observer for InTheWay {
    fn on_step(&mut self, report: &StepReport) {
        if report.step == 1 {
            fs::create_dir_all(self.path.parent().unwrap()).unwrap();
            fs::write(&self.path, "in the way").unwrap();
        }
    }
    fn on_warning(&mut self, message: &str) {
        assert!(message.contains("step-00000002"), "{message}");
        self.warnings += 1;
    }
}

#[test]
fn a_save_that_fails_stops_the_run_or_not_and_the_state_in_memory_goes_on() {
    let world = World::new(8);
    let sets = ["num_train_epochs=2", "save_steps=2", "save_total_limit=0"];
    let unbroken = finish(&world, "unbroken", &sets, Resume::No);
    for (run, policy, fails) in [("go-on", "continue", false), ("stop", "stop", true)] {
        let policy = format!("on_save_error={policy}");
        let sets = [&sets[..], &[policy.as_str()]].concat();
        let path = world.path(run);
        let mut observer = InTheWay {
            path: path.join("checkpoints/.partial-step-00000002"),
            warnings: 0,
        };
        let never = AtomicBool::new(false);
        let mut trainer = Trainer::new(world.recipe(&sets), &path, Resume::No).unwrap();
        let outcome = trainer.run(&mut observer, &never);
        assert_eq!(outcome.is_err(), fails);
        assert_eq!(observer.warnings, usize::from(!fails));
        if fails {
            assert!(matches!(outcome, Err(TrainError::Save { .. })));
            assert_eq!(trainer.state().step, 2);
            fs::remove_file(&observer.path).unwrap();
            trainer.run(&mut Silent, &never).unwrap();
        }
        assert!(weights(&path) == unbroken, "{run}");
        assert_eq!(curve(&path), curve(&world.path("unbroken")), "{run}");
    }
}
