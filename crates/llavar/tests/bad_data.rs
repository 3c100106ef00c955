//! Data sets, recipes and folders that cannot be used: each a clear error that names the place.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::{collections::BTreeSet, fs, os::unix::fs::symlink, path::Path};

use common::World;
use serde_json::{Value, json};

#[test]
fn broken_json_names_line_byte_and_sample() {
    let world = World::new("broken_json");
    let text = fs::read_to_string(world.path("docs/data.json")).unwrap();
    let middle = text.len() / 2;
    let colon = middle + text[middle..].find("\":").unwrap();
    for (what, broken) in [
        ("cut", text[..middle].to_owned()),
        (
            "damaged",
            format!("{}{}", &text[..colon], &text[colon + 2..]),
        ),
        ("tail", format!("{text} x")),
    ] {
        fs::write(world.path("bad.json"), broken).unwrap();
        let words = ["bad.json:", "byte", "sample number", "hint:"];
        eprintln!("{what}");
        world.train("bad.json", "run", &[]).fails(3, &words);
        world
            .run(&["data", "stats", "bad.json"], &[])
            .fails(3, &words);
        let init = ["init", "--text", "bad.json", "--out", "made"];
        world.run(&init, &[]).fails(3, &words);
        assert!(!world.path("made").exists());
    }
    for (text, word) in [("", "bad.json"), ("[]", "no sample"), ("7", "LLaVA data")] {
        fs::write(world.path("bad.json"), text).unwrap();
        world.train("bad.json", "run", &[]).fails(3, &[word]);
    }
    world
        .train("nothing.json", "run", &[])
        .fails(3, &["nothing.json", "check the path"]);
    world
        .train("docs", "run", &[])
        .fails(3, &["docs", "a file is needed"]);
    let folder = ["--set", "image_folder=nofolder"];
    let run = world.train("docs/data.json", "run", &folder);
    run.fails(3, &["nofolder", "check the path"]);
    assert!(!world.path("run/model").exists());
}

