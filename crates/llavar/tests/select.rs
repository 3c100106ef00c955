//! `llavar select`: scores that survive, files that fit together, picks that repeat.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::{fs, path::Path};

use common::World;
use llavar_select::ScoreTable;
use serde_json::{Value, json};

const SCORE: [&str; 5] = ["select", "score", "data.json", "--model", "model"];

/// The set with a picture that is missing, one that is none, and a text that is too long.
fn damaged(world: &World) -> usize {
    let mut records = world.records();
    records[1]["image"] = "images/none.png".into();
    fs::write(world.path("docs/images/text.png"), "no picture").unwrap();
    records[2]["image"] = "images/text.png".into();
    let long = "word ".repeat(3000);
    records[3]["conversations"][1]["value"] = long.into();
    records[4]["conversations"] = json!([{"from": "gpt", "value": "alone"}]);
    world.write_records("data.json", &records);
    records.len()
}

fn rows(path: &Path) -> ScoreTable {
    ScoreTable::read(path).unwrap()
}

/// The same rows, scores up to the rounding of sums: other packings compute other last bits.
fn same(a: &ScoreTable, b: &ScoreTable) {
    assert_eq!(a.rows.len(), b.rows.len());
    for (a, b) in a.rows.iter().zip(&b.rows) {
        assert_eq!((a.key(), &a.reason), (b.key(), &b.reason));
        let apart = (a.mifd.unwrap_or(0.0) - b.mifd.unwrap_or(0.0)).abs();
        assert!(apart < 1e-5, "{:?}: {apart}", a.key());
    }
}

#[test]
fn faults_are_rows_and_a_second_run_scores_nothing_twice() {
    let world = World::new("select_score");
    let samples = damaged(&world);
    let more = [
        "--image-folder",
        "docs",
        "--out",
        "scores.parquet",
        "--json",
    ];
    let report = world.run(&SCORE, &more).json();
    assert_eq!(report["samples"], samples);
    let table = rows(&world.path("scores.parquet"));
    let records: std::collections::HashSet<u64> = table.rows.iter().map(|r| r.record).collect();
    assert_eq!(records.len(), samples, "no gaps");
    let reason = |record: u64| {
        let mut of = table.rows.iter().filter(|row| row.record == record);
        of.find_map(|row| row.reason.clone()).unwrap_or_default()
    };
    for (record, words) in [
        (0, ""),
        (1, "none.png"),
        (2, "text.png"),
        (3, "too long: "),
        (4, "no turn"),
    ] {
        assert!(
            reason(record).contains(words),
            "{record}: {}",
            reason(record)
        );
        assert_eq!(reason(record).is_empty(), words.is_empty(), "{record}");
    }
    let blind = table.rows.iter().find(|row| row.record == 1).unwrap();
    assert!(
        blind.ifd.is_some() && blind.vfd.is_none(),
        "the text is scored"
    );

    let again = world.run(&SCORE, &more).json();
    let whole = table.rows.iter().filter(|row| row.reason.is_none()).count();
    assert!(again["taken_from_journal"].as_u64().unwrap() > 0);
    assert!(again["scored_now"].as_u64().unwrap() <= (table.rows.len() - whole) as u64 + 4);
    same(&rows(&world.path("scores.parquet")), &table);
    let other = [
        "--image-folder",
        "docs",
        "--out",
        "scores.parquet",
        "--scores",
        "ifd",
    ];
    world
        .run(&SCORE, &other)
        .fails(2, &["scores.journal.jsonl", "--out"]);
    world
        .run(&SCORE, &["--out", "x.parquet", "--scores", "efd"])
        .fails(2, &["efd", "mifd"]);

    // Three ranks, then together; a part too few is refused.
    let mut parts = Vec::new();
    for k in ["0", "1", "2"] {
        let own = [
            "--image-folder",
            "docs",
            "--out",
            "part.parquet",
            "--num-chunks",
            "3",
            "--chunk-idx",
            k,
        ];
        world.run(&SCORE, &own).ok();
        parts.push(format!("part-0000{k}-of-00003.parquet"));
    }
    let merge = |parts: &[String]| {
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        world.run(
            &[&["select", "merge"], &parts[..]].concat(),
            &["--out", "all.parquet"],
        )
    };
    merge(&parts[1..]).fails(3, &["missing: 0"]);
    merge(&parts).ok();
    let merged = rows(&world.path("all.parquet"));
    same(&merged, &table);

    // A model that is not there: where the one that the help names comes from.
    let made = "quickstart/runs/sft/model";
    let help = world.run(&["select", "score", "--help"], &[]).ok();
    assert!(help.contains(made), "{help}");
    let args = ["select", "score", "data.json", "--model", made];
    let run = world.run(&args, &["--out", "x.parquet"]);
    run.fails(
        3,
        &["`llavar quickstart --train` makes quickstart/runs/sft/model"],
    );

    // The data are never written over.
    let before = fs::read(world.path("data.json")).unwrap();
    world
        .run(&SCORE, &["--out", "./data.json"])
        .fails(2, &["--out would write over the data"]);
    assert!(fs::read(world.path("data.json")).unwrap() == before);
}

