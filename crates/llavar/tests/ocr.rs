//! `llavar ocr` and `--ocr` with results from files, which need no models.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::{fs, process::Stdio};

use common::{Run, World, finish};
use serde_json::{Value, json};

/// Runs with a cache of its own, so that nothing of the user's is seen or changed.
fn run(world: &World, args: &[&str], input: &str) -> Run {
    let mut command = world.command(args, &[]);
    command.env("LLAVAR_CACHE", world.path("cache"));
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let _ = std::io::Write::write_all(&mut stdin, input.as_bytes());
    drop(stdin);
    finish(format!("llavar {args:?}"), child)
}

/// Lines for every picture of the set in `sidecar/`, five each.
fn sidecars(world: &World) {
    for entry in fs::read_dir(world.path("docs/images")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let line = |at: usize| {
            let y = at * 20;
            json!({"box": [0, y, 90, y + 12], "text": format!("line {at} of {name}"), "score": 0.75})
        };
        let lines: Vec<Value> = (0..5).map(line).collect();
        fs::create_dir_all(world.path("sidecar")).unwrap();
        let path = world.path("sidecar").join(format!("{name}.ocr.json"));
        fs::write(path, json!({"lines": lines}).to_string()).unwrap();
    }
}

#[test]
fn pictures_are_read_in_order_and_bad_ones_counted() {
    let world = World::new("ocr_run");
    sidecars(&world);
    let engine = ["--engine", "sidecar:sidecar"];
    let picture = world.picture();
    let name = picture.rsplit('/').next().unwrap().to_owned();
    let text = run(
        &world,
        &[&["ocr", "run", &picture], &engine[..]].concat(),
        "",
    )
    .ok();
    assert_eq!(
        text.lines().next(),
        Some(format!("line 0 of {name}").as_str())
    );
    let page = run(
        &world,
        &[&["ocr", "run", &picture, "--layout"], &engine[..]].concat(),
        "",
    )
    .ok();
    assert_eq!(page.lines().count(), 5);
    assert!(page.starts_with(' '), "{page}");

    let all = run(
        &world,
        &[&["ocr", "run", "docs/images", "--json"], &engine[..]].concat(),
        "",
    )
    .ok();
    let rows: Vec<Value> = all
        .lines()
        .map(|row| serde_json::from_str(row).unwrap())
        .collect();
    assert_eq!(rows.len(), 10);
    let names: Vec<&str> = rows
        .iter()
        .map(|row| row["image"].as_str().unwrap())
        .collect();
    assert!(names.is_sorted(), "{names:?}");
    assert_eq!(rows[0]["lines"][4]["score"], 0.75);
    assert_eq!(rows[0]["lines"][1]["quad"][2], json!([90.0, 32.0]));

    // What is written is a sidecar again, also of pictures in folders below.
    run(
        &world,
        &[&["ocr", "run", "docs", "--out", "again"], &engine[..]].concat(),
        "",
    )
    .ok();
    let again = [
        "ocr",
        "run",
        &picture,
        "--json",
        "--engine",
        "sidecar:again/images",
    ];
    let again: Value = serde_json::from_str(&run(&world, &again, "").ok()).unwrap();
    assert_eq!(again["lines"], rows[0]["lines"]);

    fs::write(world.path("none.png"), b"").unwrap();
    let some = [
        &["ocr", "run", "none.png", &picture, "gone.png"],
        &engine[..],
    ]
    .concat();
    let some = run(&world, &some, "");
    assert_eq!(some.code, Some(3), "{some:#?}");
    for word in ["none.png", "gone.png", "2 of 3 pictures", "2 bad"] {
        assert!(some.err.contains(word), "{word}: {some:#?}");
    }
    assert!(some.out.contains(&format!("line 4 of {name}")), "{some:#?}");
    let twice = [
        "ocr",
        "run",
        "none.png",
        "docs/../none.png",
        "--out",
        "x",
        "--engine",
        "none",
    ];
    run(&world, &twice, "").fails(2, &["same name"]);
}

#[test]
fn what_is_missing_is_said_with_what_to_do() {
    let world = World::empty("ocr_missing");
    fs::write(world.path("a.png"), b"").unwrap();
    let models = run(&world, &["ocr", "run", "a.png"], "");
    models.fails(
        3,
        &["the models of `ppocr`", "llavar ocr pull --engine ppocr"],
    );
    let unknown = run(&world, &["ocr", "run", "a.png", "--engine", "paddle"], "");
    assert_eq!(unknown.code, Some(2), "{unknown:#?}");
    assert!(unknown.err.contains("tesseract"), "{unknown:#?}");
    fs::create_dir(world.path("wheel")).unwrap();
    let pull = ["ocr", "pull", "--from", "wheel"];
    run(&world, &pull, "").fails(1, &["wheel", "there is no PP-OCRv6_det_small.onnx"]);
    fs::write(world.path("wheel/PP-OCRv6_det_small.onnx"), b"other").unwrap();
    run(&world, &pull, "").fails(1, &["another checksum"]);
    assert!(!world.path("cache").exists());
    let none = run(&world, &["ocr", "pull", "--engine", "tesseract"], "");
    none.fails(2, &["has no models"]);
    run(&world, &["ocr", "bench", "wheel"], "").fails(3, &["no labelled pages", "SROIE"]);
}

