//! `llavar data prefix`, and the forms of `llavar data import`.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Run, World, finish};
use llavar_client::testing::{Reply, StubServer};
use serde_json::{Value, json};
use std::fs;

fn samples(world: &World, name: &str) -> Vec<Value> {
    serde_json::from_str(&fs::read_to_string(world.path(name)).unwrap()).unwrap()
}

fn asked(sample: &Value) -> &str {
    sample["conversations"][0]["value"].as_str().unwrap()
}

#[test]
fn the_text_of_pictures_goes_before_questions() {
    let world = World::new("data_prefix");
    world
        .run(
            &["data", "synth", "--out", "set", "-n", "60"],
            &["--seed", "3"],
        )
        .ok();
    let plain = samples(&world, "set/data.json");
    let words = "sidecar:set/words.jsonl";
    let prefix = |out: &str, more: &[&str]| {
        let args = [
            "data",
            "prefix",
            "set/data.json",
            "--ocr",
            words,
            "--out",
            out,
        ];
        world.run(&args, more)
    };
    prefix("all.json", &[]).ok();
    let all = samples(&world, "all.json");
    assert_eq!(all.len(), plain.len());
    for (plain, with) in plain.iter().zip(&all) {
        let question = asked(plain).strip_prefix("<image>\n").unwrap();
        let text = asked(with);
        assert!(
            text.starts_with("<image>\nOCR: ")
                || text.starts_with("<image>\nGiven OCR-based Page Parser Results: "),
            "{text}"
        );
        assert!(text.ends_with(&format!("\n{question}")), "{text}");
        // Nothing else is touched.
        let mut back = with.clone();
        back["conversations"][0]["value"] = plain["conversations"][0]["value"].clone();
        assert_eq!(back, *plain);
    }
    // What is asked is what evaluation and `ask` put before a question.
    let layout = all
        .iter()
        .find(|s| asked(s).contains("Page Parser"))
        .unwrap();
    assert!(asked(layout).contains("\n "), "{}", asked(layout));

    prefix("half.json", &["--share", "0.5"]).ok();
    let half = samples(&world, "half.json");
    let with = half.iter().zip(&plain).filter(|(a, b)| a != b).count();
    assert!((15..=45).contains(&with), "{with} of {}", half.len());
    prefix("again.json", &["--share", "0.5"]).ok();
    assert_eq!(half, samples(&world, "again.json"), "a seed decides");
    prefix("other.json", &["--share", "0.5", "--seed", "1"]).ok();
    assert_ne!(half, samples(&world, "other.json"));
    prefix("twice.json", &["--share", "0.5", "--twice"]).ok();
    assert_eq!(samples(&world, "twice.json").len(), plain.len() + with);

    prefix("wrong.json", &["--errors", "0.2"]).ok();
    let wrong = samples(&world, "wrong.json");
    let changed = wrong.iter().zip(&all).filter(|(a, b)| a != b).count();
    assert!(changed * 2 > all.len(), "{changed} of {}", all.len());
    let run = prefix("short.json", &["--max-chars", "60"]);
    assert!(run.err.contains("the text is too long"), "{run:#?}");
    run.ok();

    prefix("all.json", &[]).fails(2, &["all.json", "--force"]);
    prefix("no.json", &["--share", "1.5"]).fails(2, &["--share", "0 to 1"]);
    let other = |ocr: &str| {
        let args = [
            "data",
            "prefix",
            "set/data.json",
            "--out",
            "no.json",
            "--ocr",
            ocr,
        ];
        world.run(&args, &[])
    };
    other("none").fails(2, &["none", "sidecar"]);
    other("sidecar").fails(2, &["--image-folder"]);
    other("sidecar:nowhere").fails(3, &["nowhere"]);
    assert!(!world.path("no.json").exists());
}

