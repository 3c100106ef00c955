//! What is asked: prompts, OCR text, pictures that are broken or absent, every benchmark.

use std::{fs, net::TcpListener};

use serde_json::{Value, json};

use crate::{
    COLUMN, RUN, SHORT,
    common::{World, shared},
    lines, questions,
};

#[test]
fn prompts_and_ocr_text_are_recorded_as_two_results() {
    let world = World::new("eval_prompts");
    let test = questions(&world);
    let image = |i: usize| test[i]["image"].as_str().unwrap().to_owned();
    // One picture of the sidecar has no entry: its questions fail on their own.
    let sidecar: serde_json::Map<String, Value> = (0..9)
        .map(|i| {
            (
                image(i),
                json!([{"box": [1, 1, 20, 9], "text": "total 7", "score": 0.9}]),
            )
        })
        .collect();
    fs::write(world.path("ocr.json"), Value::Object(sidecar).to_string()).unwrap();
    let more = [
        "--out",
        "run",
        "--ocr",
        "both",
        "--ocr-engine",
        "sidecar:ocr.json",
        "--prompt",
        "Q: {question}\\nA:",
        "--json",
    ];
    let report = world.run(&RUN, &[&SHORT[..], &more].concat()).json();
    let results = report["results"].as_array().unwrap();
    assert_eq!(results.len(), 2);
    let of = |at: usize, pointer: &str| results[at].pointer(pointer).unwrap().clone();
    assert_eq!(
        (of(0, "/settings/prompt/ocr"), of(1, "/settings/prompt/ocr")),
        (json!("off"), json!("on"))
    );
    assert_eq!(of(1, "/settings/prompt/format"), "Q: {question}\nA:");
    assert!(
        of(1, "/settings/prompt/ocr_lines")
            .as_str()
            .unwrap()
            .starts_with("sidecar ")
    );
    assert_eq!(
        (of(0, "/counts/errors"), of(1, "/counts/errors")),
        (json!(0), json!(4))
    );
    let notes = of(1, "/notes").to_string();
    assert!(
        notes.contains("4 question(s) failed") && notes.contains("no OCR result"),
        "{notes}"
    );
    let tokens = |column: &str| {
        let rows = lines(&world.path("run").join(column).join("samples.jsonl"));
        assert!(
            rows.iter()
                .all(|row| row["prompt"].as_str().unwrap().starts_with("Q: "))
        );
        let row = rows
            .iter()
            .find(|row| row["question_id"] == "doc-0/0")
            .unwrap();
        row["metadata"]["prompt_tokens"].as_u64().unwrap()
    };
    assert!(tokens("hybrid_instruct_test-ocr") > tokens("hybrid_instruct_test"));
    // The file for scripts has both.
    let all = fs::read_to_string(world.path("run/results.json")).unwrap();
    assert_eq!(
        serde_json::from_str::<Value>(&all).unwrap(),
        report["results"]
    );
    // Where nothing is answered there is no score.
    fs::write(world.path("empty.json"), "{\"other.png\": []}").unwrap();
    let more = [
        "--out",
        "none",
        "--ocr",
        "on",
        "--ocr-engine",
        "sidecar:empty.json",
    ];
    let run = world.run(&RUN, &more);
    run.fails(
        3,
        &["none of the 40 questions was answered", "no OCR result"],
    );
    for (flags, code, words) in [
        (vec!["--prompt", "no place"], 2, "{question}"),
        (
            vec!["--ocr", "on", "--ocr-engine", "sidecar:none.json"],
            3,
            "none.json",
        ),
        (vec!["--ocr", "on", "--ocr-engine", "none"], 2, "engine"),
        (vec!["--metric", "anlz"], 2, "anlz"),
        (vec!["--batch-size", "0"], 2, "batch-size"),
        (
            vec!["--num-chunks", "2", "--chunk-idx", "2"],
            2,
            "chunk 2 of 2",
        ),
        (vec!["--data", "nowhere"], 3, "nowhere"),
    ] {
        let mut args: Vec<&str> = RUN.into();
        if flags[0] == "--data" {
            args.truncate(4);
            args.extend(["--model", "model"]);
        }
        args.extend(flags);
        world.run(&args, &["--out", "bad"]).fails(code, &[words]);
    }
    let unknown = world.run(
        &["eval", "run", "--task", "docvq", "--data", "docs"],
        &["--model", "model", "--out", "bad"],
    );
    unknown.fails(2, &["did you mean docvqa", "eval list"]);
    assert!(
        !world.path("bad").exists(),
        "a refused command leaves nothing"
    );
}