/// A change of a record, and what the error must say.
type Case = (&'static str, fn(&mut Value), &'static [&'static str]);

#[test]
fn bad_samples_are_named_and_the_steps_before_them_are_kept() {
    let world = World::new("bad_samples");
    let docs = world.path("docs/images");
    let jpeg = fs::read(world.path(&world.picture())).unwrap();
    fs::write(docs.join("zero.jpg"), b"").unwrap();
    fs::write(docs.join("half.jpg"), &jpeg[..jpeg.len() / 2]).unwrap();
    fs::write(world.path("outside.jpg"), &jpeg).unwrap();
    symlink(world.path("outside.jpg"), docs.join("link.jpg")).unwrap();
    let cases: &[Case] = &[
        (
            "two human turns",
            |r| {
                let turns = r["conversations"].as_array_mut().unwrap();
                turns.insert(1, json!({"from": "human", "value": "and?"}));
            },
            &["does not alternate", "turn 1"],
        ),
        (
            "two answers",
            |r| {
                let turns = r["conversations"].as_array_mut().unwrap();
                turns.insert(2, json!({"from": "gpt", "value": "more"}));
            },
            &["does not alternate", "turn 2"],
        ),
        (
            "unknown speaker",
            |r| r["conversations"][0]["from"] = "martian".into(),
            &["martian", "human"],
        ),
        (
            "two tags for one image",
            |r| r["conversations"][0]["value"] = "<image>\n<image>\nwhat?".into(),
            &["2 <image> tag(s)", "1 image(s)"],
        ),
        (
            "no tag for one image",
            |r| r["conversations"][0]["value"] = "what?".into(),
            &["0 <image> tag(s)", "1 image(s)"],
        ),
        (
            "a tag for no image",
            |r| drop(r.as_object_mut().unwrap().remove("image")),
            &["1 <image> tag(s)", "0 image(s)"],
        ),
        (
            "no turns",
            |r| r["conversations"] = json!([]),
            &["no turn to train on"],
        ),
        (
            "wrong type",
            |r| r["image"] = 3.into(),
            &["\"image\" must be a string"],
        ),
        (
            "absolute",
            |r| r["image"] = "/etc/passwd".into(),
            &["/etc/passwd", "absolute", "relative to image_folder docs"],
        ),
        (
            "parent",
            |r| r["image"] = "../outside.jpg".into(),
            &["../outside.jpg", "below image_folder docs"],
        ),
        (
            "link",
            |r| r["image"] = "images/link.jpg".into(),
            &["images/link.jpg", "leaves image_folder", "outside.jpg"],
        ),
        (
            "folder",
            |r| r["image"] = "images".into(),
            &["\"images\"", "not a regular file"],
        ),
        (
            "missing",
            |r| r["image"] = "images/none.jpg".into(),
            &["images/none.jpg", "does not exist"],
        ),
        (
            "empty picture",
            |r| r["image"] = "images/zero.jpg".into(),
            &["zero.jpg", "0 bytes"],
        ),
        (
            "truncated picture",
            |r| r["image"] = "images/half.jpg".into(),
            &["half.jpg", "truncated"],
        ),
    ];
    for (what, change, words) in cases {
        eprintln!("{what}");
        let mut records = world.records();
        change(&mut records[5]);
        let id = records[5]["id"].as_str().unwrap().to_owned();
        world.write_records("bad.json", &records);
        let _ = fs::remove_dir_all(world.path("run"));
        let run = world.train("bad.json", "run", &["--set", "max_steps=5"]);
        let run = run.fails(3, words);
        run.fails(3, &[&id, "number 5", "on_bad_sample=\"skip\""]);
        // Samples 0 to 3 were two whole steps.
        assert!(world.path("run/checkpoints/step-00000002/DONE").is_file());
    }
    // The way out that the message names: the kept steps are gone on from, the sample is listed.
    let skip = [
        "--set",
        "max_steps=5",
        "--set",
        "on_bad_sample=skip",
        "--set",
        "train.allow_recipe_change=true",
        "--resume",
        "auto",
    ];
    let run = world.train("bad.json", "run", &skip);
    assert!(run.err.contains("resumed at step 2"), "{run:#?}");
    run.ok();
    let listed = fs::read_to_string(world.path("run/quarantine.jsonl")).unwrap();
    assert_eq!(listed.lines().count(), 1);
    assert!(listed.contains("half.jpg"), "{listed}");
    // More of them than are allowed: the same stop again and again, not a way around it.
    let none = ["--set", "max_bad_samples=0", "--set", "on_bad_sample=skip"];
    world
        .train("bad.json", "strict", &none)
        .fails(3, &["allowed are 0", "strict/quarantine.jsonl"]);
    let again = [&none[..], &["--resume", "auto"]].concat();
    world
        .train("bad.json", "strict", &again)
        .fails(3, &["allowed are 0"]);
}

#[test]
fn wrong_recipes() {
    let world = World::new("wrong_recipes");
    let train = |more: &[&str]| world.train("docs/data.json", "run", more);
    let dry = |more: &[&str]| world.run(&["train", "--dry-run", "--recipe"], more);
    for (set, words) in [
        ("lerning_rate=1", ["lerning_rate", "train.learning_rate"]),
        ("train.max_step=1", ["train.max_step", "train.max_steps"]),
        (
            "data.imagefolder=x",
            ["data.imagefolder", "data.image_folder"],
        ),
        ("learning_rate=high", ["train.learning_rate", "high"]),
        ("learning_rate=-1", ["train.learning_rate", "0 or above"]),
        ("version=v7", ["model.version", "phi3_instruct"]),
        ("version", ["version", "="]),
    ] {
        train(&["--set", set]).fails(2, &words);
        dry(&["nano-sft", "--set", set]).fails(2, &words);
    }
    // All wrong keys at once.
    dry(&["nano-sft", "--set", "bath=1", "--set", "train.freze=2"]).fails(
        2,
        &["2 problem(s)", "`bath`", "`train.freze`", "`train.freeze`"],
    );
    dry(&["nano-stf"]).fails(
        2,
        &["nano-stf", "did you mean `nano-sft`", "phi3-readme-sft"],
    );
    dry(&["none.toml"]).fails(2, &["none.toml", "--list"]);
    fs::write(world.path("r.toml"), "[train]\nlearning_rate = = 1\n").unwrap();
    dry(&["r.toml"]).fails(2, &["r.toml", "toml", "line 2"]);
    fs::write(world.path("r.toml"), "[train]\nlearning_rat = 1\n").unwrap();
    dry(&["r.toml"]).fails(2, &["r.toml", "train.learning_rat", "train.learning_rate"]);
    fs::write(world.path("r.toml"), [0xff, 0xfe, 0]).unwrap();
    dry(&["r.toml"]).fails(2, &["r.toml"]);
    world
        .run(&["train", "--recipe", "nano-sft", "--out", "run"], &[])
        .fails(2, &["model.model_name_or_path", "not given"]);
    let model = ["--set", "model_name_or_path=nowhere"];
    train(&model).fails(3, &["nowhere", "check the path"]);
    train(&["--resume", "nowhere"]).fails(3, &["nowhere", "--resume auto"]);
    assert!(!world.path("run/model").exists());
}

#[test]
fn folders_that_exist_are_left_alone() {
    let world = World::new("folders_that_exist");
    fs::write(world.path("file"), "mine").unwrap();
    let text = "docs/data.json";
    for out in ["model", "file"] {
        world
            .run(&["init", "--text", text, "--out", out], &[])
            .fails(2, &[out, "exists already", "another --out"]);
    }
    world.train(text, "run", &[]).ok();
    let weights = fs::read(world.path("run/model/model.safetensors")).unwrap();
    world
        .train(text, "run", &[])
        .fails(2, &["run", "earlier run", "--resume auto"]);
    assert_eq!(
        fs::read(world.path("run/model/model.safetensors")).unwrap(),
        weights
    );
    world
        .train(text, "file", &[])
        .fails(2, &["file", "folder is needed"]);

    let before = fs::read(world.path(text)).unwrap();
    let synth = ["data", "synth", "--out", "docs", "-n", "2"];
    world
        .run(&synth, &[])
        .fails(2, &["docs/data.json", "exists already", "--force"]);
    assert_eq!(fs::read(world.path(text)).unwrap(), before);
    world.run(&synth, &["--force"]).ok();
    assert_ne!(fs::read(world.path(text)).unwrap(), before);
    world
        .run(&["data", "synth", "--out", "file", "-n", "2"], &[])
        .fails(4, &["file", "hint:"]);
    assert_eq!(fs::read_to_string(world.path("file")).unwrap(), "mine");
}

#[test]
fn a_set_is_replaced_as_a_set() {
    let world = World::empty("a_set_is_replaced_as_a_set");
    let synth = |more: &[&str]| world.run(&["data", "synth", "--out", "set"], more);
    synth(&["-n", "9"]).ok();
    let (images, mine) = (
        world.path("set/images"),
        ["receipt_12.jpg", "notes_0000001.jpg"],
    );
    for name in mine {
        fs::write(images.join(name), "mine").unwrap();
    }
    // As a run that was killed leaves it.
    fs::write(images.join(".writing-a1B2c3"), "half a picture").unwrap();
    let names = || -> BTreeSet<String> {
        let entries = fs::read_dir(&images).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    };
    // Refused for whatever reason, it leaves the old set.
    let before = names();
    assert_eq!(before.len(), 9 + 3);
    synth(&["-n", "2"]).fails(2, &["--force"]);
    synth(&["-n", "2", "--force", "--fonts", "nowhere"]).fails(3, &["nowhere", "hint:"]);
    synth(&["-n", "2", "--force", "--set", "fonts=[\"None\"]"]).fails(2, &["None"]);
    assert_eq!(names(), before);

    synth(&["-n", "2", "--force", "--jpeg", "0"]).ok();
    let listed = fs::read_to_string(world.path("set/words.jsonl")).unwrap();
    let image = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        let path = line["image"].as_str().unwrap();
        path.strip_prefix("images/").unwrap().to_owned()
    };
    let mut want: BTreeSet<String> = listed.lines().map(image).collect();
    assert_eq!(want.len(), 2);
    want.extend(mine.map(str::to_owned));
    assert_eq!(names(), want);
}

#[test]
fn fonts_and_texts_that_cannot_be_read() {
    let world = World::empty("fonts_and_texts_that_cannot_be_read");
    fs::create_dir(world.path("fonts")).unwrap();
    fs::write(world.path("fonts/a.ttf"), "no font").unwrap();
    for (more, words) in [
        (["--fonts", "nowhere"], ["nowhere", "check the path"]),
        (
            ["--fonts", "fonts/a.ttf"],
            ["fonts/a.ttf", "a folder is needed"],
        ),
        (["--set", "corpus=nowhere"], ["nowhere", "check the path"]),
    ] {
        let run = world.run(&["data", "synth", "--out", "set", "-n", "1"], &more);
        run.fails(3, &words);
        assert!(!world.path("set").exists());
    }
    // A folder may hold what is no font, but it is said when there is nothing else.
    let args = [
        "data", "synth", "--out", "set", "-n", "1", "--fonts", "fonts",
    ];
    let run = world.run(&args, &[]);
    assert!(run.err.contains("no usable font"), "{run:#?}");
    run.ok();
}

#[test]
fn folders_that_cannot_be_written() {
    let world = World::new("folders_that_cannot_be_written");
    // Permissions do not hold root back, the kernel's own folders do.
    let closed = world.path("closed");
    fs::create_dir(&closed).unwrap();
    let mut permissions = fs::metadata(&closed).unwrap().permissions();
    permissions.set_readonly(true);
    fs::set_permissions(&closed, permissions).unwrap();
    let closed = if fs::write(closed.join("x"), "x").is_ok() {
        Path::new("/proc")
    } else {
        &closed
    };
    let out = closed.join("new").display().to_string();
    let text = "docs/data.json";
    let runs = [
        world.run(&["init", "--text", text, "--out", &out], &[]),
        world.run(&["data", "synth", "--out", &out, "-n", "2"], &[]),
        world.train(text, &out, &[]),
    ];
    for run in runs {
        assert!(matches!(run.code, Some(3 | 4)), "{run:#?}");
        let code = run.code.unwrap();
        run.fails(code, &[&out, "hint:"]);
    }
    // Reading needs no place to write.
    let mut command = world.command(&["ask", "--max-new-tokens", "2", "hi", "--model"], &[]);
    command.arg(world.path("model")).current_dir(closed);
    common::finish("ask".into(), command.spawn().unwrap()).ok();
}

#[test]
fn pipes_are_refused_and_never_waited_for() {
    let world = World::new("pipes");
    let pipe = |name: &str| {
        let _ = fs::remove_file(world.path(name));
        let made = std::process::Command::new("mkfifo")
            .arg(world.path(name))
            .status();
        assert!(made.unwrap().success());
    };
    pipe("pipe");
    let words = ["pipe", "not a regular file"];
    world.run(&["data", "stats", "pipe"], &[]).fails(3, &words);
    for flag in ["--text", "--tokenizer"] {
        world
            .run(&["init", flag, "pipe", "--out", "no"], &[])
            .fails(3, &words);
    }
    world.train("pipe", "run", &[]).fails(3, &words);
    world
        .run(&["train", "--dry-run", "--recipe", "pipe"], &[])
        .fails(3, &words);
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        world.copy_model("m");
        pipe(&format!("m/{name}"));
        world.ask("m", &world.picture()).fails(3, &["m"]);
        let model = ["--set", "model_name_or_path=m"];
        world
            .train("docs/data.json", "run", &model)
            .fails(3, &["m"]);
    }
    // Among labels: the picture has none.
    fs::create_dir_all(world.path("set/train/entities")).unwrap();
    fs::create_dir_all(world.path("set/train/img")).unwrap();
    fs::create_dir_all(world.path("set/train/box")).unwrap();
    pipe("set/train/entities/a.txt");
    fs::copy(
        world.path(&world.picture()),
        world.path("set/train/img/a.jpg"),
    )
    .unwrap();
    world
        .run(
            &["data", "import", "sroie", "set", "--out", "none.json"],
            &[],
        )
        .fails(3, &["no sample could be made"]);
    assert!(!world.path("none.json").exists());

    let mut records = world.records();
    pipe("docs/images/pipe.jpg");
    records[0]["image"] = "images/pipe.jpg".into();
    world.write_records("bad.json", &records);
    world
        .train("bad.json", "run", &[])
        .fails(3, &["pipe.jpg", "not a regular file"]);
}

