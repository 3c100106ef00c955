//! Sets on disk and the settings that they are drawn with: the same bytes again, nothing held out shown, bad settings named.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::HashSet;

use llavar_synth::{
    Damage, DocKind, FontSet, ImageKind, PROFILES, Split, SynthConfig, WriteOptions, generate,
    overlap, read_facts, write_set,
};

use common::{asking_all, flat, fonts, small};

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
fn lists_of_an_earlier_set_go_before_its_pictures_are_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let (fonts, config) = (fonts(), asking_all("quickstart"));
    let options = WriteOptions::default();
    let write = |config: &SynthConfig, go_on: bool| {
        write_set(config, &fonts, 8, folder.path(), &options, &|_, _| go_on)
    };
    write(&config, true).unwrap();
    let whole = files(folder.path());
    assert_eq!(whole.len(), 8 + 6);
    let other = SynthConfig { seed: 9, ..config };
    assert!(write(&other, false).is_err());
    let left = files(folder.path());
    assert!(left.iter().all(|f| f.0.ends_with(".jpg")), "lists are left");
    assert_ne!(whole[..], left[..], "a picture was replaced");
    // Whole again, it is a set again.
    write(&other, true).unwrap();
    let lists = files(folder.path());
    assert_eq!(lists.iter().filter(|f| !f.0.ends_with(".jpg")).count(), 6);
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