#[test]
fn a_second_turn_that_is_no_longer_a_duo_is_scored_again() {
    let world = World::new("select_turns");
    let mut records = world.records();
    records.truncate(1);
    let turn = |n: usize, from: &str| {
        let tag = if (n, from) == (0, "human") {
            "<image>\n"
        } else {
            ""
        };
        json!({"from": from, "value": format!("{tag}{from} {n} says so")})
    };
    let turns = |pairs: usize| -> Vec<Value> {
        (0..pairs)
            .flat_map(|n| [turn(n, "human"), turn(n, "gpt")])
            .collect()
    };
    let mut score = |pairs: usize, out: &str| {
        records[0]["conversations"] = turns(pairs).into();
        world.write_records("data.json", &records);
        let more = ["--image-folder", "docs", "--out", out];
        world.run(&SCORE, &more).ok();
        rows(&world.path(out))
    };
    let three = score(3, "scores.parquet");
    assert!(three.rows.iter().all(|row| row.ffd.is_none()));
    let resumed = score(2, "scores.parquet");
    assert!(resumed.rows[1].ffd.is_some(), "a duo now");
    same(&resumed, &score(2, "fresh.parquet"));
    let back = score(3, "scores.parquet");
    assert!(back.rows.iter().all(|row| row.ffd.is_none()));
    same(&back, &three);
}

#[test]
fn a_picture_that_has_changed_is_scored_again() {
    let world = World::new("select_pictures");
    let mut records = world.records();
    records.truncate(3);
    world.write_records("data.json", &records);
    let score = |out: &str| {
        let more = ["--image-folder", "docs", "--out", out, "--json"];
        let report = world.run(&SCORE, &more).json();
        (
            rows(&world.path(out)),
            report["scored_now"].as_u64().unwrap(),
        )
    };
    let picture = |record: usize| {
        let name = records[record]["image"].as_str().unwrap();
        world.path("docs").join(name)
    };
    let (first, _) = score("scores.parquet");
    assert_eq!(score("scores.parquet").1, 0);

    // Another picture under its name.
    fs::copy(picture(1), picture(0)).unwrap();
    let (changed, now) = score("scores.parquet");
    let own = first.rows.iter().filter(|row| row.record == 0).count() as u64;
    assert_eq!(now, own);
    assert_ne!(changed.rows[0].vfd, first.rows[0].vfd);
    same(&changed, &score("fresh.parquet").0);
    assert_eq!(score("scores.parquet").1, 0);

    // The same size at another time.
    let file = fs::File::options().append(true).open(picture(0)).unwrap();
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(60);
    file.set_modified(later).unwrap();
    assert_eq!(score("scores.parquet").1, own);

    // Where nothing is seen, nothing is scored again.
    let text = ["--image-folder", "docs", "--out", "t.parquet", "--json"];
    let text = [&text[..], &["--scores", "ifd"]].concat();
    world.run(&SCORE, &text).ok();
    fs::copy(picture(1), picture(0)).unwrap();
    assert_eq!(world.run(&SCORE, &text).json()["scored_now"], 0);
    assert_eq!(score("scores.parquet").1, own);

    // A journal of an earlier version keeps its rows, and so does one whose picture is gone.
    let journal = world.path("scores.journal.jsonl");
    let written = fs::read_to_string(&journal).unwrap();
    let earlier = written.lines().map(|line| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        line.as_object_mut().unwrap().remove("pictures");
        format!("{line}\n")
    });
    fs::write(&journal, earlier.collect::<String>()).unwrap();
    fs::copy(picture(2), picture(0)).unwrap();
    assert_eq!(score("scores.parquet").1, 0);
    fs::write(&journal, written).unwrap();
    fs::remove_file(picture(0)).unwrap();
    assert_eq!(score("scores.parquet").1, 0);
}

