//! What a run costs, before and while it does.

use std::collections::HashMap;

use llavar_client::testing::{Reply, StubServer};
use llavar_instruct::{
    Budget, Caller, Estimate, Journal, PictureResult, Pictures, Prompts, State, Stop,
};
use llavar_ocr::{EngineChoice, Reader};
use serde_json::json;

use crate::{PRICES, folder, make, sampling, settings, well};

#[test]
fn a_budget_is_never_passed_and_a_higher_one_goes_on() {
    let (images, run) = (folder(12), tempfile::tempdir().unwrap());
    let server = StubServer::start(well).unwrap();
    let limit = 0.02;
    let made = make(images.path(), run.path(), Some(&server), Some(limit));
    assert_eq!(made.generated.stop, Some(Stop::Budget));
    let spent = PRICES.of(&server.total());
    assert!(spent > 0.0 && spent <= limit, "{spent}");
    assert!((made.ledger.usd.unwrap() - spent).abs() < 1e-12);
    assert!(spent > 0.4 * limit, "it stopped too early: {spent}");
    let before = server.requests().len();
    assert!(before < 24);
    let made = make(images.path(), run.path(), Some(&server), Some(10.0));
    assert!(made.generated.stop.is_none());
    assert_eq!(server.requests().len(), 24, "nothing was asked twice");
}

#[test]
fn attempts_that_are_charged_and_fail_do_not_pass_the_budget_either() {
    let (images, run) = (folder(3), tempfile::tempdir().unwrap());
    // No answer, and 0.002 USD each.
    let empty = json!({"choices": [],
        "usage": {"prompt_tokens": 500, "completion_tokens": 100}});
    let server = StubServer::scripted(vec![], Reply::Json(empty)).unwrap();
    let limit = 0.006;
    let made = make(images.path(), run.path(), Some(&server), Some(limit));
    assert_eq!(made.generated.stop, Some(Stop::Budget));
    let spent = PRICES.of(&server.total());
    assert!(spent > 0.0 && spent <= limit, "{spent}");
    assert!((made.ledger.usd.unwrap() - spent).abs() < 1e-12);
    assert_eq!(made.ledger.in_doubt_usd, None);
    let done = |p: &PictureResult| p.state == State::Done;
    assert!(!made.generated.pictures.iter().any(done));
}

#[test]
fn an_estimate_asks_nothing_and_is_of_the_right_size() {
    let (images, run) = (folder(6), tempfile::tempdir().unwrap());
    let journal = Journal::open(run.path()).unwrap();
    let sampling = sampling();
    let caller = Caller {
        client: None,
        journal: &journal,
        budget: &Budget::new(None, 0.0),
        prices: Some(PRICES),
        sampling: &sampling,
    };
    let reader = Reader::new(EngineChoice::Sidecar(None).open().unwrap(), None);
    let estimate = Estimate::of(
        &Pictures::list(images.path()).unwrap(),
        &HashMap::new(),
        &reader,
        &caller,
        &Prompts::load(None).unwrap(),
        &settings(),
    )
    .unwrap();
    assert_eq!(
        (estimate.pictures, estimate.requests, estimate.unusable),
        (6, 12, 0)
    );
    drop(journal);
    let server = StubServer::start(well).unwrap();
    make(images.path(), run.path(), Some(&server), None);
    // The stub counts words, of which a token is about three quarters.
    let real = server.total().prompt_tokens as f64 / 0.75;
    let ratio = estimate.prompt_tokens as f64 / real;
    assert!((0.7..2.0).contains(&ratio), "{ratio}");
    assert!(estimate.most_usd.unwrap() > estimate.usd.unwrap());
}
