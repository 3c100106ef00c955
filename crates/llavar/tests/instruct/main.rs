//! `llavar instruct` as a user runs it: against a server that counts, killed at random moments, offline.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../common/mod.rs"]
mod common;
mod whole;

use std::{collections::HashSet, fs, time::Duration};

use common::World;
use llavar_client::testing::{Reply, StubRequest, StubServer};
use llavar_image::{RgbImage, encode_png};
use llavar_instruct::{Entry, Journal, Ledger};
use serde_json::{Value, json};

/// A run without a model.
const TEMPLATE: [&str; 8] = [
    "instruct",
    "run",
    "--images",
    "images",
    "--out",
    "run",
    "--endpoint",
    "template",
];

/// Pictures with OCR beside them and a file of captions for half of them.
fn world(name: &str, count: usize) -> World {
    with_pictures(World::empty(name), count)
}

fn with_pictures(world: World, count: usize) -> World {
    let images = world.path("images");
    fs::create_dir_all(&images).unwrap();
    let mut captions = String::from("image,caption\n");
    for i in 0..count {
        let picture = RgbImage::filled(90, 120, [i as u8, 90, 40]);
        fs::write(
            images.join(format!("{i}.png")),
            encode_png(&picture).unwrap(),
        )
        .unwrap();
        let lines = json!([
            {"box": [5, 5, 80, 25], "text": format!("SHOP NUMBER {i}")},
            {"box": [5, 60, 80, 70], "text": format!("Phone: 555-{i:04}")},
            {"box": [5, 90, 80, 100], "text": format!("TOTAL {i}.50")},
        ]);
        fs::write(images.join(format!("{i}.png.ocr.json")), lines.to_string()).unwrap();
        if i % 2 == 0 {
            captions += &format!("{i}.png,\"A crumpled receipt, of shop {i}.\"\n");
        }
    }
    fs::write(world.path("captions.csv"), captions).unwrap();
    world
}

fn answer(request: &StubRequest) -> String {
    let text = request.text();
    let at = text.rfind("SHOP NUMBER ").unwrap() + "SHOP NUMBER ".len();
    let i: String = text[at..]
        .chars()
        .take_while(char::is_ascii_digit)
        .collect();
    if text.contains("You describe images") {
        return json!({"caption": format!(
            "A receipt shows \"SHOP NUMBER {i}\" at the top and the amount \"TOTAL {i}.50\" at the bottom of it.")})
        .to_string();
    }
    json!({"duos": [{
        "extractive_question": "What is the total on the receipt?",
        "extractive_answer": format!("The total is {i}.50."),
        "self_explain_question": "Which text in the image supports this, and where is it?",
        "self_explain_answer": format!("The text \"TOTAL {i}.50\" at the bottom supports it."),
    }]})
    .to_string()
}

const RUN: [&str; 13] = [
    "instruct",
    "run",
    "--images",
    "images",
    "--captions",
    "captions.csv",
    "--ocr",
    "sidecar",
    "--model",
    "m",
    "--out",
    "run",
    "--duos=1",
];

fn ledger(world: &World) -> (Ledger, Vec<Entry>) {
    let entries = Journal::open_to_read(&world.path("run")).unwrap().entries();
    (Ledger::of(&entries), entries)
}

/// Random enough, and another in every run.
fn random(below: u64) -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish() % below
}

