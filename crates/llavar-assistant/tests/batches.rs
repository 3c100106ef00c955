//! Batches of any size and any mixture of pictures give the answers that each question gets alone.
#![allow(clippy::unwrap_used)]

use std::{ops::ControlFlow, path::Path};

use llavar_assistant::{
    Picture, PictureCache, Question,
    testing::{assistant, picture},
};
use llavar_data::Message;
use llavar_image::{DecodeLimits, RgbImage, encode_png};
use llavar_model::generation::GenerationOptions;

/// 200 questions of all lengths about 25 pictures, from 1 x 40 to 300 x 7 pixels.
fn questions() -> (Vec<RgbImage>, Vec<(usize, [Message; 1])>) {
    let sizes = [(64, 64), (1, 40), (300, 7), (97, 131), (40, 80)];
    let pictures = (0..25)
        .map(|i| {
            let (width, height) = sizes[i % sizes.len()];
            picture(width + i / sizes.len(), height, i)
        })
        .collect();
    let words = ["total", "of", "it", "what", "is", "the", "7"];
    let asked = (0..200).map(|i| {
        let length = 1 + (i * 37) % 60;
        let text: Vec<&str> = (0..length).map(|j| words[(i * 5 + j * j) % 7]).collect();
        let text = format!("<image>\n{}?", text.join(" "));
        ((i * 11) % 25, [Message::user(text)])
    });
    (pictures, asked.collect())
}

#[test]
fn two_hundred_prompts_of_mixed_pictures_do_not_depend_on_their_batch() {
    let assistant = assistant();
    let (pictures, asked) = questions();
    let options = GenerationOptions {
        max_new_tokens: 12,
        ..assistant.defaults()
    };
    // Alone: the picture encoded for itself, the answer by the one-question path of `ask` and `chat`.
    let mut spaces = 0;
    let alone: Vec<_> = asked
        .iter()
        .map(|(picture, messages)| {
            let features = assistant.see(&pictures[*picture]).unwrap();
            let mut shown = String::new();
            let on_text = |piece: &str| {
                assert!(!piece.is_empty());
                shown += piece;
                ControlFlow::Continue(())
            };
            let answer = assistant.answer(messages, Some(&features), &options, on_text);
            let answer = answer.unwrap();
            // What is shown as it comes is the answer, without the space around it.
            assert_eq!(shown, answer.text);
            let raw = assistant.tokenizer().decode(&answer.ids, true).unwrap();
            spaces += usize::from(raw.starts_with(' ')) + usize::from(raw.ends_with(' '));
            answer
        })
        .collect();
    assert!(spaces > 0, "no answer has space around it");
    let different: std::collections::HashSet<_> = alone.iter().map(|a| &a.ids).collect();
    assert!(
        different.len() > 100,
        "{} answers show little",
        different.len()
    );
    let lengths: std::collections::HashSet<_> = alone.iter().map(|a| a.new_tokens).collect();
    assert!(lengths.len() > 1, "all answers are of one length");

    let squares: Vec<RgbImage> = pictures
        .iter()
        .map(|picture| assistant.to_square(picture).unwrap())
        .collect();
    let features = assistant.see_squares(&squares).unwrap();
    let rows = features.rows() / squares.len();
    let features: Vec<_> = (0..squares.len())
        .map(|i| features.narrow(i * rows, rows).unwrap())
        .collect();
    let all: Vec<Question<'_>> = asked
        .iter()
        .map(|(picture, messages)| Question {
            messages,
            features: Some(&features[*picture]),
        })
        .collect();
    for size in [1, 3, 8, 61, 200] {
        let answers = all.chunks(size).flat_map(|some| {
            let going_on = || ControlFlow::Continue(());
            assistant.answer_many(some, &options, going_on).unwrap()
        });
        for (i, (answer, alone)) in answers.zip(&alone).enumerate() {
            let mut answer = answer.unwrap();
            // Sums of f32 in another order; the rest is the same.
            assert!((answer.score - alone.score).abs() < 1e-3 && alone.score < 0.0);
            answer.score = alone.score;
            assert_eq!(answer, *alone, "question {i}, batches of {size}");
        }
    }
}

