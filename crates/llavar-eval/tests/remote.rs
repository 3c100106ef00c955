//! A remote model and a judge behind a server that fails by script.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use llavar_client::{
    Client, ClientOptions, ErrorClass, RetryPolicy,
    testing::{Reply, StubRequest, StubServer},
};
use llavar_eval::judge::{Judge, JudgeKind, JudgeSettings, JudgedRun, Verdict, read_judged};
use llavar_eval::results::{
    DecodeSettings, OcrMode, PromptSettings, RunSettings, SAMPLES_FILE, ScoredRow,
};
use llavar_eval::run::{
    AnswerError, Answerer, Asked, Column, DataSource, PromptFormat, RemoteModel, RunError,
};
use llavar_eval::samples::{SampleRow, Shard};
use llavar_eval::score::ScoreOptions;
use llavar_eval::tasks::Task;
use llavar_image::{RgbImage, encode_png};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

const QUESTIONS: usize = 24;

/// A ChartQA folder of six pictures and 24 questions; the answer to question N is N.
fn task(root: &Path) -> Task {
    let data = root.join("ChartQA Dataset/test");
    fs::create_dir_all(data.join("png")).unwrap();
    for picture in 0..6u8 {
        let image = RgbImage::filled(40, 30, [40 * picture, 30, 30]);
        fs::write(
            data.join(format!("png/{picture}.png")),
            encode_png(&image).unwrap(),
        )
        .unwrap();
    }
    let questions: Vec<serde_json::Value> = (0..QUESTIONS)
        .map(|i| serde_json::json!({"imgname": format!("{}.png", i % 6), "query": format!("say {i}?"), "label": i.to_string()}))
        .collect();
    fs::write(
        data.join("test_human.json"),
        serde_json::to_string(&questions).unwrap(),
    )
    .unwrap();
    fs::write(data.join("test_augmented.json"), "[]").unwrap();
    Task::open("chartqa", data.parent().unwrap()).unwrap()
}

fn decode() -> DecodeSettings {
    DecodeSettings {
        temperature: 0.0,
        top_p: None,
        top_k: None,
        num_beams: 1,
        repetition_penalty: 1.0,
        max_new_tokens: 16,
        seed: 0,
        closer: false,
    }
}

fn client(server: &StubServer, attempts: u32) -> Client {
    let mut options = ClientOptions::new(server.endpoint().unwrap());
    options.retries = RetryPolicy {
        attempts,
        base: Duration::from_millis(1),
        cap: Duration::from_millis(5),
        overall: Duration::from_secs(600),
    };
    options.time_outs.answer = Duration::from_secs(3);
    Client::new(options).unwrap()
}

fn column<'a>(task: &'a Task, model: &RemoteModel<'_>, folder: &Path) -> Column<'a> {
    let format = PromptFormat::with_suffix(task, None);
    Column {
        settings: RunSettings {
            task: task.name.clone(),
            split: task.split.clone(),
            model: model.info(),
            prompt: PromptSettings {
                format: format.as_str().to_owned(),
                ocr: OcrMode::Off,
                ocr_lines: None,
                hash: format.hash(task),
            },
            decode: decode(),
        },
        task,
        format,
        prefix: None,
        source: DataSource::default(),
        folder: folder.to_path_buf(),
        shard: Shard::default(),
    }
}

/// What is asked for: the number after `say`.
fn number(request: &StubRequest) -> usize {
    let text = request.text();
    let said = text
        .split("say ")
        .nth(1)
        .unwrap_or_else(|| panic!("{text}"));
    said.split('?').next().unwrap().parse().unwrap()
}

