//! Scores of duos: what `llavar select score` computes, without reading pictures and texts.

use std::{ops::Range, time::Instant};

use llavar_model::{LlavaModel, SharedPrefixes};
use llavar_select::span_losses;
use llavar_tensor::Tape;

use super::{Bench, BenchError, Result, words::Words};
use crate::{Row, flops};

/// Pictures of a pass.
const PICTURES: usize = 16;
/// Duos of two pictures: LLaVAR-2 has nine pairs of pairs on two pictures.
const DUOS_OF_TWO: usize = 9;
/// Tokens before picture or question, of a question with its marker, of an answer with its marker.
const SYSTEM: usize = 16;
const QUESTION: usize = 18;
const ANSWER: usize = 28;

/// The texts of a pass with the spans of their losses.
struct Texts {
    ids: Vec<Vec<i32>>,
    spans: Vec<(usize, Range<usize>)>,
}

impl Texts {
    /// Every pair without picture (two losses), its answer alone, with its picture, and behind the first
    /// pair of its duo.
    fn new(pictures: usize, positions: usize, words: Words) -> Self {
        let mut new = Self {
            ids: Vec::new(),
            spans: Vec::new(),
        };
        let system: Vec<i32> = (0..SYSTEM).map(|j| words.id(0, j)).collect();
        let mut number = 0;
        for picture in 0..pictures {
            let view = vec![-1 - picture as i32; positions];
            let duos = (DUOS_OF_TWO + picture % 2) / 2;
            for _ in 0..duos {
                let pairs: Vec<[Vec<i32>; 2]> = (0..2)
                    .map(|_| {
                        number += 1;
                        let run = |from: usize, n: usize| {
                            (from..from + n).map(|j| words.id(number, j)).collect()
                        };
                        [run(0, QUESTION), run(QUESTION, ANSWER)]
                    })
                    .collect();
                for [question, answer] in &pairs {
                    let both = [&question[..], answer].concat();
                    let at = new.add(&[&system, &both]);
                    let end = SYSTEM + both.len();
                    new.spans.push((at, SYSTEM + QUESTION..end));
                    new.spans.push((at, SYSTEM..end));
                    let at = new.add(&[&system, answer]);
                    new.spans.push((at, SYSTEM..SYSTEM + ANSWER));
                    let at = new.add(&[&system, &view, &both]);
                    let start = SYSTEM + positions;
                    new.spans.push((at, start..start + both.len()));
                }
                let all = pairs.concat().concat();
                let at = new.add(&[&system, &view, &all]);
                let start = SYSTEM + positions + all.len() / 2;
                new.spans.push((at, start..start + all.len() / 2));
            }
        }
        new
    }

    fn add(&mut self, parts: &[&[i32]]) -> usize {
        self.ids.push(parts.concat());
        self.ids.len() - 1
    }
}

impl Bench<'_> {
    pub(super) fn select(
        &mut self,
        model: &LlavaModel,
        progress: &mut impl FnMut(&str),
    ) -> Result<()> {
        progress("scores of duos");
        let positions = model.tokens_per_image().unwrap_or(0);
        let texts = Texts::new(PICTURES, positions, self.words());
        let duos = PICTURES * DUOS_OF_TWO / 2;
        let pixels = self.pixels(PICTURES)?.to_device(self.device)?;
        let pass = || -> Result<()> {
            let features = model.encode_images(&Tape::inference(), &pixels, false)?;
            let losses = span_losses(model, &texts.ids, &texts.spans, Some(features.value()))?;
            match losses.iter().all(|loss| loss.is_finite()) {
                true => Ok(()),
                false => Err(BenchError::NotFinite),
            }
        };
        self.cuda.reset_peak();
        pass()?;
        let mut ms = f64::INFINITY;
        for _ in 0..5 {
            let start = Instant::now();
            pass()?;
            ms = ms.min(1e3 * start.elapsed().as_secs_f64());
        }
        let (count, flops) = self.select_flops(&texts);
        let (floor_ms, floor) = self.operations(flops);
        self.rows.push(Row {
            work: format!("all scores of {duos} duos on {PICTURES} pictures"),
            rate: duos as f64 / ms * 1e3,
            unit: "duos/s".into(),
            ms,
            floor_ms,
            floor,
            mfu_percent: Some(self.mfu(flops, ms)),
            peak_gib: self.peak_gib(),
            note: format!(
                "{count} tokens in one pass, vision tower included, reading of pictures not"
            ),
        });
        Ok(())
    }

    /// Tokens of a pass, and the operations that they need where nothing is computed twice.
    fn select_flops(&self, texts: &Texts) -> (usize, f64) {
        let mut shared = SharedPrefixes::new();
        let mut unshared = 0;
        for ids in &texts.ids {
            shared.push(ids, false);
            unshared += ids.len();
        }
        let tokens = shared.tokens();
        let lengths: Vec<usize> = texts.ids.iter().map(Vec::len).collect();
        // All texts alone, less the products of what they share; attention is to all that stands before.
        let llm = flops::language_model(&self.config, &lengths)
            - (unshared - tokens) as f64 * flops::language_model(&self.config, &[1]);
        let scored: usize = texts.spans.iter().map(|(_, span)| span.len()).sum();
        let vision = PICTURES as f64 * flops::vision(&self.config);
        (
            tokens,
            llm + flops::read_rows(&self.config, scored) + vision,
        )
    }
}

#[cfg(test)]
mod tests {
    use llavar_model::config::Preset;

    use super::*;

    #[test]
    fn texts_are_of_the_vocabulary_and_of_the_pictures() {
        let config = Preset::Nano768.config(None).unwrap();
        let texts = Texts::new(PICTURES, 576, Words::of(&config));
        let rows = -(PICTURES as i32)..config.llm.vocab_size as i32;
        assert!(texts.ids.iter().flatten().all(|id| rows.contains(id)));
        // Two pairs a duo, each alone, its answer alone and with its picture, and the second behind the first.
        assert_eq!(texts.ids.len(), PICTURES * DUOS_OF_TWO / 2 * 7);
    }
}
