//! A closer look: halves of the picture are asked where the whole gave no sure answer, and the surest counts.
#![allow(clippy::unwrap_used)]

use std::{collections::HashSet, ops::ControlFlow, path::Path};

use llavar_assistant::{
    Answer, Assistant, Conversation, Part, PictureCache, Question,
    testing::{self, picture},
    user_turn,
};
use llavar_image::{RgbImage, encode_png};
use llavar_model::generation::GenerationOptions;

fn alone(
    assistant: &Assistant,
    image: &RgbImage,
    question: &str,
    options: &GenerationOptions,
) -> Answer {
    let features = assistant.see(image).unwrap();
    let messages = [user_turn(1, question)];
    let question = Question {
        messages: &messages,
        features: Some(&features),
    };
    let going_on = || ControlFlow::Continue(());
    let mut answers = assistant.answer_many(&[question], options, going_on);
    answers.as_mut().unwrap().remove(0).unwrap()
}

#[test]
fn the_surest_of_a_picture_and_its_halves_answers_where_the_whole_is_unsure() {
    // Larger weights than usual, for some answers that are sure.
    let range = ("initializer_range".to_owned(), 0.6.into());
    let assistant = testing::with(vec![range]);
    let (mut looked, mut kept, mut sure) = (0, 0, 0);
    let mut answered = HashSet::new();
    for i in 0..60 {
        let image = picture(30 + i, 20 + (i * 7) % 60, i);
        // An answer of one token may be sure, a longer one of this model hardly is.
        let options = GenerationOptions {
            max_new_tokens: 1 + i % 2 * 4,
            ..assistant.defaults()
        };
        let question = format!("what is {i}?");
        let whole = alone(&assistant, &image, &question, &options);
        let halves = image.halves();
        let halves = halves.map(|half| alone(&assistant, &half, &question, &options));
        let mut conversation = Conversation::default();
        conversation.show(assistant.see(&image).unwrap());
        let (answer, closer) = conversation
            .ask_closely(&assistant, &image, &question, &options)
            .unwrap();
        assert_eq!(closer, whole.score.exp() < 0.5, "question {i}");
        let mut best = &whole;
        if closer {
            looked += 1;
            for half in &halves {
                if half.score > best.score {
                    best = half;
                }
            }
            kept += usize::from(std::ptr::eq(best, &whole));
        } else {
            sure += 1;
        }
        assert_eq!(answer, *best, "question {i}");
        answered.insert(answer.ids);
    }
    assert!(
        looked > 10 && kept > 0 && kept < looked && sure > 0,
        "{looked} looked at again, {kept} of them for nothing, {sure} sure"
    );
    assert!(
        answered.len() > 10,
        "{} answers show little",
        answered.len()
    );
}

#[test]
fn parts_of_files_are_seen_and_kept_apart_from_their_wholes() {
    let assistant = testing::assistant();
    let folder = tempfile::tempdir().unwrap();
    let images = [picture(40, 90, 1), picture(90, 40, 2)];
    let paths = [0, 1].map(|i| {
        let path = folder.path().join(format!("{i}.png"));
        std::fs::write(&path, encode_png(&images[i]).unwrap()).unwrap();
        path
    });
    let absent = folder.path().join("absent.png");
    let mut cache = PictureCache::new(usize::MAX);
    let all: Vec<(&Path, Part)> = [&paths[0], &paths[1]]
        .into_iter()
        .flat_map(|path| {
            [Part::First, Part::Whole, Part::Second].map(|part| (path.as_path(), part))
        })
        .chain([(absent.as_path(), Part::First)])
        .collect();
    let mut seen = cache.see_parts(&assistant, &all, 4).unwrap();
    assert!(
        seen.pop()
            .unwrap()
            .unwrap_err()
            .to_string()
            .contains("absent.png")
    );
    for (i, image) in images.iter().enumerate() {
        let [first, second] = image.halves();
        for (j, part) in [&first, image, &second].into_iter().enumerate() {
            let own = assistant.see(part).unwrap().to_f32_vec().unwrap();
            let got = seen[3 * i + j].as_ref().unwrap().to_f32_vec().unwrap();
            let near = own.iter().zip(&got).all(|(a, b)| (a - b).abs() < 1e-4);
            assert!(own.len() == got.len() && near, "picture {i}, part {j}");
        }
    }
    assert_eq!(cache.counts().encoded, 6);
    // All of them are kept, the wholes for those who ask for files too.
    cache
        .see_files(&assistant, &[&paths[0], &paths[1]], 4)
        .unwrap();
    cache
        .see_parts(&assistant, &[(&paths[1], Part::Second)], 4)
        .unwrap();
    assert_eq!(cache.counts().encoded, 6);
    // A whole that is kept does not stand for its halves.
    let mut other = PictureCache::new(usize::MAX);
    other.see_files(&assistant, &[&paths[0]], 4).unwrap();
    other
        .see_parts(&assistant, &[(&paths[0], Part::First)], 4)
        .unwrap();
    assert_eq!(other.counts().encoded, 2);
}
