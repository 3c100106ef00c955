//! Runs that are interrupted, and disks that fill up: nothing is lost, and the end is the same bits.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use common::{Run, World, finish};

const DATA: &str = "docs/data.json";
const SETS: [&str; 6] = [
    "--set",
    "max_steps=300",
    "--set",
    "save_steps=50",
    "--set",
    "shuffle=true",
];

/// Trains until the log has `lines` lines more than now, then sends `signal`. (An earlier part of the run
/// may have left lines: only more than those show that this process is at work and listens.)
fn interrupted(world: &World, out: &str, more: &[&str], lines: usize, signal: &str) -> Run {
    let args = World::train_args(DATA, out, &[&SETS[..], more].concat());
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let log = world.path(out).join("train.jsonl");
    let count = || fs::read_to_string(&log).map_or(0, |text| text.lines().count());
    let before = count();
    let child = world.command(&args, &[]).spawn().unwrap();
    let begun = Instant::now();
    loop {
        if count() >= before + lines {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "no step is done");
        thread::sleep(Duration::from_millis(1));
    }
    let killed = Command::new("kill")
        .args([signal, &child.id().to_string()])
        .status();
    assert!(killed.unwrap().success());
    finish(format!("train {out} {more:?}, {signal}"), child)
}

/// Published checkpoints of a run, oldest first.
fn checkpoints(run: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = fs::read_dir(run.join("checkpoints"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.join("DONE").is_file())
        .collect();
    all.sort();
    all
}

#[track_caller]
fn stopped(run: Run, world: &World, out: &str) -> PathBuf {
    assert_eq!(run.code, Some(130), "{run:#?}");
    for word in ["interrupted: after step", "saved in", "--resume auto"] {
        assert!(run.err.contains(word), "{run:#?}");
    }
    assert!(!run.err.contains("panicked"), "{run:#?}");
    let newest = checkpoints(&world.path(out)).pop().unwrap();
    let name = newest.file_name().unwrap().to_str().unwrap();
    assert!(run.err.contains(name), "{name}: {run:#?}");
    newest
}

#[test]
fn interrupted_and_out_of_disk_the_model_is_that_of_an_unbroken_run() {
    let world = World::new("interrupted");
    let weights = |out: &str| fs::read(world.path(out).join("model/model.safetensors")).unwrap();
    world.train(DATA, "whole", &SETS).ok();

    let run = interrupted(&world, "parts", &[], 4, "-INT");
    let checkpoint = stopped(run, &world, "parts");
    let held = fs::read(checkpoint.join("model/model.safetensors")).unwrap();

    // Going on with a disk too small for a checkpoint: `ulimit -f` counts blocks of 512 bytes (in some
    // shells of 1024); the log fits, a model does not.
    assert!(held.len() > 200 * 1024, "{}", held.len());
    let more = [&SETS[..], &["--resume", "auto"]].concat();
    let args = World::train_args(DATA, "parts", &more);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    for set_up in [
        "ulimit -f 150; exec \"$0\" \"$@\"",
        "trap '' XFSZ; ulimit -f 150; exec \"$0\" \"$@\"",
    ] {
        world.shell(set_up, &args, &[]).fails(
            4,
            &["cannot save", "parts", "disk is full", "intact", "resume"],
        );
        let all = checkpoints(&world.path("parts"));
        assert_eq!(all, std::slice::from_ref(&checkpoint));
        let now = fs::read(checkpoint.join("model/model.safetensors")).unwrap();
        assert!(now == held, "the earlier checkpoint was changed");
        assert!(!world.path("parts/model").exists());
    }

    let run = interrupted(&world, "parts", &["--resume", "auto"], 4, "-TERM");
    assert!(run.err.contains("resumed at step"), "{run:#?}");
    stopped(run, &world, "parts");
    world.train(DATA, "parts", &more).ok();
    assert!(weights("whole") == weights("parts"), "other bits");

    // A run that has ended can be resumed too; another recipe cannot.
    world.train(DATA, "parts", &more).ok();
    let other = [&more[..], &["--set", "learning_rate=1"]].concat();
    world
        .train(DATA, "parts", &other)
        .fails(2, &["learning_rate", "allow_recipe_change"]);
    assert!(weights("whole") == weights("parts"), "other bits");
    // Answers come from the trained folder.
    world.ask("parts/model", &world.picture()).ok();
}

#[test]
fn a_full_disk_leaves_nothing_half_written() {
    let world = World::new("full_disk");
    let small = "ulimit -f 8; exec \"$0\" \"$@\"";
    let init = [
        "init",
        "--text",
        DATA,
        "--vocab-size",
        "300",
        "--out",
        "made",
    ];
    let words = ["could not be written", "hint:"];
    let run = world.shell("ulimit -f 2000; exec \"$0\" \"$@\"", &init, &[]);
    let run = run.fails(4, &words[1..]);
    assert!(run.err.contains("made"), "{run:#?}");
    world
        .shell(small, &["data", "synth", "--out", "new", "-n", "3"], &[])
        .fails(4, &["new/images"]);
    assert!(!world.path("new/data.json").exists());
    let left: Vec<String> = fs::read_dir(&world.dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("made"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    // The output itself may be the full disk, or a pipe that nobody reads.
    if Path::new("/dev/full").exists() {
        let full = "exec \"$0\" \"$@\" > /dev/full";
        let ask = ["ask", "--model", "model", "--max-new-tokens", "2", "hi"];
        for args in [&["train", "--list"][..], &ask, &["data", "stats", DATA]] {
            world.shell(full, args, &[]).fails(4, &["standard output"]);
        }
        world
            .shell("exec \"$0\" \"$@\" 2> /dev/full", &ask, &[])
            .ok();
        world.shell("exec \"$0\" \"$@\" 2>&-", &ask, &[]).ok();
    }
    for args in [&["train", "--list"][..], &["data", "stats", DATA]] {
        let run = world.shell("(sleep 0.2; \"$0\" \"$@\"; echo $? >&2) | true", args, &[]);
        assert_eq!(run.err, "0\n", "{run:#?}");
    }
}

#[test]
fn checkpoints_are_listed_checked_pinned_and_rated() {
    let world = World::new("checkpoints");
    let sets = ["--set", "max_steps=4", "--set", "save_steps=1"];
    let keep = ["--set", "save_total_limit=1"];
    world.train(DATA, "run", &[&sets[..], &keep].concat()).ok();
    let command = |args: &[&str]| world.run(&[&["checkpoint"], args].concat(), &[]);
    let steps = || -> Vec<u64> {
        let all = command(&["list", "run", "--json"]).json();
        let all = all.as_array().unwrap().iter();
        all.map(|row| row["step"].as_u64().unwrap()).collect()
    };
    assert_eq!(steps(), [4]);
    let fourth = "run/checkpoints/step-00000004";
    command(&["pin", fourth]).ok();
    command(&["note", fourth, "anls=0.5", "cider=1.25"]).ok();
    command(&["note", fourth, "anls"]).fails(2, &["NAME=NUMBER"]);
    command(&["note", fourth, "loss=1"]).fails(2, &["training loss"]);
    let gone = "run/checkpoints/step-00000001";
    command(&["pin", gone]).fails(3, &["there is no folder", gone, "checkpoint list"]);
    let model = format!("{fourth}/model");
    for (folder, words) in [
        ("nowhere", ["there is no folder nowhere", "checkpoint list"]),
        (
            "docs/data.json",
            ["docs/data.json is a file", "checkpoint list"],
        ),
        ("run", ["run holds checkpoints", "list run --json"]),
        (
            "run/checkpoints",
            ["run/checkpoints holds", "list run --json"],
        ),
        (&model, ["is a model folder", "step-..."]),
        (
            "docs",
            ["docs cannot be used: there is no published", "list RUN"],
        ),
    ] {
        command(&["pin", fourth, folder]).fails(3, &words);
        command(&["unpin", fourth, folder]).fails(3, &words);
        command(&["note", folder, "anls=1"]).fails(3, &words);
    }
    command(&["list", "docs"]).fails(3, &["run folder"]);
    // The run goes on: the pinned one stays, and by the metric it is the best.
    let more = [
        "--resume",
        "auto",
        "--set",
        "max_steps=7",
        "--set",
        "allow_recipe_change=true",
        "--set",
        "metric_for_best_model=anls",
        "--set",
        "greater_is_better=true",
    ];
    world
        .train(DATA, "run", &[&sets[..], &keep, &more].concat())
        .ok();
    assert_eq!(steps(), [4, 7]);
    let text = command(&["list", "run", "--verify"]).ok();
    for word in ["anls 0.5000", "best, pinned", "sound", "MiB", "loss "] {
        assert!(text.contains(word), "{word}: {text}");
    }
    command(&["unpin", fourth]).ok();
    let state = world.path("run/checkpoints/step-00000007/state.json");
    fs::write(&state, "{}").unwrap();
    let run = command(&["list", "run", "--verify"]);
    assert_eq!(run.code, Some(3), "{run:#?}");
    assert!(run.out.contains("state.json has 2 bytes"), "{run:#?}");
    // A step that is asked for and is not there.
    let resume = ["--resume", "run/checkpoints/step-00000005"];
    world
        .train(DATA, "run", &[&sets[..], &resume].concat())
        .fails(3, &["step-00000005", "holds steps 4, 7"]);
}
