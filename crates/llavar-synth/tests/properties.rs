//! What holds for every document: texts agree with the picture, boxes lie inside, nothing collides.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashSet;

use llavar_synth::{
    Damage, Detail, DocKind, Document, FontSet, ImageKind, Language, Layout, PROFILES, Split,
    SynthConfig, WriteOptions, generate, overlap, read_facts, write_set,
};

fn fonts() -> FontSet {
    FontSet::embedded().unwrap()
}

fn flat(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

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

/// Small pictures keep the test quick; layouts scale with the picture.
fn small(config: SynthConfig) -> SynthConfig {
    SynthConfig {
        width: [280, 460],
        height: [280, 460],
        ..config
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

#[test]
fn a_document_depends_on_config_and_index_alone() {
    let (one, two) = (fonts(), fonts());
    assert_eq!(one.hash(), two.hash());
    let config = SynthConfig {
        damage: Damage::level(1.0),
        ..small(SynthConfig::default())
    };
    let backwards: Vec<_> = (0..30)
        .rev()
        .map(|i| generate(&config, &two, i).unwrap())
        .collect();
    for (i, other) in backwards.into_iter().rev().enumerate() {
        assert_eq!(generate(&config, &one, i as u64).unwrap(), other);
    }
    let other = SynthConfig {
        seed: 1,
        ..config.clone()
    };
    assert_ne!(
        generate(&config, &one, 0).unwrap(),
        generate(&other, &one, 0).unwrap()
    );
}

/// Every file below a folder with its bytes.
fn files(folder: &std::path::Path) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for folder in [folder.to_owned(), folder.join("images")] {
        for entry in std::fs::read_dir(&folder)
            .unwrap()
            .flatten()
            .filter(|e| e.path().is_file())
        {
            all.push((
                entry.file_name().into_string().unwrap(),
                std::fs::read(entry.path()).unwrap(),
            ));
        }
    }
    all.sort();
    all
}

/// A profile in which everything printed is asked for, with self-explain pairs.
fn asking_all(profile: &str) -> SynthConfig {
    SynthConfig {
        fields: Vec::new(),
        self_explain: 1.0,
        ..SynthConfig::profile(profile).unwrap()
    }
}

#[test]
fn a_set_is_the_beginning_of_a_larger_one_at_any_thread_count() {
    let folder = tempfile::tempdir().unwrap();
    let (small_dir, large_dir) = (folder.path().join("small"), folder.path().join("large"));
    let (fonts, config) = (fonts(), asking_all("quickstart"));
    let options = WriteOptions {
        images: ImageKind::Png,
        first: 0,
    };
    let pool = |threads| {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap()
    };
    let write = |n, dir: &std::path::Path, threads| {
        pool(threads)
            .install(|| write_set(&config, &fonts, n, dir, &options, &|_, _| true))
            .unwrap()
    };
    let card = write(10, &small_dir, 1);
    assert_eq!((card.pictures, card.facts), (10, 20));
    write(25, &large_dir, 3);
    let large: HashSet<(String, Vec<u8>)> = files(&large_dir).into_iter().collect();
    let mut images = 0;
    for (name, bytes) in files(&small_dir) {
        if name.ends_with(".png") {
            images += 1;
            assert!(large.contains(&(name, bytes)));
        } else if name.ends_with(".jsonl") {
            let (_, whole) = large.iter().find(|f| f.0 == name).unwrap();
            assert!(whole.starts_with(&bytes), "{name}");
        } else {
            serde_json::from_slice::<serde_json::Value>(&bytes).unwrap();
            assert!(!name.starts_with('.'), "{name} was left behind");
        }
    }
    assert_eq!(images, 10);
    let data: serde_json::Value =
        serde_json::from_slice(&std::fs::read(small_dir.join("data.json")).unwrap()).unwrap();
    for sample in data.as_array().unwrap() {
        let turns = sample["conversations"].as_array().unwrap();
        assert_eq!(turns.len() % 4, 0);
        for (i, turn) in turns.iter().enumerate() {
            assert_eq!(turn["from"], ["human", "gpt"][i % 2]);
            assert_eq!(
                turn["value"].as_str().unwrap().starts_with("<image>\n"),
                i == 0
            );
        }
        assert!(small_dir.join(sample["image"].as_str().unwrap()).is_file());
    }
}

#[test]
fn a_stopped_run_leaves_no_lists() {
    let folder = tempfile::tempdir().unwrap();
    let (fonts, config) = (fonts(), asking_all("quickstart"));
    let options = WriteOptions::default();
    let result = write_set(&config, &fonts, 50, folder.path(), &options, &|done, _| {
        done < 3
    });
    assert!(result.unwrap_err().to_string().contains("stopped"));
    assert!(files(folder.path()).iter().all(|f| f.0.ends_with(".jpg")));
}

#[test]
fn held_out_pictures_show_no_content_of_training() {
    let folder = tempfile::tempdir().unwrap();
    let fonts = fonts();
    let config = SynthConfig {
        width: [128; 2],
        ..asking_all("quickstart")
    };
    let mut facts = Vec::new();
    for (split, n) in [(Split::Train, 600), (Split::HeldOut, 60)] {
        let dir = folder.path().join(format!("{split:?}"));
        let options = WriteOptions::default();
        write_set(
            &config.clone().with_split(split),
            &fonts,
            n,
            &dir,
            &options,
            &|_, _| true,
        )
        .unwrap();
        facts.push(read_facts(&dir.join("facts.jsonl")).unwrap());
    }
    let found = overlap(&facts[0], &facts[1]);
    assert_eq!((found.pictures, found.shared_pictures), (60, 0));
    // The vocabulary is closed: the single facts have mostly been seen.
    assert!(found.shared_facts * 10 > found.facts * 3, "{found:?}");
    // The check itself finds what is shared.
    assert_eq!(overlap(&facts[0], &facts[0]).shared_pictures, 600);
}

#[test]
fn bad_settings_are_all_named() {
    let config = SynthConfig {
        width: [10, 5],
        kinds: Vec::new(),
        max_facts: 0,
        made_up: f32::NAN,
        letters: [0, 3],
        fields: vec!["totl".to_owned()],
        ..SynthConfig::default()
    };
    let text = config.validate().unwrap_err().to_string();
    for key in ["width", "kinds", "max_facts", "made_up", "letters", "totl"] {
        assert!(text.contains(key), "{key} is missing in: {text}");
    }
    let config = SynthConfig {
        fonts: vec!["Comic".to_owned()],
        ..SynthConfig::default()
    };
    assert!(
        generate(&config, &fonts(), 0)
            .unwrap_err()
            .to_string()
            .contains("Comic")
    );
    assert!(
        SynthConfig::profile("quick")
            .unwrap_err()
            .to_string()
            .contains("quickstart")
    );
    let tiny = SynthConfig {
        kinds: vec![DocKind::Sign],
        vocabulary: 2,
        amount_digits: 1,
        held_out_every: 1000,
        split: Split::HeldOut,
        ..SynthConfig::profile("quickstart").unwrap()
    };
    assert!(
        generate(&tiny, &fonts(), 0)
            .unwrap_err()
            .to_string()
            .contains("vocabulary")
    );
}

#[test]
fn words_are_of_the_corpus_or_of_random_letters() {
    let mut config = SynthConfig {
        kinds: vec![DocKind::Text, DocKind::Entries, DocKind::Word],
        made_up: 0.0,
        ..SynthConfig::profile("reading").unwrap()
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("corpus.txt");
    std::fs::write(&path, "zebra  quokka\t\"okapi\" \u{4e2d} ..... tapir\n\n").unwrap();
    config.corpus = Some(path);
    config.read_corpus().unwrap();
    assert_eq!(config.texts.len(), 1);
    let known = ["zebra", "quokka", "okapi", "tapir"];
    let mut seen = 0;
    for index in 0..60 {
        let text = generate(&config, &fonts(), index)
            .unwrap()
            .transcription
            .to_lowercase();
        assert!(!text.contains(".."), "{text}");
        seen += known.iter().filter(|word| text.contains(**word)).count();
    }
    assert!(seen > 100, "{seen}");
    config.corpus = Some(folder.path().join("none.txt"));
    assert!(
        config
            .read_corpus()
            .unwrap_err()
            .to_string()
            .contains("none.txt")
    );

    config.kinds = vec![DocKind::Word];
    config.letters = [2, 3];
    for index in 0..40 {
        let text = generate(&config, &fonts(), index).unwrap().transcription;
        assert!(
            (2..=3).contains(&text.len()) && text.chars().all(char::is_alphanumeric),
            "{text}"
        );
    }
}

#[test]
fn a_config_survives_json_and_unknown_keys_are_refused() {
    let config = SynthConfig::profile("quickstart").unwrap();
    let text = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<SynthConfig>(&text).unwrap(), config);
    assert!(serde_json::from_str::<SynthConfig>(r#"{"colour": 1}"#).is_err());
}

#[test]
fn facts_are_asked_in_random_order_in_every_profile() {
    let fonts = fonts();
    for profile in PROFILES {
        for kind in SynthConfig::profile(profile).unwrap().kinds {
            let config = SynthConfig {
                kinds: vec![kind],
                ..asking_all(profile)
            };
            // How often the question asked first is about the text that stands first.
            let (mut first, mut several) = (0, 0);
            for index in 0..60 {
                let document = generate(&config, &fonts, index).unwrap();
                let text = flat(&document.transcription);
                let at: Vec<_> = document.duos.iter().map(|d| text.find(&d.gold)).collect();
                if at.len() > 1 && at.iter().min() != at.iter().max() {
                    several += 1;
                    first += i32::from(at.first() == at.iter().min());
                }
            }
            // A single word has nothing else to ask for.
            assert!(
                kind == DocKind::Word
                    || several >= 30 && first * 100 > 8 * several && first * 100 < 75 * several,
                "{profile} {}: {first} of {several}",
                kind.name()
            );
        }
    }
}

#[test]
fn only_the_wanted_fields_are_asked() {
    let fields = vec!["total".to_owned()];
    let config = SynthConfig {
        kinds: vec![DocKind::Receipt],
        fields,
        ..small(SynthConfig::default())
    };
    let document = generate(&config, &fonts(), 3).unwrap();
    assert_eq!(document.duos.len(), 1);
    assert_eq!(document.duos[0].field, "total");
}

#[test]
fn font_folders_add_faces_and_change_the_hash() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("broken.ttf"), b"no font").unwrap();
    let set = FontSet::with_folders(&[folder.path()]).unwrap();
    assert_eq!(set.hash(), fonts().hash());
    std::fs::write(
        folder.path().join("new.ttf"),
        epaint_default_fonts::HACK_REGULAR,
    )
    .unwrap();
    let set = FontSet::with_folders(&[folder.path()]).unwrap();
    assert_ne!(set.hash(), fonts().hash());
    assert_eq!(set.names().len(), fonts().names().len() + 1);
    assert!(FontSet::with_folders(&[folder.path().join("absent")]).is_err());
}
