//! `llavar eval` with a model and a judge on servers, and the report of what came out.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::{collections::BTreeSet, fs, thread, time::Duration};

use common::World;
use llavar_client::testing::{Reply, StubRequest, StubServer};
use llavar_image::{RgbImage, encode_png};
use serde_json::{Value, json};

const QUESTIONS: usize = 30;

/// `ChartQA Dataset/` with pictures and questions of which the answer to `say N?` is N.
fn world(name: &str) -> World {
    let world = World::empty(name);
    let test = world.path("ChartQA Dataset/test");
    fs::create_dir_all(test.join("png")).unwrap();
    for picture in 0..5u8 {
        let image = RgbImage::filled(60, 40, [50 * picture, 90, 90]);
        fs::write(
            test.join(format!("png/{picture}.png")),
            encode_png(&image).unwrap(),
        )
        .unwrap();
    }
    let question = |i: usize| json!({"imgname": format!("{}.png", i % 5), "query": format!("say {i}?"), "label": i.to_string()});
    let questions: Vec<Value> = (0..QUESTIONS).map(question).collect();
    fs::write(
        test.join("test_human.json"),
        serde_json::to_string(&questions).unwrap(),
    )
    .unwrap();
    fs::write(test.join("test_augmented.json"), "[]").unwrap();
    world
}

fn number(request: &StubRequest) -> usize {
    let text = request.text();
    let said = text.split("say ").nth(1).unwrap().to_owned();
    said.split('?').next().unwrap().parse().unwrap()
}

#[test]
fn killed_runs_go_on_and_judge_and_report_follow() {
    let world = world("eval_remote");
    let server = StubServer::start(|request| {
        // Every seventh request meets a fault.
        match request.number % 7 {
            3 => Reply::error(500, "out of order"),
            5 => Reply::CutBody("half".into()),
            _ => Reply::After(Duration::from_millis(15), number(request).to_string()),
        }
    })
    .unwrap();
    let url = server.url();
    let args = [
        "eval",
        "run",
        "--task",
        "chartqa",
        "--data",
        "ChartQA Dataset",
        "--out",
        "run",
        "--json",
    ];
    let remote = ["--endpoint", &url, "--model", "m-7b", "--concurrency", "2"];
    let samples = world.path("run/chartqa_test/samples.jsonl");
    let size = || fs::metadata(&samples).map_or(0, |m| m.len());
    for _ in 0..4 {
        let before = size();
        let mut child = world.command(&args, &remote).spawn().unwrap();
        while size() == before && child.try_wait().unwrap().is_none() {
            thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let result = world.run(&args, &remote).json();
    assert_eq!(
        result["results"][0]["counts"]["answered"], QUESTIONS,
        "{result}"
    );
    assert_eq!(
        result["results"][0]["metrics"][1]["value"], 1.0,
        "relaxed accuracy"
    );
    let text = fs::read_to_string(&samples).unwrap();
    let rows: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let ids: BTreeSet<String> = rows
        .iter()
        .map(|row| row["question_id"].to_string())
        .collect();
    assert_eq!((rows.len(), ids.len()), (QUESTIONS, QUESTIONS));
    let asked = server.requests().len();
    world.run(&args, &remote).ok();
    assert_eq!(server.requests().len(), asked, "nothing is asked again");

    // The judge likes every answer but one, whose words it cannot put into points.
    let judge = StubServer::start(|request| match number(request) {
        7 => Reply::Chat("I would rather not say".into()),
        _ => Reply::Chat("Right.\nScore: 9".into()),
    })
    .unwrap();
    let url = judge.url();
    let judged = world
        .run(
            &["eval", "judge", "run", "--json"],
            &["--endpoint", &url, "--model", "j"],
        )
        .json();
    let counts = &judged[0]["result"]["counts"];
    assert_eq!(
        (&counts["judged"], &counts["unreadable"]),
        (&json!(QUESTIONS - 1), &json!(1))
    );
    assert_eq!(judged[0]["result"]["points"]["value"], 9.0);
    assert_eq!(judged[0]["result"]["label"], "judge:j:grade.v1");

    let out = [
        "--out",
        "report.html",
        "--out",
        "report.md",
        "--out",
        "report.json",
    ];
    world.run(&["eval", "report", "run"], &out).ok();
    let page = fs::read_to_string(world.path("report.html")).unwrap();
    assert_eq!(page.matches("<article").count(), QUESTIONS);
    assert_eq!(
        page.matches("src=\"data:image/").count(),
        5,
        "each picture once"
    );
    for said in [
        "judge:j:grade.v1",
        "9 of 10 points",
        "no verdict in the reply",
        "m-7b",
        "30 of 30 questions are shown",
    ] {
        assert!(page.contains(said), "{said}");
    }
    assert!(
        fs::read_to_string(world.path("report.md"))
            .unwrap()
            .contains("## Judged by language models")
    );
    let numbers: Value =
        serde_json::from_str(&fs::read_to_string(world.path("report.json")).unwrap()).unwrap();
    assert_eq!(
        numbers["columns"][0]["result"]["counts"]["answered"],
        QUESTIONS
    );
}

#[test]
fn wrong_servers_and_folders_are_named() {
    let world = world("eval_remote_wrong");
    let run = |more: &[&str]| {
        let args = [
            "eval",
            "run",
            "--task",
            "chartqa",
            "--data",
            "ChartQA Dataset",
            "--out",
            "run",
        ];
        world.run(&args, more)
    };
    let server = StubServer::start(|_| Reply::error(401, "who are you?")).unwrap();
    let url = server.url();
    run(&["--endpoint", &url, "--model", "m"])
        .fails(1, &["refuses the key", "who are you?", "--key-var"]);
    run(&["--endpoint", "localhost", "--model", "m"]).fails(2, &["http://"]);
    run(&["--endpoint", &url, "--model", "m", "--num-beams", "4"]).fails(2, &["beams"]);
    world
        .run(&["eval", "report", "nowhere"], &[])
        .fails(3, &["nowhere"]);
    world
        .run(&["eval", "report", "ChartQA Dataset"], &[])
        .fails(3, &["holds no scored answers"]);
    world
        .run(&["eval", "report", "run", "--out", "report.pdf"], &[])
        .fails(2, &[".html"]);
    let judge = [
        "eval",
        "judge",
        "ChartQA Dataset",
        "--endpoint",
        &url,
        "--model",
        "j",
    ];
    world
        .run(&judge, &[])
        .fails(3, &["holds no scored answers"]);
}
