//! `llavar eval`: runs that survive, chunks that fit together, answers files of any kind.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use common::{World, shared};
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
fn vqa_writes_the_reference_s_schema_and_reports_by_kind() {
    let world = World::new("eval_vqa");
    let mut test = questions(&world);
    test[0]["id"] = 17.into();
    world.write_records("docs/vqa_test.json", &test);
    let args = [
        "eval",
        "vqa",
        "--model-path",
        "model",
        "--question-file",
        "docs/vqa_test.json",
        "--image-folder",
        "docs",
        "--conv-mode",
        "v1",
        "--temperature",
        "0",
        "--max_new_tokens",
        "4",
    ];
    let report = world
        .run(
            &args,
            &[
                "--answers-file",
                "out/answers.jsonl",
                "--num_beams",
                "2",
                "--json",
            ],
        )
        .json();
    let kinds = report["metrics"][0]["by_category"].as_array().unwrap();
    assert_eq!((kinds.len(), &kinds[0]["n"]), (2, &json!(20)));
    let rows = lines(&world.path("out/answers.jsonl"));
    assert_eq!(rows.len(), 40);
    let first = rows[0].as_object().unwrap();
    let keys: Vec<&str> = first.keys().map(String::as_str).collect();
    for key in [
        "question_id",
        "prompt",
        "text",
        "gt",
        "model_id",
        "metadata",
        "answer_id",
        "qa_id",
        "category",
        "image",
    ] {
        assert!(keys.contains(&key), "{key} is not in {keys:?}");
    }
    assert_eq!(
        (&first["question_id"], &first["gt"], &first["qa_id"]),
        (&json!(17), &json!("the total is 0"), &json!(0))
    );
    assert_eq!(
        (
            &rows[1]["question_id"],
            &rows[1]["qa_id"],
            &rows[1]["prompt"]
        ),
        (&json!(17), &json!(2), &json!("explain it"))
    );
    assert_eq!(first["model_id"], "model");

    // Chunks as the reference's shell scripts use them: joined by `cat`, scored by themselves.
    let mut joined = String::new();
    for (chunk, beams) in [("0", "2"), ("1", "2"), ("2", "2")] {
        let file = format!("out/{chunk}.jsonl");
        world
            .run(
                &args,
                &[
                    "--answers-file",
                    &file,
                    "--num-chunks",
                    "3",
                    "--chunk-idx",
                    chunk,
                    "--num_beams",
                    beams,
                ],
            )
            .ok();
        joined += &fs::read_to_string(world.path(&file)).unwrap();
    }
    fs::write(world.path("joined.jsonl"), joined).unwrap();
    assert_eq!(lines(&world.path("joined.jsonl")).len(), 40);
    // Chunks are of samples: 4, 4 and 2 of 10, with four questions each.
    let counts = ["out/0.jsonl", "out/1.jsonl", "out/2.jsonl"].map(|f| lines(&world.path(f)).len());
    assert_eq!(counts, [16, 16, 8]);
    let score = [
        "eval",
        "score",
        "joined.jsonl",
        "--task",
        "hybrid_instruct",
        "--json",
    ];
    let of = |more: &[&str]| world.run(&score, more).json()["metrics"].clone();
    assert_eq!(
        of(&["--data", "docs", "--image-folder", "docs"]),
        report["metrics"]
    );
    assert_eq!(
        of(&[])[0]["value"],
        report["metrics"][0]["value"],
        "references of the answers file"
    );

    // LLaVA's own question files: JSONL without references.
    let question = json!({"question_id": 5, "image": test[0]["image"], "text": "what is it?", "category": "conv"});
    fs::write(world.path("llava.jsonl"), format!("{question}\n")).unwrap();
    let more = [
        "--model-path",
        "model",
        "--question-file",
        "llava.jsonl",
        "--image-folder",
        "docs",
        "--answers-file",
        "llava-answers.jsonl",
        "--max_new_tokens",
        "4",
        "--temperature",
        "0.7",
        "--top_p",
        "0.9",
    ];
    world.run(&["eval", "vqa"], &more).ok();
    let rows = lines(&world.path("llava-answers.jsonl"));
    assert_eq!(
        (&rows[0]["question_id"], &rows[0]["prompt"]),
        (&json!(5), &json!("what is it?"))
    );

    for (more, code, words) in [
        (vec!["--model-base", "model"], 2, "--model-base"),
        (
            vec!["--num_beams", "3", "--temperature", "1"],
            2,
            "num_beams",
        ),
        (vec!["--num_beams", "0"], 2, "num_beams"),
        (vec!["--chunk-idx", "1"], 2, "chunk 1 of 1"),
        (vec!["--ocr", "both"], 2, "two answers files"),
        (vec!["--conv-mode", "phi9"], 2, "phi9"),
    ] {
        let args = [
            "eval",
            "vqa",
            "--model-path",
            "model",
            "--question-file",
            "docs/vqa_test.json",
            "--image-folder",
            "docs",
            "--answers-file",
            "bad/answers.jsonl",
        ];
        let more: Vec<&str> = more;
        world.run(&args, &more).fails(code, &[words]);
    }
    assert!(
        !world.path("bad").exists(),
        "a refused command leaves nothing"
    );
}

