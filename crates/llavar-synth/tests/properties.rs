//! What holds for every document: texts agree with the picture, boxes lie inside, nothing collides.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use llavar_synth::{Damage, Detail, DocKind, Document, Language, Layout, SynthConfig, generate};

use common::{asking_all, flat, fonts, small};

/// The texts between double quotes.
fn quotes(text: &str) -> Vec<&str> {
    text.split('"').skip(1).step_by(2).collect()
}

fn check(document: &Document, config: &SynthConfig, at: &str) {
    let text = flat(&document.transcription);
    let printed: Vec<&str> = document.words.iter().map(|w| w.text.as_str()).collect();
    assert_eq!(
        printed.join(" "),
        text,
        "{at}: words and transcription differ"
    );
    assert!(!document.duos.is_empty(), "{at}: nothing to ask");
    assert!(
        document.duos.len() <= config.max_facts as usize,
        "{at}: too many facts"
    );
    for duo in &document.duos {
        assert!(
            !duo.gold.is_empty() && text.contains(&duo.gold),
            "{at}: gold {} not in {text}",
            duo.gold
        );
        assert!(
            duo.extractive_answer.contains(&duo.gold),
            "{at}: {}",
            duo.extractive_answer
        );
        // Whole sentences, but for entries and single words, which are told as they stand there.
        let told = ["entry", "word"].contains(&duo.field.as_str());
        assert!(
            told || duo.extractive_answer.ends_with('.'),
            "{at}: {}",
            duo.extractive_answer
        );
        let quoted = quotes(&duo.self_explain_answer);
        assert!(
            !quoted.is_empty(),
            "{at}: no quotation in {}",
            duo.self_explain_answer
        );
        for quote in quoted {
            assert!(
                text.contains(quote),
                "{at}: quotation {quote} not in {text}"
            );
        }
        for question in [&duo.extractive_question, &duo.self_explain_question] {
            assert!(
                question.ends_with(['?', '.']) && !question.contains('{'),
                "{at}: {question}"
            );
        }
    }
    for quote in quotes(&document.caption) {
        assert!(
            text.contains(&flat(quote)),
            "{at}: the caption quotes {quote}, not in {text}"
        );
    }
    if config.detail == Detail::Full {
        let words = document.caption.split_whitespace().count();
        assert!(
            (40..=110).contains(&words),
            "{at}: caption of {words} words: {}",
            document.caption
        );
    }
    boxes(document, config, at);
}

/// Boxes inside the picture, with ink in them, and apart from each other.
fn boxes(document: &Document, config: &SynthConfig, at: &str) {
    let image = &document.image;
    let (w, h) = (image.width as f32, image.height as f32);
    let mut rects = Vec::new();
    for word in &document.words {
        let xs = word.quad.map(|p| p[0]);
        let ys = word.quad.map(|p| p[1]);
        let low = |v: [f32; 4]| v.into_iter().fold(f32::MAX, f32::min);
        let high = |v: [f32; 4]| v.into_iter().fold(f32::MIN, f32::max);
        let rect = [low(xs), low(ys), high(xs), high(ys)];
        assert!(
            rect[0] >= 0.0 && rect[1] >= 0.0 && rect[2] <= w && rect[3] <= h,
            "{at}: '{}' at {rect:?} leaves {w} x {h}",
            word.text
        );
        // Ink: the pixels of the box are not all alike.
        let (mut dark, mut light) = (255_u8, 0_u8);
        for y in rect[1] as usize..(rect[3].ceil() as usize).min(image.height as usize) {
            for x in rect[0] as usize..(rect[2].ceil() as usize).min(image.width as usize) {
                let at = (y * image.width as usize + x) * 3;
                let [r, g, b] = [0, 1, 2].map(|c| u32::from(image.pixels[at + c]));
                let grey = ((r * 30 + g * 59 + b * 11) / 100) as u8;
                (dark, light) = (dark.min(grey), light.max(grey));
            }
        }
        // A hyphen of the smallest print is thinner than a pixel.
        let thin = rect[2] - rect[0] < 1.0 || rect[3] - rect[1] < 1.0;
        assert!(
            thin || light - dark > 25,
            "{at}: nothing visible of '{}' at {rect:?}",
            word.text
        );
        rects.push(rect);
    }
    // Upright boxes of turned words overlap without the words doing so.
    if config.damage.share > 0.0 {
        return;
    }
    let area = |r: &[f32; 4]| (r[2] - r[0]).max(0.0) * (r[3] - r[1]).max(0.0);
    for (i, a) in rects.iter().enumerate() {
        for (j, b) in rects.iter().enumerate().skip(i + 1) {
            let common = [
                a[0].max(b[0]),
                a[1].max(b[1]),
                a[2].min(b[2]),
                a[3].min(b[3]),
            ];
            let shared = if common[0] < common[2] && common[1] < common[3] {
                area(&common)
            } else {
                0.0
            };
            let (one, two) = (&document.words[i].text, &document.words[j].text);
            assert!(
                shared <= 0.12 * area(a).min(area(b)),
                "{at}: '{one}' {a:?} collides with '{two}' {b:?}"
            );
        }
    }
}

