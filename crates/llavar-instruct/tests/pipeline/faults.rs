//! Servers that fail.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    time::Duration,
};

use llavar_client::testing::{Reply, StubServer};
use llavar_instruct::{PictureResult, State, Stop};
use serde_json::json;

use crate::{answers, caption, folder, make, make_until, shop, well};

#[test]
fn every_fault_of_a_server_ends_in_the_whole_set_and_a_right_ledger() {
    let (images, run) = (folder(16), tempfile::tempdir().unwrap());
    let turn = AtomicUsize::new(0);
    let server = StubServer::start(move |request| match turn.fetch_add(1, SeqCst) {
        2 => Reply::rate_limit("0.1"),
        4 => Reply::error(500, "oops"),
        6 => Reply::Hang(Duration::from_secs(60)),
        8 => Reply::CutBody(caption(&shop(request))),
        10 => Reply::Raw(
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\n{\"a\"".to_vec(),
        ),
        12 => Reply::Json(
            json!({"choices": [], "usage": {"prompt_tokens": 100, "completion_tokens": 7}}),
        ),
        14 => match well(request) {
            Reply::Chat(text) => Reply::Slow(text, Duration::from_millis(3)),
            other => other,
        },
        _ => well(request),
    })
    .unwrap();
    let made = make(images.path(), run.path(), Some(&server), None);
    assert!(made.generated.error.is_none(), "{:?}", made.generated.error);
    assert!(made.generated.pictures.iter().all(|p| p.duos.len() == 2));
    assert_eq!(answers(&made), 32);
    // What the server charged is in the ledger, but for the answer that was cut off: that one is in doubt.
    let mut known = server.total();
    let cut: Vec<_> = server.requests();
    assert_eq!(cut.len(), 38);
    let in_doubt: u64 = made.ledger.rows.iter().map(|row| row.in_doubt).sum();
    let mut failed: HashMap<&str, u64> = HashMap::new();
    for (class, n) in made.ledger.rows.iter().flat_map(|row| &row.failed) {
        *failed.entry(class).or_default() += n;
    }
    let expected = [
        ("rate_limit", 1),
        ("server", 1),
        ("time_out", 1),
        ("cut_body", 1),
        ("malformed", 1),
        ("empty_choices", 1),
    ];
    assert_eq!(failed, HashMap::from(expected));
    // 500, hang, cut, broken JSON.
    assert_eq!(in_doubt, 4);
    let (prompt, completion) = made.ledger.tokens();
    known.prompt_tokens -= prompt;
    known.completion_tokens -= completion;
    let cut = server.charged();
    assert!(
        cut.iter().any(|charged| charged.usage == known),
        "one answer: {known:?}"
    );
}

#[test]
fn a_wrong_key_stops_at_once_and_a_dead_server_soon() {
    let (images, run) = (folder(40), tempfile::tempdir().unwrap());
    let server = StubServer::scripted(vec![], Reply::error(401, "wrong key")).unwrap();
    let made = make(images.path(), run.path(), Some(&server), None);
    assert!(
        made.generated
            .error
            .unwrap()
            .to_string()
            .contains("wrong key")
    );
    assert!(server.requests().len() <= 4);

    let server = StubServer::scripted(vec![], Reply::error(418, "teapot")).unwrap();
    let made = make(images.path(), run.path(), Some(&server), None);
    assert!(
        made.generated.error.is_none(),
        "a refusal is of one picture"
    );
    let failed = |p: &PictureResult| matches!(p.state, State::Failed { .. });
    assert!(made.generated.pictures.iter().all(failed));

    let server = StubServer::scripted(vec![], Reply::error(500, "down")).unwrap();
    let made = make(images.path(), run.path(), Some(&server), None);
    assert!(
        made.generated
            .error
            .unwrap()
            .to_string()
            .contains("in a row")
    );
    assert!(
        made.generated
            .pictures
            .iter()
            .any(|p| p.state == State::Pending)
    );
}

#[test]
fn a_run_that_ends_early_has_what_is_answered_all_the_same() {
    let (images, run) = (folder(40), tempfile::tempdir().unwrap());
    // The first picture stays open, so every later run meets its end at once.
    let server = StubServer::start(|request| match shop(request).as_str() {
        "0" => Reply::error(418, "teapot"),
        _ => well(request),
    })
    .unwrap();
    let done = |made: &[PictureResult]| made.iter().filter(|p| p.state == State::Done).count();
    let first = make(images.path(), run.path(), Some(&server), None);
    assert_eq!(done(&first.generated.pictures), 39);
    let replayed = make(images.path(), run.path(), None, None);
    let asked = server.requests().len();

    let refusing = StubServer::scripted(vec![], Reply::error(401, "wrong key")).unwrap();
    let refused = make(images.path(), run.path(), Some(&refusing), None);
    let error = refused.generated.error.unwrap().to_string();
    assert!(error.contains("wrong key"), "{error}");
    assert_eq!(refused.generated.pictures, replayed.generated.pictures);
    assert_eq!(done(&replayed.generated.pictures), 39);

    let broke = make(images.path(), run.path(), Some(&server), Some(0.001));
    assert_eq!(broke.generated.stop, Some(Stop::Budget));
    assert_eq!(broke.generated.pictures, replayed.generated.pictures);

    let cancel = AtomicBool::new(true);
    let stopped = make_until(images.path(), run.path(), Some(&server), None, &cancel);
    assert_eq!(stopped.generated.stop, Some(Stop::Cancelled));
    assert_eq!(stopped.generated.pictures, replayed.generated.pictures);
    assert_eq!(server.requests().len(), asked, "nothing more was asked");

    // A picture that no request was of is not looked at any more.
    let new = images.path().join("a new one.png");
    std::fs::copy(images.path().join("shop 5.png"), new).unwrap();
    let stopped = make_until(images.path(), run.path(), Some(&server), None, &cancel);
    assert_eq!(stopped.generated.pictures[0].name, "a new one.png");
    assert_eq!(stopped.generated.pictures[0].hash, "");
    assert_eq!(stopped.generated.pictures[1..], replayed.generated.pictures);
}