fn killed_until_done(name: &str, server: &StubServer, pictures: usize) -> (World, u64) {
    let world = world(name, pictures);
    let url = server.url();
    let more = [
        "--endpoint",
        &url,
        "--price",
        "1,2",
        "--concurrency",
        "6",
        "--formats",
        "json",
    ];
    let mut kills = 0;
    // Killed after every few answers; the last run is left alone.
    while kills < 12 {
        let wanted = server.charged().len() + random(6) as usize;
        let mut child = world.command(&RUN, &more).spawn().unwrap();
        let mut ended = false;
        for _ in 0..20_000 {
            ended = child.try_wait().unwrap().is_some();
            if ended || server.charged().len() > wanted {
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        std::thread::sleep(Duration::from_micros(random(15_000)));
        let _ = child.kill();
        let _ = child.wait();
        kills += 1;
        if ended {
            break;
        }
    }
    world.run(&RUN, &more).ok();
    (world, kills)
}

#[test]
fn killed_at_random_moments_no_answer_is_lost_and_the_ledger_is_right() {
    // A server that knows idempotency keys: what it charged and what the ledger says are equal.
    let server = StubServer::idempotent(|request| {
        Reply::After(Duration::from_millis(random(20)), answer(request))
    })
    .unwrap();
    let (world, kills) = killed_until_done("instruct_kill", &server, 30);
    assert!(kills > 2, "the test killed nothing");
    let (ledger, entries) = ledger(&world);
    let total = server.total();
    assert_eq!(
        ledger.tokens(),
        (total.prompt_tokens, total.completion_tokens)
    );
    assert_eq!(
        server.charged().len(),
        60,
        "every question was paid for once"
    );
    let answers = entries
        .iter()
        .filter(|e| matches!(e, Entry::Answer(_)))
        .count();
    assert_eq!(answers, 60);
    let set: Value =
        serde_json::from_slice(&fs::read(world.path("run/data/duos-train.json")).unwrap()).unwrap();
    let test: Value =
        serde_json::from_slice(&fs::read(world.path("run/data/duos-test.json")).unwrap()).unwrap();
    assert_eq!(
        set.as_array().unwrap().len() + test.as_array().unwrap().len(),
        30
    );
}

#[test]
fn with_a_plain_server_every_charge_is_in_the_journal_as_answer_or_as_doubt() {
    let server = StubServer::start(|request| {
        Reply::After(Duration::from_millis(random(20)), answer(request))
    })
    .unwrap();
    let (world, _) = killed_until_done("instruct_kill_plain", &server, 30);
    let (ledger, entries) = ledger(&world);
    let mut answered: Vec<String> = Vec::new();
    let mut sent = HashSet::new();
    for entry in &entries {
        match entry {
            Entry::Answer(answer) => answered.push(format!("llavar-{}", answer.key)),
            Entry::Sent { key, .. } => {
                sent.insert(format!("llavar-{key}"));
            }
            _ => {}
        }
    }
    let once: HashSet<_> = answered.iter().collect();
    assert_eq!((answered.len(), once.len()), (60, 60), "no answer twice");
    // Nothing was charged that the journal did not know of before it was sent.
    let charged = server.charged();
    for one in &charged {
        assert!(sent.contains(one.idempotency_key.as_ref().unwrap()));
    }
    let in_doubt: u64 = ledger.rows.iter().map(|row| row.in_doubt).sum();
    let extra = charged.len() - answered.len();
    assert!(
        extra as u64 <= in_doubt,
        "{extra} charges beyond the answers, {in_doubt} in doubt"
    );
    // After an answer was written it was never asked for again.
    let requests = server.requests();
    assert!(
        requests.len() <= 60 + in_doubt as usize,
        "{} requests",
        requests.len()
    );
}

#[test]
fn replay_dry_run_and_the_key() {
    let world = world("instruct_replay", 6);
    let server = StubServer::start(|request| match request.authorization.as_deref() {
        Some("Bearer sk-very-secret") => Reply::Chat(answer(request)),
        other => Reply::error(401, &format!("bad key {}", other.unwrap_or_default())),
    })
    .unwrap();
    let url = server.url();
    let keyed = |key: &str, more: &[&str]| {
        let mut args = vec!["--endpoint", &url, "--key-var", "TEST_KEY"];
        args.extend(more);
        let mut command = world.command(&RUN, &args);
        command.env("TEST_KEY", key);
        let child = command.spawn().unwrap();
        common::finish("llavar instruct run".into(), child)
    };
    let dry = keyed("sk-very-secret", &["--dry-run", "--price", "1,2", "--json"]).json();
    assert_eq!(
        (&dry["pictures"], &dry["requests"]),
        (&json!(6), &json!(12))
    );
    assert!(dry["usd"].as_f64().unwrap() > 0.0 && !world.path("run").exists());
    assert!(server.requests().is_empty());

    keyed("sk-wrong-key", &[]).fails(1, &["refuses the key", "--key-var"]);
    let report = keyed("sk-very-secret", &["--json"]).json();
    assert_eq!(report["card"]["duos_accepted"], 6);
    let made = fs::read(world.path("run/pictures.jsonl")).unwrap();
    drop(server);
    // The server is gone; the journal is enough, and the same is made.
    let replayed = keyed("", &["--replay", "--json"]).json();
    assert_eq!(replayed["card"]["duos_accepted"], 6);
    assert_eq!(fs::read(world.path("run/pictures.jsonl")).unwrap(), made);
    for entry in fs::read_dir(world.path("run")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let text = fs::read_to_string(&path).unwrap();
            assert!(!text.contains("sk-"), "{} holds a key", path.display());
        }
    }
    world
        .run(&["instruct", "export", "run", "--formats", "json"], &[])
        .ok();
}

#[test]
fn without_a_model() {
    let world = world("instruct_template", 8);
    let more = ["--endpoint", "template", "--json"];
    let run: Vec<&str> = RUN
        .iter()
        .copied()
        .filter(|a| *a != "--model" && *a != "m")
        .collect();
    let report = world.run(&run, &more).json();
    assert_eq!(report["card"]["duos_accepted"], 8);
    let text = fs::read_to_string(world.path("run/pictures.jsonl")).unwrap();
    assert!(
        text.contains("For \\\"Phone\\\" the image gives \\\"555-0003\\\"."),
        "{text}"
    );
    // What it made is data for the other commands.
    world
        .run(&["data", "stats", "run/data/duos-train.json"], &[])
        .ok();
    // A run is read from anywhere, its pictures too, and no path of this machine is in what it says of itself.
    let elsewhere = world.path("somewhere/else");
    // Another folder of that name is none of the run's.
    fs::create_dir_all(elsewhere.join("images")).unwrap();
    let mut export = world.command(
        &["instruct", "export", "../../run", "--formats", "webdataset"],
        &[],
    );
    let done = export.current_dir(&elsewhere).output().unwrap();
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    let made = fs::read_to_string(world.path("run/run.json")).unwrap();
    assert!(
        made.contains("\"images_from_run\": \"../images\""),
        "{made}"
    );
    assert!(
        !made.contains(&world.path("").display().to_string()),
        "{made}"
    );
}

#[test]
fn text_is_read_by_what_is_there_and_a_broken_picture_is_told() {
    let world = world("instruct_auto", 3);
    let first = world.run(&TEMPLATE, &["--json"]);
    assert!(
        first.err.contains("text is read by: sidecar"),
        "{}",
        first.err
    );
    let first = first.json();
    assert_eq!(first["card"]["run"]["ocr"], "sidecar");
    // The run goes on with its engine, though one picture has nothing beside it.
    fs::write(world.path("images/broken.jpg"), "no picture").unwrap();
    let png = fs::read(world.path("images/0.png")).unwrap();
    fs::write(world.path("images/cut.png"), &png[..png.len() / 2]).unwrap();
    let again = world.run(&TEMPLATE, &["--json"]);
    for told in ["not used: broken.jpg: ", "not used: cut.png: "] {
        assert!(again.err.contains(told), "{}", again.err);
    }
    let again = again.json();
    assert_eq!(again["card"]["run"]["ocr"], "sidecar");
    assert_eq!(again["card"]["pictures"], json!({"done": 3, "unusable": 2}));
    assert_eq!(again["card"]["splits"], first["card"]["splits"]);
}

#[test]
fn tokens_that_the_server_does_not_count_are_told_as_estimates() {
    let world = world("instruct_uncounted", 2);
    let server = StubServer::start(|request| {
        let message = json!({"role": "assistant", "content": answer(request)});
        Reply::Json(json!({"choices": [{"index": 0, "finish_reason": "stop", "message": message}]}))
    })
    .unwrap();
    let told = world.run(&RUN, &["--endpoint", &server.url()]).ok();
    assert_eq!(
        told.matches("; the tokens of 2 are estimated").count(),
        2,
        "{told}"
    );
    let card = fs::read_to_string(world.path("run/README.md")).unwrap();
    assert!(
        card.contains("the tokens of 4 answers: they are estimated"),
        "{card}"
    );
}

#[test]
fn selection_is_the_last_filter() {
    let world = with_pictures(World::new("instruct_select"), 6);
    let args = [
        "instruct", "run", "--images", "images", "--ocr", "sidecar", "--out", "run",
    ];
    let more = [
        "--endpoint",
        "template",
        "--duos",
        "2",
        "--formats",
        "json",
        "--json",
    ];
    let duos = |run: &Value| -> u64 {
        let splits = run["splits"].as_object().unwrap().values();
        splits.map(|split| split["duos"].as_u64().unwrap()).sum()
    };
    let all = world.run(&args, &more).json();
    let select: Vec<&str> = more
        .iter()
        .copied()
        .chain([
            "--select-model",
            "model",
            "--device",
            "cpu",
            "--select-fraction",
            "0.5",
        ])
        .collect();
    let report = world.run(&args, &select).json();
    let selection = report["card"]["selection"].as_object().unwrap();
    let scored: u64 = selection.values().map(|n| n.as_u64().unwrap()).sum();
    assert_eq!(scored, duos(&all["card"]), "{selection:?}");
    let kept = selection["kept"].as_u64().unwrap();
    assert_eq!(duos(&report["card"]), kept);
    assert!(kept < scored, "half of the pairs at most: {selection:?}");
    // What was selected stays selected when the set is written again.
    let again = world
        .run(&["instruct", "export", "run", "--json"], &[])
        .json();
    assert_eq!(duos(&again), kept);
    // Without selection all are back.
    let back = world.run(&args, &more).json();
    assert_eq!(duos(&back["card"]), scored);
}

#[test]
fn wrong_command_lines_are_told() {
    let world = world("instruct_usage", 1);
    let run = |more: &[&str]| {
        let base = ["instruct", "run", "--images", "images", "--out", "run"];
        world.run(&base, more)
    };
    run(&[
        "--endpoint",
        "localhost:1",
        "--model",
        "m",
        "--captions",
        "captions.csv",
    ])
    .fails(2, &["http://"]);
    run(&["--endpoint", "http://localhost:1", "--ocr", "sidecar"]).fails(2, &["--model"]);
    let none = [
        "--endpoint",
        "http://localhost:1",
        "--model",
        "m",
        "--ocr",
        "none",
    ];
    run(&none).fails(2, &["--ocr"]);
    let nan = ["--endpoint", "template", "--temperature", "nan"];
    run(&nan).fails(2, &["--temperature NaN"]);
    run(&["--endpoint", "template", "--dry-run"]).fails(2, &["--dry-run"]);
    run(&["--endpoint", "template", "--language", "de"]).fails(2, &["English"]);
    assert!(!world.path("run").exists(), "nothing was written");
    run(&["--endpoint", "template", "--ocr", "sidecar:none.json"]).fails(3, &["none.json"]);
    fs::write(world.path("bad.csv"), "a,b\n1,2\n").unwrap();
    run(&[
        "--endpoint",
        "http://localhost:1",
        "--model",
        "m",
        "--captions",
        "bad.csv",
    ])
    .fails(3, &["bad.csv", "column"]);
    let refused = StubServer::scripted(vec![], Reply::error(418, "teapot")).unwrap();
    run(&[
        "--endpoint",
        &refused.url(),
        "--model",
        "m",
        "--ocr",
        "sidecar",
    ])
    .fails(1, &["1 pictures got no answer", "teapot"]);
    world
        .run(&["instruct", "export", "none"], &[])
        .fails(2, &["no run folder"]);
}