#[test]
fn data_are_never_written_over_by_what_is_made_of_them() {
    let world = World::new("over");
    world.write_records("data.json", &world.records());
    world.write_records("listed.json.quarantine.jsonl", &world.records());
    fs::copy(world.path("docs/words.jsonl"), world.path("words.jsonl")).unwrap();
    let prefix = [
        "data",
        "prefix",
        "data.json",
        "--ocr",
        "sidecar:words.jsonl",
        "--force",
        "--out",
    ];
    let cases: [(&[&str], &str, &str); 5] = [
        (
            &["data", "doctor", "data.json", "--force", "--fix"],
            "./data.json",
            "the data",
        ),
        // The list of what is left out lies beside the copy.
        (
            &[
                "data",
                "doctor",
                "listed.json.quarantine.jsonl",
                "--force",
                "--fix",
            ],
            "listed.json",
            "the data",
        ),
        (
            &["data", "doctor", "listed.json.quarantine.jsonl", "--fix"],
            "listed.json",
            "exists already",
        ),
        (&prefix, "docs/../data.json", "the data"),
        (&prefix, "words.jsonl", "the text of the pictures"),
    ];
    let names = ["data.json", "listed.json.quarantine.jsonl", "words.jsonl"];
    let all = || names.map(|name| fs::read(world.path(name)).unwrap());
    let before = all();
    for (args, out, what) in cases {
        world.run(args, &[out]).fails(2, &[what]);
        assert!(all() == before, "{args:?} {out}");
    }
    // Into a folder that is not there yet.
    world
        .run(
            &["data", "doctor", "data.json"],
            &["--fix", "new/clean.json"],
        )
        .ok();
    assert!(world.path("new/clean.json").is_file());
    let most = u64::MAX.to_string();
    world
        .run(
            &["data", "synth", "--out", "set", "-n", "3", "--first", &most],
            &[],
        )
        .fails(2, &["--first", "no room"]);
}