#[test]
fn a_question_that_does_not_fit_costs_only_itself() {
    let assistant = assistant();
    let options = GenerationOptions {
        max_new_tokens: 3,
        ..assistant.defaults()
    };
    let long = "total ".repeat(assistant.model().context_length());
    let texts = ["what?", long.as_str(), "is it?"];
    let messages = texts.map(|text| [Message::user(text)]);
    let questions: Vec<_> = messages
        .iter()
        .map(|messages| Question {
            messages,
            features: None,
        })
        .collect();
    let answers = assistant
        .answer_many(&questions, &options, || ControlFlow::Continue(()))
        .unwrap();
    assert!(answers[0].is_ok() && answers[2].is_ok());
    let error = answers[1].as_ref().unwrap_err().to_string();
    assert!(error.contains("context"), "{error}");
}

/// Equal up to the rounding of sums, which depends on the pictures of a pass.
fn same(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4)
}

#[test]
fn pictures_are_encoded_once_by_content_and_memory_is_bounded() {
    let assistant = assistant();
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let files: Vec<_> = (0..6)
        .map(|i| {
            let png = encode_png(&picture(30 + i, 20, i)).unwrap();
            write(&format!("{i}.png"), &png)
        })
        .collect();
    let copy = write("copy.png", &std::fs::read(&files[0]).unwrap());
    let broken = write("broken.png", b"\x89PNG\r\n\x1a\n no picture");
    let absent = folder.path().join("absent.png");
    let ask = |cache: &mut PictureCache, paths: &[&Path]| {
        let seen = cache.see_files(&assistant, paths, 4).unwrap();
        let values = seen.into_iter().map(|seen| {
            seen.map(|features| features.to_f32_vec().unwrap())
                .map_err(|error| error.to_string())
        });
        values.collect::<Vec<_>>()
    };
    let own = |path: &Path| assistant.see_file(path).unwrap().to_f32_vec().unwrap();

    let mut cache = PictureCache::new(usize::MAX);
    let seen = ask(
        &mut cache,
        &[&files[0], &copy, &files[1], &broken, &absent, &files[0]],
    );
    let counts = cache.counts();
    assert_eq!((counts.asked, counts.encoded, counts.failed), (6, 2, 2));
    for (at, path) in [
        (0, &files[0]),
        (1, &files[0]),
        (2, &files[1]),
        (5, &files[0]),
    ] {
        assert!(same(seen[at].as_ref().unwrap(), &own(path)), "{at}");
    }
    assert!(seen[3].as_ref().unwrap_err().contains("broken.png"));
    assert!(seen[4].as_ref().unwrap_err().contains("absent.png"));
    // A later batch, and files in another order.
    ask(&mut cache, &[&files[2], &files[1], &copy]);
    assert_eq!(cache.counts().encoded, 3);

    // Room for two pictures: all six are right, memory stays, and the oldest went.
    let one = cache.bytes() / 3;
    let mut small = PictureCache::new(2 * one);
    for _ in 0..2 {
        let paths: Vec<&Path> = files.iter().map(|path| path.as_path()).collect();
        let seen = ask(&mut small, &paths);
        for (seen, path) in seen.iter().zip(&files) {
            assert!(same(seen.as_ref().unwrap(), &own(path)));
        }
        assert!(small.bytes() <= 2 * one);
    }
    assert!(small.counts().dropped >= 8, "{:?}", small.counts());
    ask(&mut small, &[&files[5]]);
    let encoded = small.counts().encoded;
    ask(&mut small, &[&files[5]]);
    assert_eq!(small.counts().encoded, encoded);

    // Pictures in memory are the same pictures.
    let limits = DecodeLimits::default();
    let read = |path: &Path| {
        let file = std::fs::read(path).unwrap();
        Picture::read(&assistant, &file, "picture 1".as_ref(), &limits)
    };
    let pictures = [&files[0], &files[2], &copy, &files[4]].map(|path| read(path).unwrap());
    let seen = cache.see(&assistant, &pictures, 2).unwrap();
    for (seen, path) in seen.iter().zip([0, 2, 0, 4]) {
        assert!(same(&seen.to_f32_vec().unwrap(), &own(&files[path])));
    }
    assert_eq!(cache.counts().encoded, 4, "all but the last were there");
    assert_eq!(small.see(&assistant, &pictures, 2).unwrap().len(), 4);
    assert!(small.bytes() <= 2 * one);
    let error = read(&broken).unwrap_err().to_string();
    assert!(
        error.contains("picture 1") && !error.contains("broken.png"),
        "{error}"
    );
}
