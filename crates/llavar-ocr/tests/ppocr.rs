//! PP-OCR with its real models: from the user's cache, or fetched once into the build folder as `llavar ocr
//! pull` does. Where neither can be had the tests say so and end.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::Write as _;
use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
};

use llavar_image::RgbImage;
use llavar_ocr::{
    Engine, Page, PpOcr,
    bench::{WordCounts, labelled_pages},
    ppocr::{Settings, models, pull},
};
use llavar_synth::{DocKind, Document, FontSet, SynthConfig, generate};

/// The default engine, if its models can be had.
fn engine() -> Option<&'static PpOcr> {
    static ENGINE: OnceLock<Option<PpOcr>> = OnceLock::new();
    let opened = ENGINE.get_or_init(|| {
        let set = &models::SETS[0];
        let own = Path::new(env!("CARGO_TARGET_TMPDIR")).join("ocr-models");
        let folders = [models::folder(set).ok(), Some(own.clone())];
        let found = folders
            .into_iter()
            .flatten()
            .find(|f| models::are_in(set, f));
        let folder = match found {
            Some(folder) => folder,
            None => match pull::from_registry(set, &own) {
                Ok(_) => own,
                Err(error) => {
                    let _ = writeln!(
                        std::io::stderr(),
                        "SKIPPED tests on PP-OCR's models: {error}"
                    );
                    return None;
                }
            },
        };
        Some(PpOcr::open(set, &folder, Settings::default()).unwrap())
    });
    opened.as_ref()
}

fn documents() -> Vec<Document> {
    let config = SynthConfig::profile("default").unwrap();
    let fonts = FontSet::embedded().unwrap();
    (0..)
        .map(|at| generate(&config, &fonts, at).unwrap())
        .filter(|d| matches!(d.kind, DocKind::Receipt | DocKind::Form | DocKind::Table))
        .take(4)
        .collect()
}

fn image(document: &Document) -> RgbImage {
    let picture = &document.image;
    let size = [picture.width, picture.height].map(|side| side as usize);
    RgbImage::new(size[0], size[1], picture.pixels.clone()).unwrap()
}

fn words(document: &Document) -> Vec<String> {
    document
        .words
        .iter()
        .map(|word| word.text.clone())
        .collect()
}

#[test]
fn synthetic_documents_are_read_either_way_up() {
    let Some(engine) = engine() else { return };
    let (mut upright, mut turned) = (WordCounts::default(), WordCounts::default());
    for document in documents() {
        let mut image = image(&document);
        let page = Page::from_image("upright".as_ref(), image.clone());
        let lines = engine.read(&page).unwrap();
        upright.add(WordCounts::of(&words(&document), &lines));
        for line in &lines {
            let [x1, y1, x2, y2] = line.bounds();
            assert!(
                x1 >= 0.0 && y1 >= 0.0 && x2 <= image.width as f64 && y2 <= image.height as f64
            );
            assert!((0.5..=1.0).contains(&line.score), "{line:?}");
        }
        let mut pixels: Vec<[u8; 3]> = image.data.as_chunks::<3>().0.to_vec();
        pixels.reverse();
        image.data = pixels.into_flattened();
        let page = Page::from_image("turned".as_ref(), image);
        turned.add(WordCounts::of(
            &words(&document),
            &engine.read(&page).unwrap(),
        ));
    }
    assert!(upright.labelled > 50, "{upright:?}");
    assert!(upright.found_share() > 0.9, "{upright:?}");
    assert!(
        turned.found_share() > 0.8,
        "upside down: {turned:?}, upright: {upright:?}"
    );
}

#[test]
fn strange_pictures_are_pages_without_text() {
    let Some(engine) = engine() else { return };
    for [width, height] in [[1, 1], [3, 700], [700, 3], [64, 64]] {
        let image = RgbImage::filled(width, height, [255; 3]);
        let lines = engine
            .read(&Page::from_image("blank".as_ref(), image))
            .unwrap();
        assert_eq!(lines, [], "{width} x {height}");
    }
    let broken = Page::from_bytes("broken.png".as_ref(), b"\x89PNG\r\n\x1a\n".to_vec());
    assert!(
        engine
            .read(&broken)
            .unwrap_err()
            .to_string()
            .contains("broken.png")
    );
}

#[test]
fn real_receipts_and_forms() {
    let shared = std::env::var_os("LLAVAR_SHARED").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"),
        PathBuf::from,
    );
    let data = shared.join("data");
    if !data.is_dir() {
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED real_receipts_and_forms: {} is absent",
            data.display()
        );
        return;
    }
    let Some(engine) = engine() else { return };
    let pages = labelled_pages(&data).unwrap();
    let mut counts = WordCounts::default();
    // A few from all over: a page takes a second.
    for page in pages.iter().step_by((pages.len() / 6).max(1)) {
        let lines = engine.read(&Page::open(&page.image).unwrap()).unwrap();
        counts.add(WordCounts::of(&page.words, &lines));
    }
    eprintln!("{counts:?}");
    assert!(counts.found_share() > 0.9, "{counts:?}");
}