#[test]
fn answers_of_any_tool_are_scored_and_their_faults_counted() {
    let world = World::empty("eval_score");
    let folder = world.path("DocVQA");
    fs::create_dir_all(folder.join("documents")).unwrap();
    let png = llavar_image::encode_png(&llavar_image::RgbImage::filled(9, 9, [1, 2, 3])).unwrap();
    fs::write(folder.join("documents/a.png"), png).unwrap();
    let question = |id: u32, image: &str| {
        json!({"questionId": id, "question": format!("q{id}?"), "image": format!("documents/{image}"), "docId": 1,
            "answers": ["seven"], "data_split": "val"})
    };
    let data = json!({"data": [question(1, "a.png"), question(2, "a.png"), question(3, "b.png"), question(4, "b.png")]});
    fs::write(folder.join("val_v1.0.json"), data.to_string()).unwrap();
    let score = |bytes: &[u8], more: &[&str]| {
        fs::write(world.path("answers.jsonl"), bytes).unwrap();
        let args = [
            "eval",
            "score",
            "answers.jsonl",
            "--task",
            "docvqa",
            "--data",
            "DocVQA",
        ];
        world.run(&args, more)
    };
    let answers = [
        br#"{"questionId": 1, "answer": "seven"}"#.as_slice(),
        br#"{"questionId": 1, "answer": "eight"}"#,
        b"{\"questionId\": 2, \"answer\": \"s\xff\xfeven\"}",
        br#"{"questionId": 77, "answer": "seven"}"#,
        br#"{"questionId": 4}"#,
        b"no json",
        br#"{"questionId": 3, "answer": "sevn"}"#,
    ]
    .join(&b'\n');
    let run = score(&answers, &["--json", "--out", "scored"]);
    assert!(run.err.contains("1 of 2 images absent"), "{}", run.err);
    let report = run.json();
    let expected = json!({
        "questions": 4, "scored": 4, "without_image": 0, "without_reference": 0, "answered": 2, "missing": 2,
        "errors": 0, "repeated": 1, "unknown": 1, "unusable_lines": 3,
    });
    assert_eq!(report["counts"], expected);
    assert_eq!(report["metrics"][1]["value"], json!((1.0 + 0.8) / 4.0));
    let notes = report["notes"].to_string();
    for words in [
        "2 missing",
        "1 repeated",
        "\\\"77\\\" on line 4",
        "not UTF-8",
    ] {
        assert!(notes.contains(words), "{words}: {notes}");
    }
    assert_eq!(lines(&world.path("scored/scored.jsonl")).len(), 4);
    let only = score(&answers, &["--json", "--only-with-image"]).json();
    assert_eq!(
        (&only["counts"]["scored"], &only["counts"]["without_image"]),
        (&json!(2), &json!(2))
    );

    // Nothing that would be a silent zero.
    for (bytes, code, words) in [
        (b"".as_slice(), 3, "no answer"),
        (b"\xff\xfe\x00", 3, "UTF-8"),
        (
            br#"{"questionId": 99, "answer": "x"}"#,
            3,
            "none of the answers",
        ),
        (br#"[{"questionId": 1"#, 3, "not valid JSON"),
    ] {
        score(bytes, &[]).fails(code, &[words]);
    }
    let run = |args: &[&str]| world.run(&[&["eval"], args].concat(), &[]);
    run(&["score", "none.jsonl", "--task", "docvqa"]).fails(3, &["none.jsonl"]);
    run(&["score", "answers.jsonl", "--task", "txtvqa"]).fails(2, &["did you mean textvqa"]);
    run(&[
        "score",
        "answers.jsonl",
        "--task",
        "docvqa",
        "--metric",
        "bleu",
    ])
    .fails(2, &["bleu_4"]);
    run(&["compare", "scored", "nowhere"]).fails(3, &["nowhere"]);
    run(&["merge", "DocVQA"]).fails(3, &["no run"]);
    // A run against itself, and a file that is none.
    assert!(
        run(&["compare", "scored", "scored/scored.jsonl"])
            .ok()
            .contains("p 1.0000")
    );
    run(&["compare", "scored", "answers.jsonl"]).fails(3, &["answers.jsonl:1"]);
    let list = run(&["list", "--json"]).json();
    assert_eq!(list["tasks"].as_array().unwrap().len(), 11);
    assert!(
        run(&["list"])
            .ok()
            .contains("OCRBench.json beside OCRBench_Images/")
    );
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
