//! What commands say: hints that can help, numbers with their units.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs;

use common::{World, finish};
use serde_json::json;

#[test]
fn no_more_tokens_than_none_are_refused() {
    let world = World::empty("no_tokens");
    for flag in ["--max-new-tokens", "--max_new_tokens"] {
        for command in [&["ask", "hi"][..], &["chat"]] {
            world
                .run(command, &[flag, "0"])
                .fails(2, &["--max-new-tokens", "1..="]);
        }
    }
}

#[test]
fn hints_name_flags_that_the_command_has() {
    let world = World::new("hints");
    let train = World::train_args("docs/data.json", "run", &["--device", "cuda"]);
    let train: Vec<&str> = train.iter().map(String::as_str).collect();
    let ask = ["ask", "-m", "model", "hi", "--device", "cuda"];
    let bench = |device: &'static str| ["bench", "gpu", "--device", device];
    let no_gpu = "no GPU can be used: the ";
    let cases: &[(&[&str], i32, &[&str], &str)] = &[
        (&train, 2, &[no_gpu, "`--device cpu`"], "--resume"),
        (&ask, 2, &[no_gpu, "`--device cpu`"], "--resume"),
        (&bench("cuda"), 1, &[no_gpu, "its driver"], "--device cpu"),
        (&bench("auto"), 1, &[no_gpu, "its driver"], "--device cpu"),
        (&bench("cpu"), 2, &["needs a GPU", "cuda:N"], "driver"),
        (
            &["checkpoint", "pin", "nope"],
            3,
            &["`llavar checkpoint list RUN --json`"],
            "--resume",
        ),
        (
            &["checkpoint", "note", "nope", "anls=1"],
            3,
            &["`llavar checkpoint list RUN --json`"],
            "--resume",
        ),
    ];
    for (args, code, words, absent) in cases {
        let mut command = world.command(args, &[]);
        // Where there is a GPU it is hidden.
        command.env("CUDA_VISIBLE_DEVICES", "");
        let run = finish(format!("{args:?}"), command.spawn().unwrap()).fails(*code, words);
        assert!(!run.err.contains(absent), "{absent}: {run:#?}");
    }
}

#[test]
fn pins_are_set_on_all_checkpoints_or_on_none() {
    let world = World::new("pins");
    let sets = ["--set", "max_steps=2", "--set", "save_steps=1"];
    let trained = world.train("docs/data.json", "run", &sets);
    let step = trained
        .err
        .lines()
        .find(|l| l.starts_with("step 1/2 loss "));
    assert!(
        step.is_some_and(|l| l.contains(" nats/token lr ")),
        "{trained:#?}"
    );
    trained.ok();
    let list = world.run(&["checkpoint", "list", "run"], &[]).ok();
    assert_eq!(list.matches(" nats/token").count(), 2, "{list}");

    let [first, second] = ["1", "2"].map(|n| format!("run/checkpoints/step-0000000{n}"));
    let pinned = || -> Vec<bool> {
        let list = world.run(&["checkpoint", "list", "run", "--json"], &[]);
        let list = list.json();
        let rows = list.as_array().unwrap().iter();
        rows.map(|row| row["pinned"].as_bool().unwrap()).collect()
    };
    for (word, folders, code, after) in [
        ("pin", [&*first, "nope"], 3, [false, false]),
        ("pin", [&first, &second], 0, [true, true]),
        ("unpin", [&first, "nope"], 3, [true, true]),
        ("unpin", [&second, &first], 0, [false, false]),
    ] {
        let run = world.run(&["checkpoint", word], &folders);
        assert_eq!(run.code, Some(code), "{run:#?}");
        assert_eq!(pinned(), after, "{run:#?}");
        // Nothing is said to be done that is not.
        assert_eq!(
            run.out.lines().count(),
            if code == 0 { 2 } else { 0 },
            "{run:#?}"
        );
    }
}

#[test]
fn a_comparison_has_the_units_of_results() {
    let world = World::empty("compare_units");
    let write = |name: &str, rows: &[(&str, f64, f64)]| {
        let line = |(at, (image, anls, cider)): (usize, &(&str, f64, f64))| {
            json!({"question_id": at, "prompt": "q", "text": "a", "task": "t", "image": image, "answered": true,
                "scores": {"anls": anls, "cider_d": cider}})
            .to_string()
                + "\n"
        };
        let text: String = rows.iter().enumerate().map(line).collect();
        fs::write(world.path(name), text).unwrap();
    };
    write("a", &[("1.png", 0.25, 0.5), ("2.png", 0.5, 1.5)]);
    write("b", &[("1.png", 0.5, 0.5), ("2.png", 1.0, 2.0)]);
    write("one-a", &[("1.png", 0.5, 0.5)]);
    write("one-b", &[("1.png", 0.25, 0.5)]);
    for (a, b, lines) in [
        (
            "a",
            "b",
            [
                "A 37.5 %  B 75.0 %  B - A +37.5 ± 12.5  [+25.0, +50.0]  p ",
                "A 1.000  B 1.250  B - A +0.250 ± 0.250  [+0.000, +0.500]  p ",
            ],
        ),
        (
            "one-a",
            "one-b",
            [
                "A 50.0 %  B 25.0 %  B - A -25.0 ± –  [-25.0, -25.0]  p ",
                "A 0.500  B 0.500  B - A +0.000 ± –  [+0.000, +0.000]  p ",
            ],
        ),
    ] {
        let text = world.run(&["eval", "compare", a, b], &[]).ok();
        for line in lines {
            assert!(text.contains(line), "{line}: {text}");
        }
        assert!(text.contains("B - A in points"), "{text}");
        assert!(text.lines().all(|l| l.chars().count() <= 100), "{text}");
    }
}
