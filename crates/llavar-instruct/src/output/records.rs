//! Results as LLaVA records.

use std::collections::HashMap;

use llavar_data::{IMAGE_TAG, Role, Sample, SampleId, Turn};
use serde_json::{Map, json};

use crate::PictureResult;

/// Instructions for captions; which one is a matter of the picture's hash.
const DESCRIBE: [&str; 8] = [
    "Describe the image in detail, including the text that is in it.",
    "What does this image show, and what is written in it?",
    "Give a detailed description of this image and its text.",
    "Write a detailed caption for this image. Quote the text that can be read.",
    "Describe what is to be seen and to be read in this image.",
    "Explain this image to somebody who cannot see it, with all its text.",
    "What is in this image? Mention the text and where it stands.",
    "Please describe this image thoroughly, its text included.",
];

/// Whether a picture is for testing.
pub(super) fn is_test(hash: &str, fraction: f64) -> bool {
    let head = hash.get(..13).unwrap_or_default();
    let place = u64::from_str_radix(head, 16).unwrap_or(0);
    (place as f64 / (1u64 << 52) as f64) < fraction
}

/// One record a picture, all its duos in one conversation (spec 5.2).
pub(super) fn duos(pictures: &[&PictureResult]) -> Vec<Sample> {
    let with_duos = pictures.iter().filter(|picture| !picture.duos.is_empty());
    records(with_duos.copied(), |picture| {
        picture
            .duos
            .iter()
            .flat_map(|duo| duo.texts().map(str::to_owned))
            .collect()
    })
}

/// One record a picture: an instruction and the caption.
pub(super) fn captions(pictures: &[&PictureResult]) -> Vec<Sample> {
    let with_caption = pictures.iter().filter(|picture| picture.caption.is_some());
    records(with_caption.copied(), |picture| {
        let digit = picture.hash.get(15..16).unwrap_or_default();
        let which = usize::from_str_radix(digit, 16).unwrap_or(0) % DESCRIBE.len();
        let caption = picture.caption.clone().unwrap_or_default();
        vec![DESCRIBE[which].to_owned(), caption]
    })
}

fn records<'a>(
    pictures: impl Iterator<Item = &'a PictureResult> + Clone,
    texts: impl Fn(&PictureResult) -> Vec<String>,
) -> Vec<Sample> {
    let stem = |name: &'a str| name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    let mut times: HashMap<&str, usize> = HashMap::new();
    for picture in pictures.clone() {
        *times.entry(stem(&picture.name)).or_default() += 1;
    }
    pictures
        .map(|picture| {
            // `a.png` and `a.jpg` are two.
            let id = match times[stem(&picture.name)] {
                1 => stem(&picture.name),
                _ => &picture.name,
            };
            let turn = |(i, text): (usize, String)| Turn {
                from: if i % 2 == 0 { Role::Human } else { Role::Gpt },
                value: match i {
                    0 => format!("{IMAGE_TAG}\n{text}"),
                    _ => text,
                },
            };
            let mut extra = Map::new();
            extra.insert("source".into(), json!("hybrid_instruct"));
            Sample {
                id: SampleId::Text(id.to_owned()),
                images: vec![picture.name.clone()],
                conversations: texts(picture).into_iter().enumerate().map(turn).collect(),
                extra,
                dropped_turns: 0,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_split_is_by_content_and_of_the_asked_size() {
        let hash = |i: u32| {
            use sha2::{Digest, Sha256};
            crate::duo::hex(&Sha256::digest(i.to_le_bytes()))
        };
        let test = (0..4000).filter(|i| is_test(&hash(*i), 0.1)).count();
        assert!((320..480).contains(&test), "{test}");
        assert!(!is_test(&hash(1), 0.0) && is_test(&hash(1), 1.0));
        // A picture for testing stays one when the share grows.
        assert!((0..500).all(|i| !is_test(&hash(i), 0.1) || is_test(&hash(i), 0.2)));
    }
}
