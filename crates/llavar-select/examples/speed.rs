//! Pairs a second of packed scoring beside the released way, both in our engine on the same machine: three
//! passes over the data (IFD, VFD, FFD), one text a forward pass, the picture opened once a sample and
//! pass, prepared and encoded again for every text that shows it, logits of every token, losses read token
//! by token. The same on PyTorch: `benches/select/released.py`, for which ROWS.jsonl receives the scores.
//!
//! `cargo run --release -p llavar-select --example speed -- MODEL DATA.json IMAGE_FOLDER SAMPLES [ROWS.jsonl]`

use std::{collections::HashMap, error::Error, io::Write, path::Path, time::Instant};

use llavar_assistant::Assistant;
use llavar_data::{Dataset, IMAGE_TAG, ImageSource, MaskMode, Message, Sample, TurnSpan};
use llavar_image::{DecodeLimits, RgbImage, decode_file};
use llavar_model::expand_image_tokens;
use llavar_select::{
    Duos, PairKind, Prepared, ScoreOptions, ScoreRow, Scorer, SeenPictures, pairs,
};
use llavar_tensor::{Segments, Tape, Var};
use rayon::prelude::*;

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, data, images, samples, rows @ ..] = args.as_slice() else {
        return Err("give MODEL DATA.json IMAGE_FOLDER SAMPLES [ROWS.jsonl]".into());
    };
    let assistant = Assistant::load(Path::new(model), None)?;
    let data = Dataset::open(Path::new(data), Some(Path::new(images)))?;
    let samples: Vec<Sample> = data
        .iter()
        .take(samples.parse()?)
        .collect::<Result<_, _>>()?;

    // Both ways once over the first sample, so that neither pays for first uses.
    packed(&assistant, &data, &samples[..1])?;
    one_by_one(&assistant, &data, &samples[..1])?;
    let (ours, cost, parts) = packed(&assistant, &data, &samples)?;
    let begun = Cost::now();
    let plain = one_by_one(&assistant, &data, &samples)?;
    let alone = begun.until_now();

    let mut worst = 0f64;
    for row in &ours {
        let other = &plain[&(row.record, row.qa_id)];
        for (a, b) in [
            (row.ifd, other[0]),
            (row.mifd, other[1]),
            (row.ffd, other[2]),
        ] {
            worst = worst.max((a.unwrap_or(0.0) - b.unwrap_or(0.0)).abs());
        }
    }
    let n = ours.len() as f64;
    println!(
        "{} pictures, {n} pairs; scores at most {worst:.1e} apart",
        samples.len()
    );
    for (name, cost) in [("packed", &cost), ("one by one", &alone)] {
        println!(
            "{name:10} {:8.2} s {:8.2} pairs/s, {:8.2} s of processor time {:8.2} pairs/s",
            cost.wall,
            n / cost.wall,
            cost.cpu,
            n / cost.cpu
        );
    }
    let (wall, cpu) = (alone.wall / cost.wall, alone.cpu / cost.cpu);
    println!("{wall:.1} x by the clock, {cpu:.1} x by processor time");
    println!("packed, processor time: {}", parts.join(", "));
    if let Some(path) = rows.first() {
        let mut file = std::fs::File::create(path)?;
        for row in &ours {
            serde_json::to_writer(&mut file, row)?;
            file.write_all(b"\n")?;
        }
    }
    Ok(())
}

/// Seconds by the clock, and of all threads of this process.
struct Cost {
    wall: f64,
    cpu: f64,
    begun: Instant,
}

impl Cost {
    fn now() -> Self {
        let (wall, cpu) = (0.0, processor_seconds());
        Self {
            wall,
            cpu,
            begun: Instant::now(),
        }
    }

    fn until_now(mut self) -> Self {
        self.wall = self.begun.elapsed().as_secs_f64();
        self.cpu = processor_seconds() - self.cpu;
        self
    }
}