#[test]
fn a_pick_repeats_and_says_why_the_rest_is_gone() {
    let world = World::new("select_pick");
    let samples = damaged(&world);
    world
        .run(
            &SCORE,
            &["--image-folder", "docs", "--out", "scores.parquet"],
        )
        .ok();
    let pick = |out: &str, more: &[&str]| {
        let args = [
            "select",
            "pick",
            "scores.parquet",
            "--data",
            "data.json",
            "--out",
            out,
        ];
        world.run(&args, more)
    };
    let open = [
        "--max-ifd",
        "none",
        "--max-vfd",
        "none",
        "--max-ffd",
        "none",
    ];
    let card = pick("all.json", &[&open[..], &["--json"]].concat()).json();
    let table = rows(&world.path("scores.parquet"));
    let whole = table.rows.iter().filter(|row| row.reason.is_none()).count();
    assert_eq!(card["samples"], samples);
    assert!(card["kept"].as_u64().unwrap() <= whole as u64 && card["kept"] != 0);
    assert!(card["dropped"]["unscored"].as_u64().unwrap() >= 4);

    let some = [&open[..], &["--fraction", "0.3", "--near-image", "4"]].concat();
    let text = pick("a.json", &some).ok();
    assert!(text.contains("enough others rank higher"), "{text}");
    pick("b.json", &some).ok();
    for end in ["json", "card.json", "dropped.jsonl"] {
        let bytes = |name: &str| fs::read(world.path(name)).unwrap();
        assert_eq!(
            bytes(&format!("a.{end}")),
            bytes(&format!("b.{end}")),
            "{end}"
        );
    }
    let picked: Vec<Value> =
        serde_json::from_slice(&fs::read(world.path("a.json")).unwrap()).unwrap();
    let pairs: usize = picked
        .iter()
        .map(|sample| sample["conversations"].as_array().unwrap().len() / 2)
        .sum();
    assert!(pairs > 0 && pairs as f64 <= 0.3 * table.rows.len() as f64 + 0.5);
    for sample in &picked {
        let first = sample["conversations"][0]["value"].as_str().unwrap();
        assert!(first.contains("<image>"), "{first}");
    }
    let dropped = fs::read_to_string(world.path("a.dropped.jsonl")).unwrap();
    assert_eq!(dropped.lines().count(), table.rows.len() - pairs);

    // The page: scores with their pictures, what was dropped beside what was kept, no address outside.
    let report = |more: &[&str]| {
        let args = [
            "select",
            "report",
            "scores.parquet",
            "--image-folder",
            "docs",
        ];
        world.run(&args, &[&["--out", "page.html"], more].concat())
    };
    report(&["--picked", "a.json"]).ok();
    let page = fs::read_to_string(world.path("page.html")).unwrap();
    for words in [
        "VFD against IFD",
        "lowest mIFD",
        "Kept beside dropped",
        "data:image/",
        "too long",
    ] {
        assert!(page.contains(words), "{words}");
    }
    assert!(!page.contains("src=\"http") && !page.contains("href=\"http"));
    report(&["--picked", "none.json"]).fails(3, &["none.dropped.jsonl"]);

    // Nothing that is read is written over, whatever it is called.
    for (out, what) in [
        ("./data.json", "--data"),
        ("docs/../scores.parquet", "the score file"),
    ] {
        let before = fs::read(world.path(out)).unwrap();
        pick(out, &open).fails(2, &[&format!("--out would write over {what}")]);
        assert!(fs::read(world.path(out)).unwrap() == before);
    }
    for (out, what) in [
        ("./scores.parquet", "the score file"),
        ("a.json", "--picked"),
        ("docs/../a.dropped.jsonl", "the list of dropped pairs"),
    ] {
        let before = fs::read(world.path(out)).unwrap();
        let args = ["select", "report", "scores.parquet", "--picked", "a.json"];
        world
            .run(&args, &["--out", out])
            .fails(2, &[&format!("--out would write over {what}")]);
        assert!(fs::read(world.path(out)).unwrap() == before);
    }
    // Nor is another file that happens to have the name.
    fs::write(world.path("notes.json"), "[]").unwrap();
    let other = "no earlier output of this command";
    pick("notes.json", &open).fails(2, &[other]);
    let args = ["select", "report", "scores.parquet", "--out", "notes.json"];
    world.run(&args, &[]).fails(2, &[other]);
    let most = usize::MAX.to_string();
    let each = [&open[..], &["--number", "1", "--clusters", &most]].concat();
    pick("c.json", &each).ok();
    let clusters = [&open[..], &["--clusters", "3"]].concat();
    pick("c.json", &clusters).fails(2, &["--clusters", "--fraction"]);
    pick("c.json", &["--fraction", "2"]).fails(2, &["fraction"]);
    fs::write(world.path("broken.parquet"), "PAR1 no").unwrap();
    let args = [
        "select",
        "pick",
        "broken.parquet",
        "--data",
        "data.json",
        "--out",
        "d.json",
    ];
    world.run(&args, &[]).fails(3, &["broken.parquet"]);
    let mut records: Vec<Value> =
        serde_json::from_slice(&fs::read(world.path("data.json")).unwrap()).unwrap();
    for record in &mut records {
        record["conversations"][0]["value"] = "<image>\nsomething else".into();
    }
    world.write_records("data.json", &records);
    pick("e.json", &open).fails(3, &["not what was scored"]);
}
