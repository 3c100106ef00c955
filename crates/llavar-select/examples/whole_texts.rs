//! Teaches a model whole texts: questions and markers as well as answers, with and without the picture,
//! pairs alone and in duos. Instruction tuning supervises answers behind a picture only; a model that knows
//! nothing else (as the quickstart's, which begins at random weights) gives losses of questions, and of
//! anything without a picture, that mean nothing. Published models have learned whole texts before.
//!
//! `cargo run --release -p llavar-select --example whole_texts -- MODEL DATA.json IMAGE_FOLDER STEPS OUT`

use std::{error::Error, path::Path};

use llavar_assistant::Assistant;
use llavar_data::{Dataset, IMAGE_TAG, IMAGE_TOKEN_INDEX, ImageSource, MaskMode, Message, Sample};
use llavar_select::{Duos, pairs};
use llavar_tensor::{
    Device, Segments, Tape, Tensor,
    optim::{AdamW, Moments, Precision, StepState},
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const BATCH: usize = 16;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [folder, data, images, steps, out] = args.as_slice() else {
        return Err("give MODEL DATA.json IMAGE_FOLDER STEPS OUT".into());
    };
    let steps: usize = steps.parse()?;
    let assistant = Assistant::load(Path::new(folder), None)?;
    let model = assistant.model();
    let data = Dataset::open(Path::new(data), Some(Path::new(images)))?;
    let samples: Vec<Sample> = data.iter().collect::<Result<_, _>>()?;
    // The towers stay as they are, so every picture is looked at once.
    let mut features = Vec::with_capacity(samples.len());
    for (i, sample) in samples.iter().enumerate() {
        let ImageSource::File(path) = data.image(i, sample, 0)? else {
            return Err("give a data set with picture files".into());
        };
        features.push(assistant.see_file(&path)?);
    }
    let of_language = |name: &str| !name.contains("vision_tower") && !name.contains("mm_projector");
    let mut trained = Vec::new();
    for param in model.params() {
        let trains = of_language(param.name());
        param.set_requires_grad(trains);
        if trains {
            let moments = Moments::new(&param, Precision::F32)?;
            trained.push((param, moments));
        }
    }
    let adamw = AdamW {
        beta2: 0.99,
        ..AdamW::default()
    };
    let mut state = StepState::new(&Device::Cpu, 0, &adamw)?;
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for step in 0..steps {
        let (mut ids, mut labels, mut lengths, mut seen) = (vec![], vec![], vec![], vec![]);
        for _ in 0..BATCH {
            let at = rng.random_range(0..samples.len());
            let (text, shown) = text_of(&samples[at], &mut rng);
            let prompt = assistant.template().render(&text, false)?;
            let encoded =
                assistant
                    .template()
                    .encode(assistant.tokenizer(), &prompt, MaskMode::Exact)?;
            let before = ids.len();
            for id in encoded.ids {
                if id == IMAGE_TOKEN_INDEX {
                    let positions = features[at].rows();
                    ids.extend(std::iter::repeat_n(-1, positions));
                    labels.extend(std::iter::repeat_n(-100, positions));
                } else {
                    ids.push(id as i32);
                    labels.push(id as i32);
                }
            }
            lengths.push(ids.len() - before);
            if shown {
                seen.push(features[at].clone());
            }
        }
        let segments = Segments::from_lengths(lengths);
        let seen = match seen.is_empty() {
            true => None,
            false => Some(Tensor::concat(&seen)?.into()),
        };
        let tape = Tape::training();
        let hidden = model.hidden(&tape, &ids, &segments, seen.as_ref(), false)?;
        let loss = model
            .language_model
            .loss(&tape, &hidden, &labels, &segments)?;
        tape.backward(&loss.sum, 1.0 / loss.count as f32)?;
        state.begin(trained.iter().map(|(param, _)| param), 1.0)?;
        let lr = 5e-4 * (1.0 - step as f32 / steps as f32);
        let mut updates = adamw.updates(&state)?;
        for (param, moments) in &mut trained {
            updates.add(param, moments, lr, 0.0)?;
        }
        updates.finish()?;
        trained.iter().for_each(|(param, _)| param.zero_grad());
        if step % 20 == 0 || step + 1 == steps {
            let mean = loss.sum.value().item()? / loss.count as f32;
            eprintln!("step {step}: {mean:.3} nats a token");
        }
    }
    model.save(Path::new(out), Some(Path::new(folder)))?;
    Ok(())
}

/// One of the texts that scores are made of, and whether it shows the picture.
fn text_of(sample: &Sample, rng: &mut ChaCha8Rng) -> (Vec<Message>, bool) {
    let all = pairs(sample, Duos::Auto);
    let turn = |at: usize| {
        let answer = all[at].answer.clone().unwrap_or_default();
        vec![Message::user(&all[at].question), Message::assistant(answer)]
    };
    let one = rng.random_range(0..all.len());
    let (mut text, shown) = match rng.random_range(0..10) {
        0 => (turn(one).split_off(1), false),
        1..4 => (turn(one), false),
        4..7 => (turn(one), true),
        _ => {
            let first = one - one % 2;
            let second = (first + 1).min(all.len() - 1);
            ([turn(first), turn(second)].concat(), true)
        }
    };
    if shown {
        text[0].text = format!("{IMAGE_TAG}\n{}", text[0].text);
    }
    (text, shown)
}
