//! The whole pipeline against a server that answers by script, on pictures with OCR in sidecars.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::HashMap,
    path::Path,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    time::Duration,
};

use llavar_client::{
    Client, ClientOptions,
    testing::{Reply, StubRequest, StubServer},
};
use llavar_data::{Cache, Dataset};
use llavar_image::{RgbImage, encode_png};
use llavar_instruct::{
    Budget, Caller, Entry, Estimate, Generated, Journal, Ledger, Pictures, Prices, Prompts,
    RunFile, Sampling, Settings, State, Stop,
    checks::Reason,
    generate,
    output::{self, Formats},
};
use llavar_ocr::{EngineChoice, Reader};
use serde_json::json;

/// Pictures of shops, each with its name and total in a sidecar.
fn folder(count: usize) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for i in 0..count {
        let picture = RgbImage::filled(120, 160, [200, i as u8, 40]);
        let name = dir.path().join(format!("shop {i}.png"));
        std::fs::write(&name, encode_png(&picture).unwrap()).unwrap();
        let lines = json!([
            {"box": [10, 5, 110, 25], "text": format!("SHOP NUMBER {i}")},
            {"box": [10, 60, 60, 75], "text": "Open daily"},
            {"box": [10, 120, 110, 140], "text": format!("TOTAL {i}.50")},
        ]);
        let sidecar = dir.path().join(format!("shop {i}.png.ocr.json"));
        std::fs::write(sidecar, lines.to_string()).unwrap();
    }
    dir
}

/// The number of the shop that a request is about.
fn shop(request: &StubRequest) -> String {
    let text = request.text();
    let at = text.rfind("SHOP NUMBER ").unwrap() + "SHOP NUMBER ".len();
    text[at..]
        .chars()
        .take_while(char::is_ascii_digit)
        .collect()
}

fn caption(i: &str) -> String {
    json!({"caption": format!(
        "A receipt shows \"SHOP NUMBER {i}\" at the top and the amount \"TOTAL {i}.50\" at the bottom of it.")})
    .to_string()
}

fn duo(question: &str, answer: String, quote: String) -> serde_json::Value {
    json!({
        "extractive_question": question, "extractive_answer": answer,
        "self_explain_question": "Which text in the image supports this, and where is it?",
        "self_explain_answer": format!("The text \"{quote}\" supports it, near the edge of the receipt."),
    })
}

fn good_duos(i: &str) -> String {
    json!({"duos": [
        duo("What is the total on the receipt?", format!("The total is {i}.50."), format!("TOTAL {i}.50")),
        duo("Which shop wrote the receipt?", format!("It was written by SHOP NUMBER {i}."), format!("SHOP NUMBER {i}")),
    ]})
    .to_string()
}

fn well(request: &StubRequest) -> Reply {
    let i = shop(request);
    Reply::Chat(match request.text().contains("You describe images") {
        true => caption(&i),
        false => good_duos(&i),
    })
}

fn settings() -> Settings {
    Settings {
        duos: 2,
        ..Settings::default()
    }
}

fn sampling() -> Sampling {
    Sampling {
        model: "m".into(),
        temperature: 0.0,
        seed: 0,
        caption_tokens: 100,
        duo_tokens: 400,
        send_images: false,
    }
}

const PRICES: Prices = Prices {
    prompt: 2.0,
    completion: 10.0,
    cached: None,
};

struct Made {
    generated: Generated,
    ledger: Ledger,
    entries: Vec<Entry>,
}

