//! Data sets stay whole: where a later run ends early, and where an export meets what is no longer so.

use super::*;

/// The data set of the run and what was selected for it.
fn set(world: &World) -> Vec<Vec<u8>> {
    [
        "data/captions-train.json",
        "data/captions-test.json",
        "data/duos-train.json",
        "data/duos-test.json",
        "pictures.jsonl",
        "select/selected.json",
    ]
    .iter()
    .map(|name| fs::read(world.path("run").join(name)).unwrap_or_default())
    .collect()
}

/// Sends Ctrl-C as soon as the command is at work, and gives how it ended.
#[cfg(unix)]
fn interrupted(mut command: std::process::Command, is_at_work: impl Fn() -> bool) -> common::Run {
    let child = command.spawn().unwrap();
    for _ in 0..10_000 {
        if is_at_work() {
            break;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(is_at_work(), "nothing is done");
    let id = child.id().to_string();
    let sent = std::process::Command::new("kill")
        .args(["-INT", &id])
        .status();
    assert!(sent.unwrap().success());
    let run = common::finish("llavar instruct run".into(), child);
    assert_eq!(run.code, Some(130), "{run:#?}");
    run
}

#[test]
fn a_later_run_that_ends_early_keeps_the_set() {
    let world = with_pictures(World::new("instruct_early"), 12);
    // The first picture stays open, so every later run meets its end at once.
    let server = StubServer::start(|request| match request.text().contains("SHOP NUMBER 0") {
        true => Reply::error(418, "teapot"),
        false => Reply::Chat(answer(request)),
    })
    .unwrap();
    let run = |url: &str, more: &[&str]| {
        let base = [
            "--endpoint",
            url,
            "--concurrency=1",
            "--formats=json",
            "--price=1,1",
            "--select-model=model",
            "--select-fraction=0.5",
            "--device=cpu",
        ];
        world.command(&RUN, &[&base, more].concat())
    };
    let ended = |mut command: std::process::Command| {
        common::finish("llavar instruct run".into(), command.spawn().unwrap())
    };
    ended(run(&server.url(), &[])).ok();
    let whole = set(&world);
    let captions: Vec<Value> = whole[..2]
        .iter()
        .flat_map(|file| serde_json::from_slice::<Vec<Value>>(file).unwrap())
        .collect();
    assert_eq!(captions.len(), 11);
    assert!(!whole[5].is_empty(), "something was selected");
    // The one that failed is open then; nothing else of the set changes.
    let is_kept = || set(&world)[..4] == whole[..4] && set(&world)[5] == whole[5];

    let refusing = StubServer::scripted(vec![], Reply::error(401, "wrong key")).unwrap();
    let refused = ended(run(&refusing.url(), &[])).fails(1, &["refuses the key", "11 captions"]);
    assert!(is_kept(), "{refused:#?}");

    let broke = ended(run(&server.url(), &["--budget=0.001"]));
    assert!(
        broke.err.contains("the budget does not cover"),
        "{broke:#?}"
    );
    assert!(is_kept(), "{broke:#?}");
    assert!(broke.ok().contains("11 captions"));

    #[cfg(unix)]
    {
        let silent = StubServer::scripted(vec![], Reply::Hang(Duration::from_secs(2))).unwrap();
        let command = run(&silent.url(), &[]);
        let stopped = interrupted(command, || !silent.requests().is_empty());
        assert!(stopped.err.contains("11 captions"), "{stopped:#?}");
        assert!(is_kept(), "{stopped:#?}");
    }
}

#[test]
fn a_narrower_run_and_one_without_answers_leave_the_set_and_how_it_was_made() {
    let world = world("instruct_narrower", 5);
    let more = ["--formats", "json", "--ocr", "sidecar"];
    world.run(&TEMPLATE, &more).ok();
    let made = || (set(&world), fs::read(world.path("run/run.json")).unwrap());
    let whole = made();
    let narrower = [&more[..], &["--limit", "1"]].concat();
    let left = "4 of its pictures would have dropped out";
    world.run(&TEMPLATE, &narrower).fails(2, &[left, "--out"]);
    assert!(made() == whole);
    let server = StubServer::start(|_| Reply::error(401, "no such key")).unwrap();
    let url = server.url();
    world
        .run(&RUN, &["--formats", "json", "--endpoint", &url])
        .fails(1, &["5 of its pictures would have dropped out", "401"]);
    assert!(made() == whole);
    // A picture that is gone may drop out.
    fs::remove_file(picture(&world)).unwrap();
    world.run(&TEMPLATE, &more).ok();
    assert!(made() != whole);
}

/// A picture of the set.
fn picture(world: &World) -> std::path::PathBuf {
    let mut all = fs::read_dir(world.path("images")).unwrap().flatten();
    let is_picture = |path: &std::path::PathBuf| path.extension().is_some_and(|end| end == "png");
    all.find_map(|entry| Some(entry.path()).filter(is_picture))
        .unwrap()
}

#[cfg(unix)]
#[test]
fn without_a_model_ctrl_c_leaves_the_larger_set() {
    use std::os::unix::fs::PermissionsExt;
    let world = world("instruct_template_stop", 12);
    let more = |ocr| ["--formats", "json", "--ocr", ocr];
    world.run(&TEMPLATE, &more("sidecar")).ok();
    let whole = set(&world);
    let program = world.path("engine");
    let at_work = world.path("at work");
    let text = format!(
        "#!/bin/sh\n[ \"$1\" = --version ] && exec echo fake 1\ncat > /dev/null; touch '{}'; exec sleep 0.3\n",
        at_work.display()
    );
    fs::write(&program, text).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = world.command(&TEMPLATE, &more("tesseract"));
    command
        .env("LLAVAR_TESSERACT", &program)
        .env("LLAVAR_CACHE", world.path("cache"));
    let stopped = interrupted(command, || at_work.exists());
    assert!(stopped.err.contains("left as it was"), "{stopped:#?}");
    assert_eq!(set(&world), whole);
}

#[test]
fn an_export_leaves_one_state_and_nothing_that_was_turned_down() {
    let world = world("instruct_one_state", 4);
    let more = ["--ocr", "sidecar", "--test-fraction", "0"];
    world.run(&TEMPLATE, &more).ok();
    let files = || -> Vec<Vec<u8>> {
        [
            "data/duos-train.json",
            "parquet/duos-train.parquet",
            "webdataset/duos-train-000000.tar",
            "card.json",
            "README.md",
        ]
        .iter()
        .map(|name| fs::read(world.path("run").join(name)).unwrap())
        .collect()
    };
    let before = files();

    let pictures = llavar_instruct::read_pictures(&world.path("run")).unwrap();
    let picture = pictures.iter().find(|one| !one.duos.is_empty()).unwrap();
    let verdict = serde_json::from_value(json!({
        "time": 1, "duo": picture.duos[0].id(&picture.hash), "reviewer": "ann", "verdict": "reject",
        "edited": null, "note": "",
    }));
    Journal::open(&world.path("run"))
        .unwrap()
        .append(Entry::Review(verdict.unwrap()))
        .unwrap();

    // A picture that is gone stops it before anything is written, where pictures are embedded.
    let gone = pictures.iter().rfind(|one| !one.duos.is_empty()).unwrap();
    assert_ne!(gone.name, picture.name);
    let (here, away) = (world.path("images").join(&gone.name), world.path("away"));
    let export = |formats| world.run(&["instruct", "export", "run", "--formats", formats], &[]);
    fs::rename(&here, &away).unwrap();
    for formats in ["json,parquet", "webdataset"] {
        export(formats).fails(3, &[&gone.name]);
        assert!(files() == before, "{formats}");
    }
    fs::rename(&away, &here).unwrap();

    // All forms are known before one is written or removed.
    for (formats, word) in [
        ("json,feather", "`feather` is no form"),
        ("", "a form is missing"),
        ("json,", "a form is missing"),
    ] {
        export(formats).fails(2, &[word, "json,parquet,webdataset"]);
        assert!(files() == before, "{formats}");
    }

    // Forms that are not named do not stay behind with what a reviewer turned down; other files do.
    let note = world.path("run/webdataset/note.txt");
    fs::write(&note, "mine").unwrap();
    let text = export("json").err;
    assert!(text.contains("parquet/ is removed"), "{text}");
    assert!(!world.path("run/parquet").exists());
    let left = fs::read_dir(world.path("run/webdataset")).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().path()).collect();
    assert_eq!(left, [note]);
    assert_ne!(
        fs::read(world.path("run/data/duos-train.json")).unwrap(),
        before[0]
    );
}
