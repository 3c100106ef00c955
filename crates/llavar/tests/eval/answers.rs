//! Answer files: the reference's, and those of any other tool.

use std::fs;

use serde_json::json;

use crate::{common::World, lines, questions};

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

    // The pictures are looked for beside the questions; scripts pass an empty folder.
    for (out, folder) in [("none", &[][..]), ("empty", &["--image-folder", ""])] {
        let file = format!("out/{out}.jsonl");
        let more = ["--answers-file", &file, "--num_beams", "2", "--json"];
        let args = [&args[..6], &args[8..], folder].concat();
        assert_eq!(world.run(&args, &more).json()["metrics"], report["metrics"]);
    }
    let before = fs::read(world.path("docs/vqa_test.json")).unwrap();
    world
        .run(&args, &["--answers-file", "out/../docs/vqa_test.json"])
        .fails(2, &["--answers-file would write over the question file"]);
    assert!(fs::read(world.path("docs/vqa_test.json")).unwrap() == before);

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
    run(&["score", "scored", "--task", "docvqa"])
        .fails(3, &["scored is a folder", "runs/ev/TASK/samples.jsonl"]);
    let scored = world.path("scored");
    fs::create_dir(world.path("kept")).unwrap();
    fs::copy(scored.join("scored.jsonl"), world.path("results.json")).unwrap();
    fs::copy(
        folder.join("val_v1.0.json"),
        world.path("kept/results.json"),
    )
    .unwrap();
    for (answers, data, out, kept, what) in [
        (
            "scored/scored.jsonl",
            "DocVQA",
            "scored",
            "scored/scored.jsonl",
            "the answers",
        ),
        ("results.json", "DocVQA", ".", "results.json", "the answers"),
        (
            "scored/scored.jsonl",
            "kept/results.json",
            "kept",
            "kept/results.json",
            "--data",
        ),
    ] {
        let before = fs::read(world.path(kept)).unwrap();
        let args = ["score", answers, "--task", "docvqa", "--data", data];
        run(&[&args[..], &["--out", out]].concat())
            .fails(2, &[&format!("--out would write over {what}")]);
        assert!(fs::read(world.path(kept)).unwrap() == before, "{kept}");
    }
    let into = ["--data", "DocVQA", "--out", "results.json"];
    run(&[
        &["score", "scored/scored.jsonl", "--task", "docvqa"],
        &into[..],
    ]
    .concat())
    .fails(2, &["cannot write", "a folder is needed here"]);
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