fn rows(folder: &Path) -> Vec<SampleRow> {
    let text = fs::read_to_string(folder.join(SAMPLES_FILE)).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn ask(task: &Task, server: &StubServer, attempts: u32, folder: &Path) -> Result<Asked, RunError> {
    let client = client(server, attempts);
    let mut model = RemoteModel::new(&client, "m", 4);
    column(task, &model, folder).ask_all(&mut model, &AtomicBool::new(false), &mut |_| {})
}

#[test]
fn every_fault_is_tried_again_and_every_question_answered_once() {
    let root = tempfile::tempdir().unwrap();
    let task = task(root.path());
    let fails = AtomicUsize::new(0);
    let server = StubServer::start(move |request| {
        let n = number(request);
        assert_eq!(request.images(), 1, "the picture is sent");
        // The first try of five in six fails, each in its way.
        let first = fails.fetch_add(1, SeqCst) < QUESTIONS;
        match n % 6 {
            0 if first => Reply::rate_limit("0"),
            1 if first => Reply::error(500, "out of order"),
            2 if first => Reply::CutBody(n.to_string()),
            3 if first && n == 3 => Reply::Hang(Duration::from_secs(60)),
            4 if first => Reply::Raw(b"nonsense\r\n\r\n".to_vec()),
            _ => Reply::Chat(n.to_string()),
        }
    })
    .unwrap();
    let folder = root.path().join("run/chartqa_test");
    let asked = ask(&task, &server, 40, &folder).unwrap();
    assert_eq!(
        (asked.rows.len(), asked.errors.len()),
        (QUESTIONS, 0),
        "{:?}",
        asked.errors
    );
    assert!(server.most_at_once() <= 4);
    for row in &asked.rows {
        assert_eq!(row.text, row.gt[0], "{row:?}");
    }
    let client = client(&server, 1);
    let model = RemoteModel::new(&client, "m", 1);
    let options = ScoreOptions::default();
    let (result, scored) = column(&task, &model, &folder)
        .finish(&asked.rows, &asked.errors, &options)
        .unwrap();
    assert_eq!(result.metrics[1].overall.value, 1.0, "relaxed accuracy");
    assert_eq!(
        result.settings.unwrap().model.endpoint,
        Some(server.endpoint().unwrap().to_string())
    );
    assert!(scored.iter().all(|row| row.answered));
}

#[test]
fn a_run_stopped_and_torn_again_and_again_has_every_row_once() {
    let root = tempfile::tempdir().unwrap();
    let task = task(root.path());
    let server = StubServer::start(|request| Reply::Chat(number(request).to_string())).unwrap();
    let folder = root.path().join("chartqa_test");
    let client = client(&server, 3);
    let mut rounds = 0;
    loop {
        rounds += 1;
        assert!(rounds < 100, "it gets on");
        let mut model = RemoteModel::new(&client, "m", 3);
        let column = column(&task, &model, &folder);
        let stop = AtomicBool::new(false);
        // The file is seen after each batch only; a stop set in between acts at once.
        let asked = std::thread::scope(|scope| {
            scope.spawn(|| {
                let before = fs::metadata(folder.join(SAMPLES_FILE)).map_or(0, |m| m.len());
                for _ in 0..2000 {
                    if fs::metadata(folder.join(SAMPLES_FILE)).map_or(0, |m| m.len()) > before {
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(1));
                }
                stop.store(true, SeqCst);
            });
            column.ask_all(&mut model, &stop, &mut |_| {}).unwrap()
        });
        if !asked.stopped {
            break;
        }
        // What a kill in the middle of a write leaves.
        let path = folder.join(SAMPLES_FILE);
        if let Ok(mut bytes) = fs::read(&path) {
            bytes.truncate(bytes.len().saturating_sub(11));
            fs::write(&path, bytes).unwrap();
        }
    }
    let rows = rows(&folder);
    let ids: std::collections::BTreeSet<_> =
        rows.iter().map(|row| row.question_id.clone()).collect();
    assert_eq!((rows.len(), ids.len()), (QUESTIONS, QUESTIONS));
    assert!(rows.iter().all(|row| row.text == row.gt[0]));
}

#[test]
fn what_every_question_would_meet_ends_the_run_and_keeps_what_is_there() {
    let root = tempfile::tempdir().unwrap();
    let task = task(root.path());
    let seen = Arc::new(AtomicUsize::new(0));
    let count = seen.clone();
    let server = StubServer::start(move |request| match count.fetch_add(1, SeqCst) {
        0..=5 => Reply::Chat(number(request).to_string()),
        _ => Reply::error(401, "who are you?"),
    })
    .unwrap();
    let folder = root.path().join("a/chartqa_test");
    let error = ask(&task, &server, 3, &folder).unwrap_err();
    assert!(
        matches!(&error, RunError::Answer(AnswerError::Server(e)) if e.class() == ErrorClass::Auth),
        "{error}"
    );
    assert_eq!(rows(&folder).len(), 6);

    // A dead server: not every question waits for all its retries.
    let server = StubServer::start(|_| Reply::error(500, "dead")).unwrap();
    let folder = root.path().join("b/chartqa_test");
    let error = ask(&task, &server, 2, &folder).unwrap_err();
    assert!(
        matches!(&error, RunError::Answer(AnswerError::Server(e)) if e.class() == ErrorClass::Server),
        "{error}"
    );
    assert!(
        server.requests().len() < 2 * QUESTIONS,
        "{}",
        server.requests().len()
    );

    // One question that the server refuses is one error; the others are answered.
    let server = StubServer::start(|request| match number(request) {
        7 => Reply::error(400, "this picture is too odd"),
        n => Reply::Chat(n.to_string()),
    })
    .unwrap();
    let folder = root.path().join("c/chartqa_test");
    let asked = ask(&task, &server, 2, &folder).unwrap();
    assert_eq!((asked.rows.len(), asked.errors.len()), (QUESTIONS - 1, 1));
    assert!(
        asked.errors[0]
            .error
            .as_deref()
            .unwrap()
            .contains("too odd")
    );
    // The next run asks that one alone.
    let server = StubServer::start(|request| Reply::Chat(number(request).to_string())).unwrap();
    let again = ask(&task, &server, 2, &folder);
    assert!(again.is_err(), "another endpoint is another run");
}

#[test]
fn settings_that_servers_do_not_have_are_refused_by_name() {
    let server = StubServer::start(|_| Reply::Chat("x".into())).unwrap();
    let client = client(&server, 1);
    let model = RemoteModel::new(&client, "m", 1);
    let beams = DecodeSettings {
        num_beams: 4,
        ..decode()
    };
    assert!(
        model
            .check(&beams)
            .unwrap_err()
            .to_string()
            .contains("beams")
    );
    let closer = DecodeSettings {
        closer: true,
        ..decode()
    };
    let refused = model.check(&closer).unwrap_err().to_string();
    assert!(refused.contains("a closer look"), "{refused}");
    assert!(model.check(&decode()).is_ok());
}

fn scored(text: &str, i: usize) -> ScoredRow {
    let sample = serde_json::json!({"question_id": i, "prompt": format!("say {i}?"), "text": text,
        "gt": [format!("gold {i}")], "task": "captions", "image": format!("{}.png", i / 2)});
    ScoredRow {
        sample: serde_json::from_value(sample).unwrap(),
        answered: !text.is_empty(),
        image_path: None,
        scores: BTreeMap::new(),
    }
}

fn settings(kind: JudgeKind, model: &RemoteModel<'_>) -> JudgeSettings {
    let run = |name: &str| JudgedRun {
        name: name.into(),
        model_id: None,
        run: None,
    };
    JudgeSettings {
        task: "captions".into(),
        split: "test".into(),
        kind,
        judge: model.info(),
        prompt: kind.prompt(),
        picture: true,
        decode: decode(),
        a: run("first"),
        b: (kind == JudgeKind::Pair).then(|| run("second")),
    }
}

#[test]
fn pairs_are_judged_in_both_orders_and_a_biased_judge_is_found_out() {
    let root = tempfile::tempdir().unwrap();
    // Questions 0..4: the judge knows better (A), 4..6: (B), 6..10: always the first, 10: nothing said.
    let server = StubServer::start(|request| {
        let text = request.text();
        let n = number(request);
        let a_first = text.find("of A") < text.find("of B");
        let verdict = match n {
            0..4 => {
                if a_first {
                    "A"
                } else {
                    "B"
                }
            }
            4..6 => {
                if a_first {
                    "B"
                } else {
                    "A"
                }
            }
            6..10 => "A",
            _ => "neither, I think",
        };
        Reply::Chat(format!("Because.\nVerdict: {verdict}"))
    })
    .unwrap();
    let a: Vec<ScoredRow> = (0..12).map(|i| scored(&format!("of A {i}"), i)).collect();
    let mut b: Vec<ScoredRow> = (0..12).map(|i| scored(&format!("of B {i}"), i)).collect();
    b[11] = scored("", 11);
    let client = client(&server, 2);
    let mut model = RemoteModel::new(&client, "judge-7b", 3);
    let judge = Judge {
        settings: settings(JudgeKind::Pair, &model),
        a: &a,
        b: Some(&b),
        column: root.path(),
    };
    let run = judge
        .run(&mut model, &AtomicBool::new(false), &mut |_| {})
        .unwrap();
    let pairs = run.result.pairs.clone().unwrap();
    assert_eq!(
        (
            pairs.a_better,
            pairs.b_better,
            pairs.ties,
            pairs.disagreements
        ),
        (4, 2, 0, 4)
    );
    let counts = run.result.counts;
    assert_eq!(
        (
            counts.questions,
            counts.unanswered,
            counts.judged,
            counts.unreadable
        ),
        (12, 1, 10, 1)
    );
    // 20 verdicts that choose: 8 of the disagreements for the first, half of the 12 others.
    assert_eq!(pairs.first_preferred, Some(14.0 / 20.0));
    let comparison = pairs.comparison.unwrap();
    assert!(
        (comparison.difference + 0.2).abs() < 1e-12,
        "{comparison:?}"
    );
    assert_eq!(run.result.label, "judge:judge-7b:pair.v1");
    assert_eq!(server.requests().len(), 22);

    // The journal has it all: nothing is asked again, and the result is the same.
    let again = judge
        .run(&mut model, &AtomicBool::new(false), &mut |_| {})
        .unwrap();
    assert_eq!((again.view.resumed, server.requests().len()), (22, 22));
    assert_eq!(again.result, run.result);
    let read = read_judged(root.path()).unwrap();
    assert_eq!(read[0].0, run.result);
    assert_eq!(read[0].1[6].verdict, Verdict::Disagreement);

    // An answer that changed is judged anew, in both orders; the others are not.
    let mut changed = a.clone();
    changed[0] = scored("of A, better", 0);
    let judge = Judge {
        settings: settings(JudgeKind::Pair, &model),
        a: &changed,
        b: Some(&b),
        column: root.path(),
    };
    judge
        .run(&mut model, &AtomicBool::new(false), &mut |_| {})
        .unwrap();
    assert_eq!(server.requests().len(), 24);
}

#[test]
fn points_go_on_after_a_stop_and_say_what_is_left() {
    let root = tempfile::tempdir().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let (count, flag) = (AtomicUsize::new(0), stop.clone());
    let server = StubServer::start(move |request| {
        if count.fetch_add(1, SeqCst) == 3 {
            flag.store(true, SeqCst);
        }
        Reply::Chat(format!("Score: {}", 1 + number(request) % 10))
    })
    .unwrap();
    let rows: Vec<ScoredRow> = (0..20).map(|i| scored("an answer", i)).collect();
    let client = client(&server, 2);
    let mut model = RemoteModel::new(&client, "j", 1);
    let judge = Judge {
        settings: settings(JudgeKind::Grade, &model),
        a: &rows,
        b: None,
        column: root.path(),
    };
    let run = judge.run(&mut model, &stop, &mut |_| {}).unwrap();
    assert!(
        run.result.counts.left > 0 && run.result.counts.judged >= 3,
        "{:?}",
        run.result.counts
    );
    assert!(run.result.line().contains("still to be asked"));
    stop.store(false, SeqCst);
    let run = judge.run(&mut model, &stop, &mut |_| {}).unwrap();
    assert_eq!((run.result.counts.left, run.result.counts.judged), (0, 20));
    let points = run.result.points.unwrap();
    assert_eq!((points.value, points.n, points.images), (5.5, 20, 10));
    assert_eq!(server.requests().len(), 20, "each question once");

    let none: Vec<ScoredRow> = (0..3).map(|i| scored("", i)).collect();
    let judge = Judge {
        settings: settings(JudgeKind::Grade, &model),
        a: &none,
        b: None,
        column: root.path(),
    };
    let error = judge.run(&mut model, &stop, &mut |_| {}).unwrap_err();
    assert!(
        error.to_string().contains("none of the 3 questions"),
        "{error}"
    );
}