#[test]
fn broken_and_absent_pictures_are_named_and_counted() {
    let world = World::new("eval_broken");
    let mut test = questions(&world);
    test[1]["image"] = "images/none.png".into();
    test[2]["image"] = "images/cut.png".into();
    test[3]["image"] = "../../etc/passwd".into();
    world.write_records("docs/vqa_test.json", &test);
    // The header is whole, the pixels are not.
    let bytes = fs::read(world.path(&world.picture())).unwrap();
    fs::write(world.path("docs/images/cut.png"), &bytes[..bytes.len() / 2]).unwrap();
    let run = world.run(&RUN, &[&SHORT[..], &["--out", "run", "--json"]].concat());
    assert!(
        run.err.contains("2 of 10 images") || run.err.contains("images absent"),
        "{}",
        run.err
    );
    let report = run.json();
    let counts = &report["results"][0]["counts"];
    let expected = json!({
        "questions": 40, "scored": 32, "without_image": 8, "without_reference": 0, "answered": 28,
        "missing": 0, "errors": 4, "repeated": 0, "unknown": 0, "unusable_lines": 0,
    });
    assert_eq!(counts, &expected);
    let failed = lines(&world.path("run").join(COLUMN).join("errors.jsonl"));
    assert_eq!(failed.len(), 4);
    assert!(
        failed[0]["error"].as_str().unwrap().contains("cut.png"),
        "{}",
        failed[0]
    );
    // Fewer questions are a part of the same run, and nothing is asked for them.
    let more = [&SHORT[..], &["--out", "run", "--limit", "4", "--json"]].concat();
    let part = world.run(&RUN, &more).json();
    assert_eq!(part["answered_now"], 0);
    assert_eq!(part["results"][0]["counts"]["unknown"], 0);
    assert_eq!(part["results"][0]["counts"]["scored"], 4);
    // Repaired, the same command asks what failed and nothing else.
    fs::write(world.path("docs/images/cut.png"), &bytes).unwrap();
    let report = world
        .run(&RUN, &[&SHORT[..], &["--out", "run", "--json"]].concat())
        .json();
    assert_eq!(report["answered_now"], 4);
    assert_eq!(report["results"][0]["counts"]["answered"], 32);
}

#[test]
fn a_server_that_is_not_there_is_no_success() {
    let world = World::new("eval_no_server");
    questions(&world);
    // Fewer requests than failures in a row that end a run.
    let few = ["--limit", "3"];
    world
        .run(&RUN, &[&SHORT[..], &few, &["--out", "run"]].concat())
        .ok();
    let port = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", port.local_addr().unwrap());
    drop(port);
    let judge = ["eval", "judge", "run", "--model", "j"];
    for command in [
        [&RUN[..], &["--out", "far"]].concat(),
        judge.into(),
        [&judge[..], &["--json"]].concat(),
        [&judge[..], &["--against", "run"]].concat(),
    ] {
        let more = [&few[..], &["--endpoint", &url, "--attempts", "1"]].concat();
        let run = world.run(&command, &more);
        assert_eq!(run.code, Some(1), "{run:#?}");
        let hint = "check that the server runs and that --endpoint has its address";
        for words in ["error: hybrid_instruct", "cannot reach", hint] {
            assert!(run.err.contains(words), "{words}: {run:#?}");
        }
    }
}

#[test]
fn every_benchmark_that_lies_there_is_asked() {
    let Some(folder) = shared("every_benchmark_that_lies_there_is_asked") else {
        return;
    };
    let world = World::new("eval_real");
    let data = folder.join("data");
    let args = [
        "eval",
        "run",
        "--task",
        "all",
        "--data",
        data.to_str().unwrap(),
        "--model",
        "model",
    ];
    let more = [
        "--out",
        "run",
        "--limit",
        "3",
        "--max-new-tokens",
        "2",
        "--json",
    ];
    let report = world.run(&args, &more).json();
    let results = report["results"].as_array().unwrap();
    assert!(results.len() >= 4, "{} benchmarks", results.len());
    for result in results {
        assert_eq!(result["counts"]["questions"], 3, "{result}");
        assert_eq!(result["counts"]["errors"], 0, "{result}");
        assert!(result["notes"].to_string().contains("--limit"), "{result}");
    }
}

#[test]
fn a_closer_look_takes_the_surer_answer_and_is_a_run_of_its_own() {
    let world = World::that_sees("eval_closer");
    questions(&world);
    let run = |out: &str, more: &[&str]| {
        let out = ["--out", out, "--json"];
        world.run(&RUN, &[&SHORT[..], &out, more].concat())
    };
    let whole = run("whole", &[]).json();
    let report = run("run", &["--closer"]).json();
    let pointer = "/results/0/settings/decode/closer";
    assert_eq!(report.pointer(pointer), Some(&json!(true)));
    assert_eq!(
        whole.pointer(pointer),
        None,
        "as it was before there were closer looks"
    );
    let rows = |run: &str| lines(&world.path(run).join(COLUMN).join("samples.jsonl"));
    let of = |row: &Value| {
        let score = row["metadata"]["score"].as_f64().unwrap();
        (
            row["question_id"].to_string(),
            (
                score,
                row["text"].clone(),
                row["prompt"].clone(),
                row["image"].clone(),
            ),
        )
    };
    let whole: std::collections::BTreeMap<_, _> = rows("whole").iter().map(of).collect();
    let closer: std::collections::BTreeMap<_, _> = rows("run").iter().map(of).collect();
    assert_eq!((whole.len(), closer.len()), (40, 40));
    let mut surer = 0;
    for (id, (score, ..)) in &closer {
        let before = whole[id].0;
        assert!(*score >= before - 2e-3, "{id}: {score} after {before}");
        surer += usize::from(*score > before + 2e-3);
    }
    assert!(surer > 0, "no half was surer");
    // The same answer as by hand.
    let (score, text, prompt, image) = closer.values().next().unwrap();
    let image = world
        .path("docs")
        .join(image.as_str().unwrap())
        .display()
        .to_string();
    let ask = [
        "ask", "--model", "model", "--closer", "--json", "--image", &image,
    ];
    let asked = world
        .run(&ask, &[&SHORT[..], &[prompt.as_str().unwrap()]].concat())
        .json();
    assert_eq!(asked["answer"], *text);
    let probability = asked["probability"].as_f64().unwrap();
    assert!(
        (probability.ln() - score).abs() < 5e-3,
        "{probability} {score}"
    );
    let page = |run: &str| world.run(&["eval", "report", run], &[]).ok();
    assert!(page("run").contains("closer look") && !page("whole").contains("closer look"));
    // What was answered in one way is not gone on with in the other.
    run("run", &[]).fails(2, &["closer look"]);
}
