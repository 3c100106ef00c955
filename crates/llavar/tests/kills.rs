//! The program killed at 50 random moments, also inside saves: resumed, it ends with the bits of an unbroken run.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::{
    fs,
    path::Path,
    process::Child,
    thread,
    time::{Duration, Instant},
};

use common::World;
use llavar_train::checkpoint::{CheckpointInfo, list, verify};

const DATA: &str = "docs/data.json";
const KILLS: usize = 50;
const STEPS: u64 = 24;
/// Every step is saved, two are kept, and the samples come from two threads in a random order.
const SETS: [&str; 10] = [
    "--set",
    "max_steps=24",
    "--set",
    "save_steps=1",
    "--set",
    "shuffle=true",
    "--set",
    "dataloader_num_workers=2",
    "--set",
    "metric_for_best_model=loss",
];

/// The moment of a kill.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Moment {
    /// So long after the start, whatever the program does then.
    After(Duration),
    /// While the first checkpoint after the start is being written, so long after it was begun.
    FirstSave(Duration),
    /// The same of a later one.
    LaterSave(Duration),
    /// So long after a step was logged.
    Step(Duration),
}

/// Seeded, so that a failure can be had again.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 33) % limit.max(1)
    }

    fn duration(&mut self, most: Duration) -> Duration {
        Duration::from_micros(self.below(most.as_micros() as u64))
    }
}

struct Killed<'a> {
    world: &'a World,
    inside_saves: usize,
    after_the_end: usize,
    steps: Vec<u64>,
    /// How long a start lasts at most when all steps are done: kills after it come too late.
    finishing: Duration,
}

impl Killed<'_> {
    fn checkpoints(&self) -> Vec<CheckpointInfo> {
        list(&self.world.path("killed")).unwrap()
    }

    fn newest(&self) -> u64 {
        self.checkpoints().last().map_or(0, |info| info.step)
    }

    fn saves(&self) -> bool {
        let entries = fs::read_dir(self.world.path("killed/checkpoints"));
        let names = entries.into_iter().flatten().flatten();
        let mut names = names.map(|e| e.file_name().into_string().unwrap());
        names.any(|name| name.starts_with(".partial-step"))
    }

    fn spawn(&self) -> Child {
        let args = World::train_args(DATA, "killed", &[&SETS[..], &["--resume", "auto"]].concat());
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let mut command = self.world.command(&args, &[]);
        command.stdout(std::process::Stdio::null());
        command.stderr(std::process::Stdio::null());
        command.spawn().unwrap()
    }

    /// Starts the program and kills it; false when it ended by itself before.
    fn kill(&mut self, moment: Moment) -> bool {
        let done = self.newest() == STEPS;
        let before = (self.newest(), log_lines(&self.world.path("killed")));
        let mut child = self.spawn();
        let begun = Instant::now();
        // When what is waited for was seen.
        let mut seen = None;
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                assert!(status.success(), "{moment:?}: {status}");
                if done {
                    self.finishing = self.finishing.min(begun.elapsed());
                }
                return false;
            }
            let (happens, pause) = match moment {
                Moment::After(pause) => (true, pause),
                Moment::FirstSave(pause) => (self.saves(), pause),
                Moment::LaterSave(pause) => (self.newest() > before.0 && self.saves(), pause),
                Moment::Step(pause) => (log_lines(&self.world.path("killed")) > before.1, pause),
            };
            if happens {
                seen.get_or_insert_with(Instant::now);
            }
            if seen.is_some_and(|at: Instant| at.elapsed() >= pause) {
                child.kill().unwrap();
                child.wait().unwrap();
                break;
            }
            assert!(
                begun.elapsed() < Duration::from_secs(120),
                "{moment:?}: it hangs"
            );
            thread::sleep(Duration::from_micros(100));
        }
        self.inside_saves += usize::from(self.saves());
        self.after_the_end += usize::from(done);
        self.steps.push(self.newest());
        for info in self.checkpoints() {
            assert_eq!(
                verify(&info.path),
                Ok(()),
                "{moment:?}: {}",
                info.path.display()
            );
        }
        true
    }
}

fn log_lines(run: &Path) -> usize {
    fs::read_to_string(run.join("train.jsonl")).map_or(0, |text| text.lines().count())
}

/// Loss and gradient norm of every step.
fn curve(run: &Path) -> Vec<String> {
    let log = fs::read_to_string(run.join("train.jsonl")).unwrap();
    let line = |line: &str| {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        format!("{} {} {}", value["step"], value["loss"], value["grad_norm"])
    };
    log.lines().map(line).collect()
}

#[test]
fn killed_at_fifty_random_moments_the_result_is_the_same_bits() {
    let world = World::new("kills");
    let begun = Instant::now();
    world.train(DATA, "unbroken", &SETS).ok();
    let whole = begun.elapsed();
    let step = whole / STEPS as u32;

    let mut random = Random(20_261_125);
    let mut killed = Killed {
        world: &world,
        inside_saves: 0,
        after_the_end: 0,
        steps: Vec::new(),
        finishing: 4 * step,
    };
    let mut ended = 0;
    while killed.steps.len() < KILLS {
        let moment = match killed.newest() == STEPS {
            true => Moment::After(random.duration(killed.finishing)),
            false => match random.below(5) {
                0 => Moment::After(random.duration(4 * step)),
                1 => Moment::FirstSave(random.duration(step / 2)),
                2 | 3 => Moment::LaterSave(random.duration(step / 2)),
                _ => Moment::Step(random.duration(step)),
            },
        };
        ended += usize::from(!killed.kill(moment));
        assert!(
            ended < 4 * KILLS,
            "the program ends before it can be killed"
        );
    }
    world
        .train(DATA, "killed", &[&SETS[..], &["--resume", "auto"]].concat())
        .ok();

    eprintln!(
        "{KILLS} kills in {:.0} s: {} inside a save, {} of a run that had all steps; newest step after each: {:?}",
        begun.elapsed().as_secs_f64(),
        killed.inside_saves,
        killed.after_the_end,
        killed.steps
    );
    assert!(killed.inside_saves >= 5);
    let weights = |run: &str| fs::read(world.path(run).join("model/model.safetensors")).unwrap();
    assert!(weights("killed") == weights("unbroken"), "other bits");
    assert_eq!(curve(&world.path("killed")), curve(&world.path("unbroken")));
    let kept = |run: &str| -> Vec<(u64, bool)> {
        let all = list(&world.path(run)).unwrap();
        all.iter().map(|info| (info.step, info.best)).collect()
    };
    assert_eq!(kept("killed"), kept("unbroken"));
    // Nothing half-written is left, and nothing was published twice.
    let names = |folder: &str| {
        let entries = fs::read_dir(world.path(folder)).unwrap().flatten();
        let mut names: Vec<_> = entries
            .map(|e| e.file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    for folder in ["", "/checkpoints"] {
        let of = |run: &str| names(&format!("{run}{folder}"));
        assert_eq!(of("killed"), of("unbroken"));
    }
}
