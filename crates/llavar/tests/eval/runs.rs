//! Runs that survive, and chunks that fit together.

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{COLUMN, RUN, SHORT, common::World, lines, questions, result};

#[test]
fn a_run_killed_twenty_times_ends_as_one_that_was_not() {
    let world = World::new("eval_killed");
    questions(&world);
    let whole = world
        .run(&RUN, &[&SHORT[..], &["--out", "whole", "--json"]].concat())
        .json();
    let counts = &whole["results"][0]["counts"];
    assert_eq!(
        (&counts["questions"], &counts["answered"]),
        (&json!(40), &json!(40))
    );
    // One answer at a time, so that the kills fall between and inside writes.
    let args = [&SHORT[..], &["--out", "killed", "--batch-size", "1"]].concat();
    let samples = world.path("killed").join(COLUMN).join("samples.jsonl");
    let mut kills = 0;
    while kills < 20 {
        let before = fs::metadata(&samples).map_or(0, |m| m.len());
        let mut child = world.command(&RUN, &args).spawn().unwrap();
        let begun = Instant::now();
        while fs::metadata(&samples).map_or(0, |m| m.len()) == before
            && child.try_wait().unwrap().is_none()
        {
            assert!(
                begun.elapsed() < Duration::from_secs(120),
                "no answer comes"
            );
            thread::sleep(Duration::from_millis(1));
        }
        // Another moment each time, also inside the next answer.
        thread::sleep(Duration::from_micros(kills * 130));
        if child.try_wait().unwrap().is_none() {
            kills += 1;
        }
        let _ = child.kill();
        child.wait().unwrap();
        if lines_whole(&samples) == 40 {
            break;
        }
    }
    assert!(kills >= 10, "only {kills} runs were killed before the end");
    world.run(&RUN, &args).ok();
    let file = |run: &str| fs::read(world.path(run).join(COLUMN).join("samples.jsonl")).unwrap();
    assert_eq!(
        file("killed"),
        file("whole"),
        "not the same answers in the same order"
    );
    assert_eq!(result(&world, "killed"), result(&world, "whole"));
    // Nothing is left to ask.
    let again = world.run(&RUN, &[&args[..], &["--json"]].concat()).json();
    assert_eq!(again["answered_now"], 0);
}

/// Whole lines of a file that may be being written.
fn lines_whole(path: &Path) -> usize {
    fs::read(path)
        .unwrap_or_default()
        .iter()
        .filter(|b| **b == b'\n')
        .count()
}

