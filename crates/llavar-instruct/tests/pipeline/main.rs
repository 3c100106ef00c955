//! The whole pipeline against a server that answers by script, on pictures with OCR in sidecars.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod asking;
mod budget;
mod faults;

use std::{collections::HashMap, path::Path, sync::atomic::AtomicBool, time::Duration};

use llavar_client::{
    Client, ClientOptions,
    testing::{Reply, StubRequest, StubServer},
};
use llavar_data::{Cache, Dataset};
use llavar_image::{RgbImage, encode_png};
use llavar_instruct::{
    Budget, Caller, Entry, Generated, Journal, Ledger, Pictures, Prices, Prompts, RunFile,
    Sampling, Settings, State,
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
    make_until(images, run, server, budget, &AtomicBool::new(false))
}

/// As [`make`], with a flag that stops it.
fn make_until(
    images: &Path,
    run: &Path,
    server: Option<&StubServer>,
    budget: Option<f64>,
    cancel: &AtomicBool,
) -> Made {
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
        cancel,
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
        images_from_run: None,
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