fn sweep(config: &SynthConfig, seeds: u64) {
    let fonts = fonts();
    for kind in DocKind::ALL {
        let config = SynthConfig {
            kinds: vec![kind],
            ..config.clone()
        };
        for index in 0..seeds {
            let document = generate(&config, &fonts, index).unwrap();
            check(&document, &config, &format!("{} {index}", kind.name()));
        }
    }
}

#[test]
fn every_kind_agrees_with_its_texts() {
    sweep(
        &small(SynthConfig {
            damage: Damage::level(0.0),
            ..SynthConfig::default()
        }),
        150,
    );
}

#[test]
fn damaged_pages_stay_inside_the_picture() {
    sweep(
        &small(SynthConfig {
            seed: 5,
            damage: Damage::level(0.6),
            ..SynthConfig::default()
        }),
        40,
    );
}

#[test]
fn other_languages_agree_too() {
    let languages = vec![Language::De, Language::Fr, Language::Es];
    let config = SynthConfig {
        seed: 9,
        languages,
        damage: Damage::level(0.0),
        ..SynthConfig::default()
    };
    sweep(&small(config), 60);
}

#[test]
fn simple_documents_of_every_kind_agree() {
    let quick = asking_all("quickstart");
    sweep(&quick, 40);
    let cents = true;
    sweep(
        &SynthConfig {
            made_up: 1.0,
            vocabulary: 0,
            amount_digits: 4,
            cents,
            ..quick
        },
        25,
    );
    let fixed = SynthConfig {
        layout: Layout::Fixed,
        damage: Damage::level(0.0),
        ..SynthConfig::default()
    };
    sweep(&small(fixed), 30);
}

#[test]
fn odd_settings_are_drawn_too() {
    for [width, height] in [[96, 96], [1400, 200], [160, 1200]] {
        let config = SynthConfig {
            width: [width; 2],
            height: [height; 2],
            damage: Damage::level(1.0),
            amount_digits: 1,
            vocabulary: 2,
            ..SynthConfig::default()
        };
        let fonts = fonts();
        for index in 0..60 {
            let document = generate(&config, &fonts, index).unwrap();
            assert_eq!(document.image.pixels.len(), (width * height * 3) as usize);
            let text = flat(&document.transcription);
            assert!(document.duos.iter().all(|d| text.contains(&d.gold)));
        }
    }
}

#[test]
fn receipts_add_up() {
    let fonts = fonts();
    let config = SynthConfig {
        kinds: vec![DocKind::Receipt],
        ..small(SynthConfig::default())
    };
    let cents = |text: &str| text.replace(['$', '.'], "").parse::<i64>().unwrap();
    for index in 0..150 {
        let text = generate(&config, &fonts, index).unwrap().transcription;
        let amounts = |name: &str| {
            text.lines()
                .find(|l| l.starts_with(name))
                .map(|l| cents(l.split_whitespace().last().unwrap()))
        };
        let total = amounts("TOTAL").unwrap();
        let end = text
            .lines()
            .position(|l| l.starts_with("SUBTOTAL") || l.starts_with("TOTAL"))
            .unwrap();
        let start = text.lines().position(|l| l.starts_with("Date")).unwrap() + 1;
        let goods: i64 = text
            .lines()
            .take(end)
            .skip(start)
            .map(|l| cents(l.split_whitespace().last().unwrap()))
            .sum();
        assert_eq!(amounts("SUBTOTAL").unwrap_or(goods), goods, "{text}");
        assert_eq!(goods + amounts("TAX").unwrap_or(0), total, "{text}");
    }
}

#[test]
fn pie_shares_add_up_and_extremes_are_right() {
    let fonts = fonts();
    let kinds = vec![DocKind::PieChart, DocKind::BarChart];
    let config = SynthConfig {
        kinds,
        max_facts: 32,
        ..small(SynthConfig::default())
    };
    for index in 0..150 {
        let document = generate(&config, &fonts, index).unwrap();
        let mut values = Vec::new();
        let mut extremes = Vec::new();
        for duo in &document.duos {
            match duo.field.as_str() {
                "share" | "value" => {
                    let value: i64 = duo.gold.trim_end_matches('%').parse().unwrap();
                    values.push((value, duo.extractive_answer.clone()));
                }
                "highest" => extremes.push((true, duo.gold.clone())),
                "lowest" => extremes.push((false, duo.gold.clone())),
                _ => {}
            }
        }
        if document.kind == DocKind::PieChart {
            assert_eq!(
                values.iter().map(|v| v.0).sum::<i64>(),
                100,
                "{}",
                document.transcription
            );
        }
        values.sort();
        assert_eq!(extremes.len(), 2);
        for (high, label) in extremes {
            let end = if high { values.last() } else { values.first() }.unwrap();
            assert!(
                end.1.contains(&label),
                "{index}: {label} against {values:?}"
            );
        }
    }
}
