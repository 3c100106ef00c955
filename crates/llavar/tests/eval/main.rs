//! `llavar eval`: runs that survive, chunks that fit together, answers files of any kind.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod answers;
mod asking;
#[path = "../common/mod.rs"]
mod common;
mod runs;

use std::{fs, path::Path};

use common::World;
use serde_json::{Value, json};

const RUN: [&str; 8] = [
    "eval",
    "run",
    "--task",
    "hybrid_instruct",
    "--data",
    "docs",
    "--model",
    "model",
];

const SHORT: [&str; 2] = ["--max-new-tokens", "4"];

const COLUMN: &str = "hybrid_instruct_test";

/// `docs/vqa_test.json`: duos on every picture, 40 questions.
fn questions(world: &World) -> Vec<Value> {
    let records: Vec<Value> = world.records().into_iter().take(10).collect();
    let turns = |i: usize| {
        let turn = |from: &str, value: String| json!({"from": from, "value": value});
        json!([
            turn("human", format!("<image>\nwhat is the total of {i}?")),
            turn("gpt", format!("the total is {i}")),
            turn("human", "explain it".into()),
            turn("gpt", "it is 7".into()),
            turn("human", format!("what is it of {i}?")),
            turn("gpt", "the total".into()),
            turn("human", format!("is {i} the total?")),
            turn("gpt", "it is".into()),
        ])
    };
    let test: Vec<Value> = records
        .iter()
        .enumerate()
        .map(|(i, record)| {
            json!({"id": format!("doc-{i}"), "image": record["image"], "conversations": turns(i)})
        })
        .collect();
    world.write_records("docs/vqa_test.json", &test);
    test
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Results without what tells two folders apart.
fn result(world: &World, run: &str) -> Value {
    let path = world.path(run).join(COLUMN).join("results.json");
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}