#[test]
fn pictures_that_nobody_read_are_told() {
    let world = World::new("data_prefix_missing");
    let sample = |id: &str| {
        json!({"id": id, "image": format!("{id}.png"), "conversations": [
            {"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "That."}]})
    };
    let text = json!({"id": "text", "conversations": [
        {"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]});
    let set = [sample("a"), sample("b"), sample("empty"), text];
    fs::write(world.path("set.json"), json!(set).to_string()).unwrap();
    fs::create_dir(world.path("ocr")).unwrap();
    let line = json!([{"box": [0, 0, 50, 10], "text": "Total 9.90", "score": 0.9}]);
    fs::write(world.path("ocr/a.png.ocr.json"), line.to_string()).unwrap();
    fs::write(world.path("ocr/empty.png.ocr.json"), "[]").unwrap();
    let args = [
        "data",
        "prefix",
        "set.json",
        "--ocr",
        "sidecar:ocr",
        "--out",
        "out.json",
    ];
    let run = world.run(&args, &[]);
    assert!(run.err.contains("no text was found"), "{run:#?}");
    assert!(run.err.contains("the first is b"), "{run:#?}");
    let out = run.ok();
    assert!(out.contains("4 samples, 1 with the text"), "{out}");
    let made = samples(&world, "out.json");
    let questions: Vec<&str> = made.iter().map(asked).collect();
    let plain = "<image>\nWhat?";
    let first = "<image>\nOCR: Total 9.90\nWhat?";
    assert_eq!(questions, [first, plain, plain, "Why?"]);

    fs::remove_file(world.path("ocr/a.png.ocr.json")).unwrap();
    fs::remove_file(world.path("ocr/empty.png.ocr.json")).unwrap();
    world
        .run(&args, &["--force"])
        .fails(3, &["a.png", "llavar ocr run"]);
}

/// Runs with an engine that finds one line on every picture, and a line in `reads` for each that it was given.
#[cfg(unix)]
fn with_engine(world: &World, args: &[&str]) -> Run {
    use std::os::unix::fs::PermissionsExt;
    let program = world.path("engine");
    let reads = world.path("reads");
    let body = format!(
        "cat > /dev/null; echo read >> '{}'\nprintf '5\\t1\\t1\\t1\\t1\\t1\\t5\\t5\\t90\\t12\\t95\\tTOTAL 9.90\\n'",
        reads.display()
    );
    let text = format!("#!/bin/sh\n[ \"$1\" = --version ] && exec echo fake 1\n{body}\n");
    fs::write(&program, text).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = world.command(args, &["--ocr", "tesseract"]);
    command
        .env("LLAVAR_TESSERACT", &program)
        .env("LLAVAR_CACHE", world.path("cache"));
    finish(format!("llavar {args:?}"), command.spawn().unwrap())
}

#[cfg(unix)]
#[test]
fn a_picture_of_many_samples_is_read_once_wherever_it_lies() {
    let world = World::new("data_prefix_once");
    let picture = fs::read(world.path(&world.picture())).unwrap();
    let name = world.picture().rsplit('/').next().unwrap().to_owned();
    let sample = |id: usize, image: &str| {
        json!({"id": id.to_string(), "image": image, "conversations": [
            {"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "That."}]})
    };
    let mut set: Vec<Value> = (0..20).map(|id| sample(id, &name)).collect();
    world.write_records("set.json", &set);
    let reads = || fs::read_to_string(world.path("reads")).map_or(0, |all| all.lines().count());
    let prefix = |set: &str, out: &str, folder: &str| {
        let args = [
            "data",
            "prefix",
            set,
            "--out",
            out,
            "--image-folder",
            folder,
        ];
        with_engine(&world, &args)
    };
    prefix("set.json", "out.json", "docs/images").ok();
    let made = samples(&world, "out.json");
    let is_whole = |one: &Value| asked(one) == "<image>\nOCR: TOTAL 9.90\nWhat?";
    assert!(made.len() == 20 && made.iter().all(is_whole), "{made:?}");
    assert_eq!(reads(), 1);
    prefix("set.json", "again.json", "docs/images").ok();
    assert_eq!(reads(), 1, "what was read is known to the next command");

    // The same on a web server, and one that it does not have.
    let path = format!("/images/{name}");
    let server = StubServer::start(move |request| match request.path == path {
        true => {
            let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: ";
            let head = format!("{head}{}\r\n\r\n", picture.len());
            Reply::Raw([head.into_bytes(), picture.clone()].concat())
        }
        false => Reply::error(404, "no such file"),
    })
    .unwrap();
    let folder = format!("{}/images", server.url().trim_end_matches("/v1"));
    set.extend([sample(20, "gone.png"), sample(21, "gone.png")]);
    world.write_records("more.json", &set);
    let run = prefix("more.json", "remote.json", &folder);
    let told = "2 samples stay as they are, the first is 20: ";
    assert!(run.err.contains(told), "{run:#?}");
    run.ok();
    let remote = samples(&world, "remote.json");
    assert_eq!(remote[..20], made);
    assert_eq!(remote[20..], set[20..]);
    assert_eq!(reads(), 1);
    let fetched = server
        .requests()
        .iter()
        .filter(|r| r.path.ends_with(&name))
        .count();
    assert_eq!(fetched, 1);

    let args = [
        "data", "prefix", "set.json", "--ocr", "sidecar", "--out", "no.json",
    ];
    world.run(&args, &["--image-folder", &folder]).fails(
        2,
        &["beside the pictures", &folder, "sidecar:FILE-OR-FOLDER"],
    );
    prefix("more.json", "no.json", "nowhere").fails(3, &["nowhere"]);
    world.write_records("gone.json", &set[20..]);
    prefix("gone.json", "no.json", &folder).fails(3, &["2 samples", "gone.png"]);
}

#[test]
fn receipts_in_every_form() {
    let world = World::new("import_forms");
    let jpeg = fs::read(world.path(&world.picture())).unwrap();
    for part in ["img", "box", "entities"] {
        fs::create_dir_all(world.path("set/train").join(part)).unwrap();
    }
    let entities =
        json!({"company": "TAN SHOP", "date": "01/02/2018", "address": "1 ROAD", "total": "9.00"});
    let boxes = "1,1,90,1,90,9,1,9,TAN SHOP\n1,11,90,11,90,19,1,19,01/02/2018\n\
                 1,21,90,21,90,29,1,29,1 ROAD\n1,31,40,31,40,39,1,39,TOTAL\n60,31,90,31,90,39,60,39,9.00\n";
    fs::write(world.path("set/train/box/a.txt"), boxes).unwrap();
    fs::write(world.path("set/train/entities/a.txt"), entities.to_string()).unwrap();
    fs::write(world.path("set/train/img/a.jpg"), &jpeg).unwrap();
    let import = |form: &str| {
        let out = format!("{form}.json");
        let args = [
            "data", "import", "sroie", "set", "--form", form, "--out", &out,
        ];
        world.run(&args, &[]).ok();
        samples(&world, &out)
    };
    let read = import("read");
    assert_eq!(
        read[0]["conversations"][1]["value"],
        "TAN SHOP\n01/02/2018\n1 ROAD\nTOTAL 9.00"
    );
    let ask = import("ask");
    assert_eq!(ask.len(), 8);
    let total = ask
        .iter()
        .find(|s| asked(s).ends_with("total amount of this invoice?"));
    assert_eq!(total.unwrap()["conversations"][1]["value"], "9.00");
    let [talk, duos] = ["talk", "duos"].map(|form| import(form).len());
    assert_eq!(import("mixed").len(), ask.len() + talk + duos + read.len());
    let train = ["--set", "image_folder=set"];
    world.train("mixed.json", "run", &train).ok();
    let args = [
        "data", "import", "sroie", "set", "--out", "x.json", "--form",
    ];
    world.run(&args, &["poem"]).fails(2, &["poem", "mixed"]);

    // What is read is never written over, also by force; what was written before may be.
    let over = |out: &str, more: &[&str]| {
        let args = ["data", "import", "sroie", "set", "--force", "--out", out];
        world.run(&args, more)
    };
    fs::write(world.path("set/rows.json"), r#"[{"query": "?"}]"#).unwrap();
    fs::create_dir(world.path("other")).unwrap();
    fs::write(world.path("other/b.jpg"), b"jpeg").unwrap();
    let files = [
        "set/train/entities/a.txt",
        "set/train/box/a.txt",
        "set/train/img/a.jpg",
        "set/rows.json",
        "other/b.jpg",
    ];
    let all = || files.map(|name| fs::read(world.path(name)).unwrap());
    let before = all();
    for file in files {
        let run = over(file, &["--not-in", "other"]);
        run.fails(2, &["--out would write over", file, "hint:"]);
    }
    let round = "other/../set/train/box/a.txt";
    over(round, &[]).fails(2, &["--out would write over", round]);
    assert!(all() == before);
    for _ in 0..2 {
        over("set/train.json", &[]).ok();
    }
    over("set/train.json", &["--form", "read"]).ok();
    assert_eq!(samples(&world, "set/train.json"), read);
    // Outside of the set the user's word is enough.
    fs::write(world.path("notes.txt"), b"notes").unwrap();
    over("notes.txt", &[]).ok();
}
