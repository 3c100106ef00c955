//! What is asked again, why, and how often.

use llavar_client::testing::{Reply, StubServer};
use llavar_instruct::{State, checks::Reason};
use serde_json::json;

use crate::{caption, duo, folder, good_duos, make, well};

#[test]
fn a_caption_that_is_cut_off_is_no_markup() {
    let (images, run) = (folder(1), tempfile::tempdir().unwrap());
    let cut = |text: &str, why: &str| {
        let message = json!({"role": "assistant", "content": text});
        let choice = json!({"index": 0, "finish_reason": why, "message": message});
        Reply::Json(json!({"choices": [choice],
            "usage": {"prompt_tokens": 9, "completion_tokens": 9}}))
    };
    let half = "{\"caption\": \"A long receipt that begins with the name of a shop and goes on and on with";
    let replies = vec![
        cut(half, "length"),
        cut(half, "stop"),
        Reply::Chat(caption("0")),
    ];
    let server = StubServer::scripted(replies, Reply::Chat(good_duos("0"))).unwrap();
    let made = make(images.path(), run.path(), Some(&server), None);
    let picture = &made.generated.pictures[0];
    let reasons: Vec<Reason> = picture.rejected.iter().map(|one| one.reason).collect();
    assert_eq!(reasons, [Reason::Sentence, Reason::Markup]);
    assert!(picture.caption.is_some());
    assert!(
        server.requests()[1]
            .text()
            .contains("cut off before the caption was whole")
    );
}

#[test]
fn a_caption_that_tells_nothing_of_the_text_is_asked_again() {
    let (images, run) = (folder(1), tempfile::tempdir().unwrap());
    let empty =
        "The image is a poster of a postcard with a date and a price, but it is not a postcard.";
    let replies = vec![Reply::Chat(empty.into()), Reply::Chat(caption("0"))];
    let server = StubServer::scripted(replies, Reply::Chat(good_duos("0"))).unwrap();
    let made = make(images.path(), run.path(), Some(&server), None);
    let picture = &made.generated.pictures[0];
    let reasons: Vec<Reason> = picture.rejected.iter().map(|one| one.reason).collect();
    assert_eq!(reasons, [Reason::NoText]);
    assert!(picture.caption.is_some());
    let asked = server.requests()[1].text();
    assert!(asked.contains("quotes none of the text"), "{asked}");
}

#[test]
fn a_wrong_place_and_a_quote_beside_the_fact_are_asked_again() {
    let (images, run) = (folder(1), tempfile::tempdir().unwrap());
    let duo = |explanation: &str| {
        json!([{
            "extractive_question": "What is the total on the receipt?",
            "extractive_answer": "The total is 0.50.",
            "self_explain_question": "Which text in the image supports this, and where is it?",
            "self_explain_answer": explanation,
        }])
        .to_string()
    };
    let replies = vec![
        Reply::Chat(caption("0")),
        Reply::Chat(duo(
            "The text \"TOTAL 0.50\" stands at the top of the receipt.",
        )),
        Reply::Chat(duo(
            "The text \"Open daily\" in the middle of the receipt says it.",
        )),
    ];
    let server = StubServer::scripted(replies, Reply::Chat(good_duos("0"))).unwrap();
    let made = make(images.path(), run.path(), Some(&server), None);
    let picture = &made.generated.pictures[0];
    let reasons: Vec<Reason> = picture.rejected.iter().map(|one| one.reason).collect();
    assert_eq!(reasons, [Reason::WrongPlace, Reason::Unsupported]);
    assert_eq!(picture.duos.len(), 2);
    let requests = server.requests();
    assert!(requests[2].text().contains("does not stand at the top"));
    assert!(requests[3].text().contains("does not hold \"0.50\""));
}

#[test]
fn what_is_turned_down_is_asked_again_with_the_reason() {
    let (images, run) = (folder(1), tempfile::tempdir().unwrap());
    let server = StubServer::scripted(
        vec![
            Reply::Chat(
                "A receipt with \"TOTAL 9.99\" and much more text on it, as it seems to me.".into(),
            ),
            Reply::Chat(caption("0")),
            Reply::Chat("I am sorry.".into()),
            Reply::Chat(
                json!([
                    duo(
                        "What is the total on the receipt?",
                        "The total is 0.50.".into(),
                        "TOTAL 0.50".into()
                    ),
                    duo(
                        "What is the tax on the receipt?",
                        "The total tax is 0.50.".into(),
                        "TAX OFFICE".into()
                    ),
                ])
                .to_string(),
            ),
        ],
        Reply::Chat(good_duos("0")),
    )
    .unwrap();
    let made = make(images.path(), run.path(), Some(&server), None);
    let picture = &made.generated.pictures[0];
    let reasons: Vec<Reason> = picture.rejected.iter().map(|one| one.reason).collect();
    use Reason as R;
    assert_eq!(
        reasons,
        [R::QuoteNotFound, R::Schema, R::QuoteNotFound, R::Duplicate]
    );
    assert_eq!((picture.duos.len(), picture.proposed), (2, 4));
    let requests = server.requests();
    assert_eq!(requests.len(), 5);
    assert!(
        requests[1]
            .text()
            .contains("\"TOTAL 9.99\" is not written in the image")
    );
    assert!(requests[4].text().contains("\"TAX OFFICE\" is not written"));
    assert!(requests[4].text().contains("Write 1 item now."));
    assert!(
        requests[4]
            .text()
            .contains("- What is the total on the receipt?")
    );
}