/// User and system time of this process by `/proc` (Linux), at 100 ticks a second; else 0.
fn processor_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks = after_name.split_whitespace().skip(11).take(2);
    ticks.filter_map(|t| t.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// As `llavar select score` does it, and what its parts cost.
fn packed(
    assistant: &Assistant,
    data: &Dataset,
    samples: &[Sample],
) -> Outcome<(Vec<ScoreRow>, Cost, Vec<String>)> {
    let begun = Cost::now();
    let scorer = Scorer::new(assistant, ScoreOptions::default())?;
    let numbered: Vec<(usize, &Sample)> = samples.iter().enumerate().collect();
    let prepared: Vec<Prepared> = numbered
        .par_iter()
        .map(|(i, sample)| scorer.prepare(sample, *i, 0, |nth| data.image(*i, sample, nth)))
        .collect();
    let reading = processor_seconds() - begun.cpu;
    let tokens: usize = prepared.iter().map(Prepared::tokens).sum();
    let rows = scorer.score(prepared, &mut SeenPictures::default())?;
    let cost = begun.until_now();
    // The tower once more, alone.
    let mut squares = Vec::new();
    for (i, sample) in samples.iter().enumerate() {
        squares.push(assistant.to_square(&open(data, i, sample)?)?);
    }
    let begun = processor_seconds();
    for square in &squares {
        assistant.see_squares(std::slice::from_ref(square))?;
    }
    let seeing = processor_seconds() - begun;
    let rest = cost.cpu - reading - seeing;
    let parts = vec![
        format!("reading pictures and texts {reading:.2} s"),
        format!("vision tower {seeing:.2} s"),
        format!("language model and losses {rest:.2} s ({tokens} tokens)"),
    ];
    Ok((rows, cost, parts))
}

fn open(data: &Dataset, index: usize, sample: &Sample) -> Outcome<RgbImage> {
    match data.image(index, sample, 0)? {
        ImageSource::File(path) => Ok(decode_file(&path, &DecodeLimits::default())?),
        ImageSource::Bytes { .. } => Err("give a data set with picture files".into()),
    }
}

type Scores = HashMap<(u64, u32), [Option<f64>; 3]>;

/// IFD, mIFD and FFD of every pair, each forward pass alone.
fn one_by_one(assistant: &Assistant, data: &Dataset, samples: &[Sample]) -> Outcome<Scores> {
    let answer = |turn: &TurnSpan| turn.answer.clone();
    let both = TurnSpan::question_and_answer;
    let seen = |messages: &[Message]| {
        let mut messages = messages.to_vec();
        messages[0].text = format!("{IMAGE_TAG}\n{}", messages[0].text);
        messages
    };
    let turns = |sample: &Sample| -> Vec<(u32, PairKind, [Message; 2])> {
        let all = pairs(sample, Duos::Auto).into_iter();
        let turns = all.map(|pair| {
            let answer = pair.answer.unwrap_or_default();
            let turn = [Message::user(&pair.question), Message::assistant(answer)];
            (pair.qa_id as u32, pair.kind, turn)
        });
        turns.collect()
    };
    let mut scores = Scores::new();
    for (i, sample) in samples.iter().enumerate() {
        for (qa_id, _, text) in turns(sample) {
            let with = loss(assistant, &text, None, answer)?;
            let ifd = with / loss(assistant, &text[1..], None, answer)?;
            scores.insert((i as u64, qa_id), [Some(ifd), None, None]);
        }
    }
    for (i, sample) in samples.iter().enumerate() {
        let image = open(data, i, sample)?;
        for (qa_id, _, text) in turns(sample) {
            let with = loss(assistant, &seen(&text), Some(&image), both)?;
            let vfd = with / loss(assistant, &text, None, both)?;
            if let Some([ifd, mifd, _]) = scores.get_mut(&(i as u64, qa_id)) {
                *mifd = ifd.map(|ifd| ifd * vfd);
            }
        }
    }
    for (i, sample) in samples.iter().enumerate() {
        let image = open(data, i, sample)?;
        let all = turns(sample);
        for duo in all
            .windows(2)
            .filter(|duo| duo[1].1 == PairKind::SelfExplain)
        {
            let texts = [&duo[0].2[..], &duo[1].2].concat();
            let with = loss(assistant, &seen(&texts), Some(&image), both)?;
            let without = loss(assistant, &seen(&duo[1].2), Some(&image), both)?;
            if let Some([.., ffd]) = scores.get_mut(&(i as u64, duo[1].0)) {
                *ffd = Some(with / without);
            }
        }
    }
    Ok(scores)
}

/// Mean loss over a span of one text: whole logits, then token by token over the whole text.
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
    let mut losses = Vec::with_capacity(ids.len());
    for at in 1..ids.len() {
        let row = &values[(at - 1) * width..][..width];
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let total: f32 = row.iter().map(|z| (z - max).exp()).sum();
        // A picture's position has no token.
        let token = usize::try_from(ids[at]).unwrap_or(0);
        losses.push(f64::from(total.ln() + max - row[token]));
    }
    let own = &losses[span.start + shift - 1..span.end + shift - 1];
    Ok(own.iter().sum::<f64>() / span.len() as f64)
}