fn make(images: &Path, run: &Path, server: Option<&StubServer>, budget: Option<f64>) -> Made {
    let client = server.map(|server| {
        let mut options = ClientOptions::new(server.endpoint().unwrap());
        options.retries.base = Duration::from_millis(3);
        options.time_outs.answer = Duration::from_secs(8);
        Client::new(options).unwrap()
    });
    let journal = match server {
        Some(_) => Journal::open(run).unwrap(),
        None => Journal::open_to_read(run).unwrap(),
    };
    let ledger = Ledger::of(&journal.entries());
    let spent = ledger.usd.unwrap_or(0.0) + ledger.in_doubt_usd.unwrap_or(0.0);
    let sampling = sampling();
    let caller = Caller {
        client: client.as_ref(),
        journal: &journal,
        budget: &Budget::new(budget, spent),
        prices: Some(PRICES),
        sampling: &sampling,
    };
    let reader = Reader::new(EngineChoice::Sidecar(None).open().unwrap(), None);
    let generated = generate(
        &Pictures::list(images).unwrap(),
        &HashMap::new(),
        &reader,
        Some((&caller, &Prompts::load(None).unwrap())),
        &settings(),
        4,
        &AtomicBool::new(false),
        &|_| {},
    );
    let entries = journal.entries();
    Made {
        generated,
        ledger: Ledger::of(&entries),
        entries,
    }
}

fn answers(made: &Made) -> usize {
    let is_answer = |entry: &&Entry| matches!(entry, Entry::Answer(_));
    made.entries.iter().filter(is_answer).count()
}

#[test]
fn from_pictures_to_a_data_set_that_our_readers_read() {
    let (images, run) = (folder(12), tempfile::tempdir().unwrap());
    let server = StubServer::start(well).unwrap();
    let made = make(images.path(), run.path(), Some(&server), None);
    assert!(made.generated.stop.is_none() && made.generated.error.is_none());
    assert_eq!(server.requests().len(), 24);
    let total = server.total();
    assert_eq!(
        made.ledger.tokens(),
        (total.prompt_tokens, total.completion_tokens)
    );
    assert!((made.ledger.usd.unwrap() - PRICES.of(&total)).abs() < 1e-12);

    // The same again asks nothing; without a network it is the same.
    let again = make(images.path(), run.path(), Some(&server), None);
    let replayed = make(images.path(), run.path(), None, None);
    assert_eq!(server.requests().len(), 24);
    assert_eq!(again.generated.pictures, made.generated.pictures);
    assert_eq!(replayed.generated.pictures, made.generated.pictures);

    let file = RunFile {
        version: "0".into(),
        images: images.path().into(),
        captions: None,
        ocr: "sidecar".into(),
        endpoint: "stub".into(),
        sampling: Some(sampling()),
        prompts: vec![],
        settings: settings(),
        test_fraction: 0.3,
    };
    let formats = Formats {
        parquet: true,
        webdataset: true,
    };
    let pictures = &made.generated.pictures;
    let card = output::write(
        run.path(),
        &file,
        pictures,
        &[],
        None,
        &made.ledger,
        formats,
    )
    .unwrap();
    assert_eq!((card.duos_accepted, card.duos_proposed), (24, 24));
    let mut seen = 0;
    for split in ["train", "test"] {
        let json = run.path().join(format!("data/duos-{split}.json"));
        let data = Dataset::open_with(&json, Some(images.path()), &Cache::none()).unwrap();
        let parquet = run.path().join(format!("parquet/duos-{split}.parquet"));
        let parquet = Dataset::open_with(&parquet, None, &Cache::none()).unwrap();
        let tar = run
            .path()
            .join(format!("webdataset/duos-{split}-000000.tar"));
        let tar = Dataset::open_with(&tar, None, &Cache::none()).unwrap();
        assert_eq!((data.len(), data.len()), (parquet.len(), tar.len()));
        for i in 0..data.len() {
            let sample = data.get(i).unwrap();
            assert_eq!(sample.conversations.len(), 8);
            assert_eq!(sample.image_tags(), 1);
            assert_eq!(parquet.get(i).unwrap(), sample);
            assert_eq!(tar.get(i).unwrap().conversations, sample.conversations);
            let file = std::fs::read(data.image_path(&sample.images[0]).unwrap()).unwrap();
            for (set, sample) in [
                (&parquet, parquet.get(i).unwrap()),
                (&tar, tar.get(i).unwrap()),
            ] {
                let image = set.image(i, &sample, 0).unwrap();
                assert!(
                    matches!(image, llavar_data::ImageSource::Bytes { bytes, .. } if bytes == file)
                );
            }
            seen += 1;
        }
        assert_eq!(card.splits[split].pictures, data.len());
    }
    assert_eq!(seen, 12);
    let readme = std::fs::read_to_string(run.path().join("README.md")).unwrap();
    assert!(readme.contains("24 of 24 proposed duos"), "{readme}");
    let listed = |readme: &str| -> Vec<String> {
        let paths = readme.lines().filter_map(|line| line.split_once("path: "));
        paths.map(|(_, path)| path.to_owned()).collect()
    };
    assert_eq!(listed(&readme).len(), 4);

    // With nothing kept for testing there is no file for it, is none left of before, and none is listed.
    let file = RunFile {
        test_fraction: 0.0,
        ..file
    };
    let ledger = &made.ledger;
    output::write(run.path(), &file, pictures, &[], None, ledger, formats).unwrap();
    let readme = std::fs::read_to_string(run.path().join("README.md")).unwrap();
    let expected = [
        "parquet/duos-train.parquet",
        "parquet/captions-train.parquet",
    ];
    assert_eq!(listed(&readme), expected);
    for folder in ["parquet", "webdataset"] {
        let there = std::fs::read_dir(run.path().join(folder)).unwrap();
        assert_eq!(there.filter_map(Result::ok).count(), 2, "{folder}");
    }
}

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
    let failed = |p: &llavar_instruct::PictureResult| matches!(p.state, State::Failed { .. });
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
    let done = |p: &llavar_instruct::PictureResult| p.state == State::Done;
    assert!(!made.generated.pictures.iter().any(done));
}