#[test]
fn batches_chunks_and_ranks_change_no_answer() {
    let world = World::new("eval_chunks");
    let test = questions(&world);
    let run = |out: &str, more: &[&str]| {
        let args = [&SHORT[..], &["--out", out], more].concat();
        world.run(&RUN, &args)
    };
    let report = run("whole", &["--batch-size", "7", "--json"]).json();
    let summary = report["answerer"].as_str().unwrap();
    assert!(
        summary.starts_with("10 pictures encoded for 40 questions (30 reused"),
        "{summary}"
    );
    for metric in [
        "multimodal_ocr_vqa",
        "anls",
        "token_f1",
        "rouge_l",
        "bleu_4",
        "cider_d",
    ] {
        let metrics = report["results"][0]["metrics"].as_array().unwrap();
        let of = metrics.iter().find(|m| m["metric"] == metric).unwrap();
        assert_eq!(of["n"], 40);
        assert_eq!(of["images"], 10);
        assert!(of["standard_error"].is_number(), "{of}");
        let kinds: Vec<&Value> = of["by_category"]
            .as_array()
            .unwrap()
            .iter()
            .map(|k| &k["category"])
            .collect();
        assert_eq!(kinds, ["extractive", "self_explain"]);
    }
    let settings = &report["results"][0]["settings"];
    for key in [
        "/model/hash",
        "/model/template",
        "/prompt/hash",
        "/decode/max_new_tokens",
    ] {
        assert!(
            !settings.pointer(key).unwrap().is_null(),
            "{key}: {settings}"
        );
    }

    // Three chunks by flags; the middle one is late.
    for chunk in ["0", "2"] {
        run("parts", &["--num-chunks", "3", "--chunk-idx", chunk]).ok();
    }
    let early = world.run(&["eval", "merge", "parts"], &[]);
    early.fails(3, &["14 of 40 questions are not answered yet", "--partial"]);
    run("parts", &["--num-chunks", "3", "--chunk-idx", "1"]).ok();
    let merged = world.run(&["eval", "merge", "parts", "--json"], &[]).json();
    assert_eq!(merged[0], report["results"][0]);
    assert_eq!(result(&world, "parts"), result(&world, "whole"));
    // Two ranks of a launcher.
    for rank in ["0", "1"] {
        let args = [&SHORT[..], &["--out", "ranks"]].concat();
        let mut command = world.command(&RUN, &args);
        command.env("RANK", rank).env("WORLD_SIZE", "2");
        assert!(command.status().unwrap().success());
    }
    world.run(&["eval", "merge", "ranks"], &[]).ok();
    assert_eq!(result(&world, "ranks"), result(&world, "whole"));
    let rows = lines(&world.path("ranks").join(COLUMN).join("samples.jsonl"));
    assert_eq!(rows.len(), 4 * test.len());
    // Answers of another division count as well, and hide none.
    let column = world.path("ranks").join(COLUMN);
    let (first, stale) = ["00000-of-00002", "00003-of-00004"]
        .map(|part| column.join(format!("samples-{part}.jsonl")))
        .into();
    fs::copy(first, stale).unwrap();
    fs::remove_file(column.join("samples.jsonl")).unwrap();
    world.run(&["eval", "merge", "ranks"], &[]).ok();
    assert_eq!(result(&world, "ranks"), result(&world, "whole"));

    // A merge loses no answer: of questions that are not asked now, or whose pictures are not there now.
    let kept = world.path("whole").join(COLUMN).join("samples.jsonl");
    let before = fs::read(&kept).unwrap();
    run("whole", &["--limit", "2"]).ok();
    world.run(&["eval", "merge", "whole"], &[]).ok();
    assert!(fs::read(&kept).unwrap() == before);
    run("whole", &[]).ok();

    // Other settings are refused by name, and a comparison of a run with itself shows nothing.
    let other = run("whole", &["--suffix", " please"]);
    other.fails(2, &["prompt format", "another --out"]);
    let same = world
        .run(&["eval", "compare", "whole", "parts", "--json"], &[])
        .json();
    for metric in same[0]["metrics"].as_array().unwrap() {
        assert_eq!(
            (&metric["difference"], &metric["p"]),
            (&json!(0.0), &json!(1.0))
        );
    }
}

#[test]
fn a_report_is_not_written_over_its_run() {
    let world = World::new("eval_report_over");
    questions(&world);
    world
        .run(
            &RUN,
            &[&SHORT[..], &["--out", "run", "--limit", "2"]].concat(),
        )
        .ok();
    let column = format!("run/{COLUMN}");
    fs::create_dir(world.path(&column).join("judge-1")).unwrap();
    fs::write(world.path(&column).join("judge-1/judge.json"), "{}").unwrap();
    for out in [
        "run/results.json".to_owned(),
        format!("run/./{COLUMN}/run.json"),
        format!("{column}/results.json"),
        format!("{column}/judge-1/judge.json"),
    ] {
        let before = fs::read(world.path(&out)).unwrap();
        let args = ["eval", "report", "run", "--out", "page.html"];
        world
            .run(&args, &["--out", &out])
            .fails(2, &["--out would write over a file of the run"]);
        assert!(fs::read(world.path(&out)).unwrap() == before, "{out}");
        assert!(!world.path("page.html").exists(), "before any work");
    }
    fs::remove_dir_all(world.path(&column).join("judge-1")).unwrap();
    // An earlier report is.
    for _ in 0..2 {
        let args = ["eval", "report", "run", "--out", "run/report.json"];
        world.run(&args, &[]).ok();
    }
    // A folder in the place of the answers is no lack of space.
    let samples = world.path(&column).join("samples.jsonl");
    fs::remove_file(&samples).unwrap();
    fs::create_dir(&samples).unwrap();
    world
        .run(
            &RUN,
            &[&SHORT[..], &["--out", "run", "--limit", "2"]].concat(),
        )
        .fails(3, &["samples.jsonl", "not a regular file"]);
}
