//! Pairs a second of packed scoring beside the released scripts' way: one text a forward pass, the picture
//! encoded again for each, logits of every token, losses read token by token.
//!
//! `cargo run --release -p llavar-select --example speed -- MODEL DATA.json IMAGE_FOLDER SAMPLES`

use std::{error::Error, path::Path, time::Instant};

use llavar_assistant::Assistant;
use llavar_data::{Dataset, IMAGE_TAG, MaskMode, Message, TurnSpan};
use llavar_image::{DecodeLimits, RgbImage, decode_file};
use llavar_model::expand_image_tokens;
use llavar_select::{Duos, PairKind, ScoreOptions, Scorer, SeenPictures, pairs};
use llavar_tensor::{Segments, Tape, Var};

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, data, images, samples] = args.as_slice() else {
        return Err("give MODEL DATA.json IMAGE_FOLDER SAMPLES".into());
    };
    let assistant = Assistant::load(Path::new(model), None)?;
    let data = Dataset::open(Path::new(data), Some(Path::new(images)))?;
    let samples = samples.parse::<usize>()?.min(data.len());

    // Both ways once over the first sample, so that neither pays for first uses.
    let mut worst = 0f64;
    for count in [1, samples] {
        let begun = Instant::now();
        let scorer = Scorer::new(&assistant, ScoreOptions::default())?;
        let mut prepared = Vec::new();
        for i in 0..count {
            prepared.push(scorer.prepare(&data.get(i)?, i, 0, |name| data.image_path(name)));
        }
        let rows = scorer.score(prepared, &mut SeenPictures::default())?;
        let packed = begun.elapsed().as_secs_f64();

        let begun = Instant::now();
        let mut plain = Vec::new();
        for i in 0..count {
            plain.extend(one_by_one(&assistant, &data, i)?);
        }
        let alone = begun.elapsed().as_secs_f64();
        for (row, (mifd, ffd)) in rows.iter().zip(&plain) {
            worst = worst.max((row.mifd.unwrap_or(f64::NAN) - mifd).abs());
            if let (Some(a), Some(b)) = (row.ffd, ffd) {
                worst = worst.max((a - b).abs());
            }
        }
        if count == samples {
            let n = rows.len() as f64;
            println!(
                "{samples} pictures, {n} pairs: packed {packed:.2} s ({:.1} pairs/s), one by one {alone:.2} s \
                 ({:.2} pairs/s), {:.1} x; scores at most {worst:.1e} apart",
                n / packed,
                n / alone,
                alone / packed
            );
        }
    }
    Ok(())
}

/// mIFD and FFD of every pair of a sample, each forward pass alone, pictures opened for each as the
/// scripts do.
fn one_by_one(
    assistant: &Assistant,
    data: &Dataset,
    index: usize,
) -> Outcome<Vec<(f64, Option<f64>)>> {
    let sample = data.get(index)?;
    let all = pairs(&sample, Duos::Auto);
    let file = data.image_path(sample.images.first().ok_or("a sample without picture")?)?;
    let open = || decode_file(&file, &DecodeLimits::default());
    let answer = |turn: &TurnSpan| turn.answer.clone();
    let mut scores = Vec::new();
    for (i, pair) in all.iter().enumerate() {
        let reply = pair.answer.clone().unwrap_or_default();
        let text = [Message::user(&pair.question), Message::assistant(&reply)];
        let both = TurnSpan::question_and_answer;
        let seen = |messages: &[Message]| {
            let mut messages = messages.to_vec();
            messages[0].text = format!("{IMAGE_TAG}\n{}", messages[0].text);
            messages
        };
        let ifd =
            loss(assistant, &text, None, answer)? / loss(assistant, &text[1..], None, answer)?;
        let vfd = loss(assistant, &seen(&text), Some(&open()?), both)?
            / loss(assistant, &text, None, both)?;
        let mut ffd = None;
        if pair.kind == PairKind::SelfExplain {
            let before = &all[i - 1];
            let first = before.answer.clone().unwrap_or_default();
            let mut duo = vec![Message::user(&before.question), Message::assistant(&first)];
            duo.extend(text.iter().cloned());
            ffd = Some(
                loss(assistant, &seen(&duo), Some(&open()?), both)?
                    / loss(assistant, &seen(&text), Some(&open()?), both)?,
            );
        }
        scores.push((ifd * vfd, ffd));
    }
    Ok(scores)
}

/// Mean loss over a span of one text: whole logits, then token by token.
fn loss(
    assistant: &Assistant,
    messages: &[Message],
    image: Option<&RgbImage>,
    span: impl Fn(&TurnSpan) -> Option<std::ops::Range<usize>>,
) -> Outcome<f64> {
    let (model, template) = (assistant.model(), assistant.template());
    let prompt = template.render(messages, false)?;
    let encoded = template.encode(assistant.tokenizer(), &prompt, MaskMode::Exact)?;
    let span = encoded.turns.last().and_then(span).ok_or("no span")?;
    let short: Vec<i32> = encoded.ids.iter().map(|id| *id as i32).collect();
    let ids = expand_image_tokens(&short, model.tokens_per_image().unwrap_or(0));
    // The picture stands before every span.
    let shift = ids.len() - short.len();
    let features: Option<Var> = image.map(|i| assistant.see(i)).transpose()?.map(Into::into);
    let tape = Tape::inference();
    let segments = Segments::single(ids.len());
    let hidden = model.hidden(&tape, &ids, &segments, features.as_ref(), false)?;
    let logits = model.logits(&tape, &hidden)?;
    let (values, width) = (logits.value().to_f32_vec()?, logits.value().last_dim());
    let mut sum = 0.0;
    for at in span.clone() {
        let row = &values[(at + shift - 1) * width..][..width];
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let total: f64 = row.iter().map(|z| f64::from(z - max).exp()).sum();
        sum += total.ln() + f64::from(max - row[ids[at + shift] as usize]);
    }
    Ok(sum / span.len() as f64)
}