#[test]
fn questions_come_with_the_text_of_their_pictures() {
    let world = World::new("ocr_ask");
    sidecars(&world);
    let picture = world.picture();
    let name = picture.rsplit('/').next().unwrap().to_owned();
    let ask = [
        "ask",
        "--model",
        "model",
        "--image",
        &picture,
        "what?",
        "--json",
        "--max-new-tokens",
        "2",
    ];
    let plain: Value = serde_json::from_str(&run(&world, &ask, "").ok()).unwrap();
    assert!(plain.get("ocr").is_none());
    let with = [&ask[..], &["--ocr", "sidecar:sidecar"]].concat();
    let with: Value = serde_json::from_str(&run(&world, &with, "").ok()).unwrap();
    let prefix = with["ocr"].as_str().unwrap();
    let begin = format!("Given OCR-based Page Parser Results:  line 0 of {name}\n line 1");
    assert!(
        prefix.starts_with(&begin) && prefix.ends_with('\n'),
        "{prefix}"
    );
    assert_eq!(with["question"], "what?");
    let tokens = |answer: &Value| answer["prompt_tokens"].as_u64().unwrap();
    assert!(tokens(&with) > tokens(&plain) + 50, "{with} {plain}");
    let off = [&ask[..], &["--ocr", "none"]].concat();
    let off: Value = serde_json::from_str(&run(&world, &off, "").ok()).unwrap();
    assert_eq!(tokens(&off), tokens(&plain));
    assert_eq!(off["answer"], plain["answer"]);

    let lost = [&ask[..], &["--ocr", "sidecar:docs"]].concat();
    run(&world, &lost, "").fails(3, &["no OCR result", &name]);
    // In a conversation a picture without a result is told, and the conversation goes on.
    let chat = [
        "chat",
        "--model",
        "model",
        "--max-new-tokens",
        "2",
        "--ocr",
        "sidecar:docs",
    ];
    let told = run(&world, &chat, &format!("/image {picture}\nhello\n/quit\n"));
    assert!(told.err.contains("no OCR result"), "{told:#?}");
    told.ok();
    let chat = [
        "chat",
        "--model",
        "model",
        "--max-new-tokens",
        "2",
        "--ocr",
        "sidecar:sidecar",
    ];
    let talked = run(
        &world,
        &chat,
        &format!("/image {picture}\nhello\nand?\n/quit\n"),
    );
    assert!(talked.err.contains("ask about it"), "{talked:#?}");
    talked.ok();
}

#[test]
fn a_model_that_wants_the_text_gets_it_unless_told_otherwise() {
    let world = World::new("ocr_wished");
    sidecars(&world);
    let picture = world.picture();
    let path = world.path("model/config.json");
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    let ask = |more: &[&str]| {
        let ask = [
            "ask",
            "--model",
            "model",
            &picture,
            "what?",
            "--json",
            "--max-new-tokens",
            "2",
        ];
        run(&world, &[&ask[..], more].concat(), "")
    };
    config["ocr_engine"] = "ppocr".into();
    fs::write(&path, config.to_string()).unwrap();
    // Its models are not there: the model reads by itself, and that is said with the way to better answers.
    let alone = ask(&[]);
    assert!(
        alone.err.contains("llavar ocr pull --engine ppocr") && alone.err.contains("by itself"),
        "{}",
        alone.err
    );
    let alone: Value = serde_json::from_str(&alone.ok()).unwrap();
    let without: Value = serde_json::from_str(&ask(&["--ocr", "none"]).ok()).unwrap();
    assert!(without.get("ocr").is_none() && alone.get("ocr").is_none());
    assert_eq!(alone["text"], without["text"]);
    // Asked for by name it has to be there.
    ask(&["--ocr", "ppocr"]).fails(3, &["llavar ocr pull --engine ppocr"]);
    let with: Value = serde_json::from_str(&ask(&["--ocr", "sidecar:sidecar"]).ok()).unwrap();
    assert!(with["ocr"].as_str().unwrap().contains("line 0 of"));
    config["ocr_engine"] = "sidecar:sidecar".into();
    fs::write(&path, config.to_string()).unwrap();
    let wished: Value = serde_json::from_str(&ask(&[]).ok()).unwrap();
    assert_eq!(wished["ocr"], with["ocr"]);
    config["ocr_engine"] = "eyes".into();
    fs::write(&path, config.to_string()).unwrap();
    ask(&[]).fails(2, &["eyes", "tesseract"]);
}