#[test]
fn a_copy_of_a_picture_is_asked_about_once_and_kept_once() {
    let (images, run) = (folder(1), tempfile::tempdir().unwrap());
    for i in 1..4 {
        for end in ["png", "png.ocr.json"] {
            let from = images.path().join(format!("shop 0.{end}"));
            std::fs::copy(from, images.path().join(format!("shop {i}.{end}"))).unwrap();
        }
    }
    let server = StubServer::start(well).unwrap();
    let made = make(images.path(), run.path(), Some(&server), None);
    assert_eq!(server.requests().len(), 2, "all four at once, asked once");
    let kept: Vec<usize> = made
        .generated
        .pictures
        .iter()
        .map(|p| p.duos.len())
        .collect();
    assert_eq!(kept, [2, 0, 0, 0]);
    for copy in &made.generated.pictures[1..] {
        assert!(copy.caption.is_none() && copy.state == State::Done);
        let reasons: Vec<Reason> = copy.rejected.iter().map(|one| one.reason).collect();
        assert_eq!(reasons, [Reason::Duplicate; 3]);
    }
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

#[test]
fn a_page_too_long_for_the_model_is_shortened() {
    let images = folder(1);
    let long: Vec<_> = (0..120)
        .map(|i| json!({"box": [10, 10 * i, 100, 10 * i + 8], "text": format!("SHOP NUMBER 0 line {i}")}))
        .chain([json!({"box": [10, 0, 100, 8], "text": "TOTAL 0.50"})])
        .collect();
    let sidecar = images.path().join("shop 0.png.ocr.json");
    std::fs::write(sidecar, json!(long).to_string()).unwrap();
    let run = tempfile::tempdir().unwrap();
    let server = StubServer::start(|request| match request.text().len() > 4500 {
        true => Reply::error(400, "This model's maximum context length is 1000 tokens."),
        false => well(request),
    })
    .unwrap();
    let made = make(images.path(), run.path(), Some(&server), None);
    assert_eq!(
        made.generated.pictures[0].duos.len(),
        2,
        "{:?}",
        made.generated.pictures[0]
    );
}