#[test]
fn attempts_are_bounded_and_a_picture_without_duos_is_done() {
    let (images, run) = (folder(1), tempfile::tempdir().unwrap());
    let server = StubServer::scripted(vec![], Reply::Chat("No.".into())).unwrap();
    let made = make(images.path(), run.path(), Some(&server), None);
    assert_eq!(server.requests().len(), 6, "three of each step");
    assert_eq!(made.generated.pictures[0].state, State::Done);
    assert!(made.generated.pictures[0].caption.is_none());
    // Not asked again either.
    make(images.path(), run.path(), Some(&server), None);
    assert_eq!(server.requests().len(), 6);
}

/// A picture with a long page.
fn long_page() -> tempfile::TempDir {
    let images = folder(1);
    let long: Vec<_> = (0..120)
        .map(|i| json!({"box": [10, 10 * i, 100, 10 * i + 8], "text": format!("SHOP NUMBER 0 line {i}")}))
        .chain([json!({"box": [10, 0, 100, 8], "text": "TOTAL 0.50"})])
        .collect();
    let sidecar = images.path().join("shop 0.png.ocr.json");
    std::fs::write(sidecar, json!(long).to_string()).unwrap();
    images
}

/// A model that takes so many bytes.
fn narrow(most: usize) -> StubServer {
    StubServer::start(move |request| match request.text().len() > most {
        true => Reply::error(400, "This model's maximum context length is 1000 tokens."),
        false => well(request),
    })
    .unwrap()
}

#[test]
fn a_page_too_long_for_the_model_is_shortened() {
    let (images, run) = (long_page(), tempfile::tempdir().unwrap());
    let server = narrow(4500);
    let made = make(images.path(), run.path(), Some(&server), None);
    assert_eq!(
        made.generated.pictures[0].duos.len(),
        2,
        "{:?}",
        made.generated.pictures[0]
    );
    // So it is without a network, and what was refused is not sent again.
    let replayed = make(images.path(), run.path(), None, None);
    assert_eq!(replayed.generated.pictures, made.generated.pictures);
    let asked = server.requests().len();
    assert_eq!(asked, 3);
    let again = make(images.path(), run.path(), Some(&server), None);
    assert_eq!(again.generated.pictures, made.generated.pictures);
    assert_eq!(server.requests().len(), asked);
}

#[test]
fn a_page_too_long_after_a_fault_is_shortened_too() {
    let (images, run) = (long_page(), tempfile::tempdir().unwrap());
    let server = StubServer::start(|request| match (request.number, request.text().len()) {
        (1, _) => Reply::error(500, "oops"),
        (_, 4501..) => Reply::error(400, "This model's maximum context length is 1000 tokens."),
        _ => well(request),
    })
    .unwrap();
    let made = make(images.path(), run.path(), Some(&server), None);
    assert_eq!(made.generated.pictures[0].state, State::Done);
    let replayed = make(images.path(), run.path(), None, None);
    assert_eq!(replayed.generated.pictures, made.generated.pictures);
}

#[test]
fn a_page_that_stays_too_long_is_tried_again_at_its_shortest() {
    let (images, run) = (long_page(), tempfile::tempdir().unwrap());
    let server = narrow(100);
    let made = make(images.path(), run.path(), Some(&server), None);
    let state = &made.generated.pictures[0].state;
    let is_too_long =
        |state: &State| matches!(state, State::Failed { class, .. } if class == "context_length");
    assert!(is_too_long(state), "{state:?}");
    let replayed = make(images.path(), run.path(), None, None);
    assert_eq!(replayed.generated.pictures, made.generated.pictures);
    assert_eq!(server.requests().len(), 3);
    make(images.path(), run.path(), Some(&server), None);
    assert_eq!(server.requests().len(), 4, "the shortest alone");
    // A server with more room answers.
    let server = narrow(100_000);
    let made = make(images.path(), run.path(), Some(&server), None);
    assert_eq!(made.generated.pictures[0].state, State::Done);
    let replayed = make(images.path(), run.path(), None, None);
    assert_eq!(replayed.generated.pictures, made.generated.pictures);
}
