//! The same samples packed and padded: what packing alone brings.
//!
//! Padded is the reference's layout: eight samples a micro-batch, in random order or grouped by length as
//! `group_by_modality_length` does, each filled up on the right to the longest. Packed is ours: packs of 8,192
//! tokens. Pictures, weights, kernels and recomputation are the same, and an update follows as many samples.

use std::time::Instant;

use llavar_data::{packing::pack_in_windows, sampler::epoch_permutation};
use llavar_model::{Checkpointing, LlavaModel};
use llavar_tensor::{PixelLevels, Segments, Tape, Tensor, optim::Precision};

use super::{Bench, Result, update::Update, words::Words};
use crate::{Row, flops};

/// Text tokens, supervised tokens and pictures of real samples: conversations about receipts (SROIE 2019, short
/// answers and answers with explanations), single questions about receipts and forms, and those without their
/// picture; phi-3's tokenizer and template. Made by `llavar-data`'s example `lengths`.
const LENGTHS: &str = include_str!("lengths.txt");
/// Samples of a padded micro-batch.
const SAMPLES: usize = 8;
/// Tokens of a pack.
const PACK: usize = 8192;
/// Padded micro-batches between updates: as many samples as a pack holds.
const ACCUMULATION: usize = 2;
/// Samples that are trained on for one figure.
const MEASURED: usize = 512;
const IMAGE: i32 = -200;

/// One sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sample {
    text: usize,
    supervised: usize,
    images: usize,
}

/// One micro-batch: samples, and the length of each row where they are padded.
struct Micro {
    samples: Vec<Sample>,
    row: Option<usize>,
}

/// How samples become micro-batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    Padded,
    PaddedByLength,
    Packed,
}

impl Layout {
    const ALL: [Self; 3] = [Self::Padded, Self::PaddedByLength, Self::Packed];

    fn name(self) -> &'static str {
        match self {
            Self::Padded => "padded to the longest of 8, random order",
            Self::PaddedByLength => "padded to the longest of 8, grouped by length",
            Self::Packed => "packed into 8192",
        }
    }
}

fn samples() -> Vec<Sample> {
    let numbers = |line: &str| -> Option<Sample> {
        let mut numbers = line.split_whitespace().map(str::parse);
        let mut next = || numbers.next()?.ok();
        Some(Sample {
            text: next()?,
            supervised: next()?,
            images: next()?,
        })
    };
    let all: Vec<Sample> = LENGTHS.lines().filter_map(numbers).collect();
    let order = epoch_permutation(all.len(), 1, 0);
    order.into_iter().take(MEASURED).map(|i| all[i]).collect()
}

/// Micro-batches of samples, a picture taking `picture` positions.
fn micro_batches(samples: &[Sample], layout: Layout, picture: usize) -> Result<Vec<Micro>> {
    let length = |s: &Sample| s.text + s.images * picture;
    if layout == Layout::Packed {
        let lengths: Vec<u32> = samples.iter().map(|s| length(s) as u32).collect();
        let members: Vec<u32> = (0..lengths.len() as u32).collect();
        let packs = pack_in_windows(&members, &lengths, PACK, 1)?;
        let pack = |n| packs.get(n).iter().map(|&i| samples[i as usize]).collect();
        let all = (0..packs.len()).map(|n| Micro {
            samples: pack(n),
            row: None,
        });
        return Ok(all.collect());
    }
    let mut order = samples.to_vec();
    if layout == Layout::PaddedByLength {
        // Within megabatches of an update's samples, with and without picture apart (spec 5.5).
        order.sort_by_key(|s| s.images);
        for mega in order.chunks_mut(SAMPLES * ACCUMULATION) {
            mega.sort_by_key(|s| std::cmp::Reverse(length(s)));
        }
    }
    let all = order.chunks(SAMPLES).map(|samples| Micro {
        samples: samples.to_vec(),
        row: samples.iter().map(length).max(),
    });
    Ok(all.collect())
}

/// Ids, labels and segments of a micro-batch.
fn stream(micro: &Micro, picture: usize, words: Words) -> (Vec<i32>, Vec<i32>, Segments) {
    let (mut ids, mut labels, mut lengths) = (Vec::new(), Vec::new(), Vec::new());
    for (n, sample) in micro.samples.iter().enumerate() {
        let begun = ids.len();
        let word = |i: usize| words.id(n, i);
        let before = sample.text.min(20);
        ids.extend((0..before).map(word));
        ids.extend(std::iter::repeat_n(IMAGE, sample.images * picture));
        ids.extend((before..sample.text).map(word));
        let length = ids.len() - begun;
        // The last of the text; where in it is of no matter to the time.
        let taught = sample.supervised.min(sample.text.saturating_sub(1));
        labels.extend(std::iter::repeat_n(-100, length - taught));
        labels.extend((0..taught).map(word));
        let padded = micro.row.unwrap_or(length).max(length);
        ids.extend(std::iter::repeat_n(0, padded - length));
        labels.extend(std::iter::repeat_n(-100, padded - length));
        lengths.push(padded);
    }
    (ids, labels, Segments::from_lengths(lengths))
}

impl Bench<'_> {
    pub(super) fn packing(
        &mut self,
        model: &LlavaModel,
        precision: Precision,
        progress: &mut impl FnMut(&str),
    ) -> Result<()> {
        let picture = model.tokens_per_image().unwrap_or(0);
        let side = self.pixels(1)?.shape()[1];
        let levels: PixelLevels =
            std::array::from_fn(|_| std::array::from_fn(|v| v as f32 / 128.0 - 1.0));
        let mut update = Update::new(self.device, model, precision)?;
        let words = self.words();
        let samples = samples();
        let useful: usize = samples.iter().map(|s| s.text + s.images * picture).sum();
        let mut padded_rate = None;
        for layout in Layout::ALL {
            let all = micro_batches(&samples, layout, picture)?;
            let per_update = if layout == Layout::Packed {
                1
            } else {
                ACCUMULATION
            };
            progress(&format!(
                "{}: {} samples in {} micro-batches",
                layout.name(),
                samples.len(),
                all.len()
            ));
            let (mut computed, mut forward) = (0, 0.0);
            let mut pass = |count: bool| -> Result<()> {
                for group in all.chunks(per_update) {
                    update.zero_grad();
                    for micro in group {
                        let (ids, labels, segments) = stream(micro, picture, words);
                        if count {
                            computed += ids.len();
                            let lengths: Vec<usize> = segments.ranges().map(|r| r.len()).collect();
                            forward += flops::language_model(&self.config, &lengths);
                        }
                        let images: usize = micro.samples.iter().map(|s| s.images).sum();
                        let shape = [images, side, side, 3];
                        let rgb: Vec<u8> = vec![97; shape.iter().product()];
                        let pixels = (images > 0)
                            .then(|| {
                                let dtype = precision.weights();
                                Tensor::from_rgb(&rgb, &shape, &levels, self.device, dtype)
                            })
                            .transpose()?;
                        let tape = Tape::training();
                        let loss = model.loss(
                            &tape,
                            &ids,
                            &labels,
                            &segments,
                            pixels.as_ref(),
                            Checkpointing::ALL,
                        )?;
                        tape.backward(&loss.sum, 1e-4)?;
                    }
                    update.step()?;
                }
                Ok(())
            };
            // Shapes are met for the first time.
            pass(true)?;
            self.device.synchronize()?;
            self.cuda.reset_peak();
            let start = Instant::now();
            pass(false)?;
            self.device.synchronize()?;
            let ms = start.elapsed().as_secs_f64() * 1e3;
            let rate = useful as f64 / ms * 1e3;
            let images: usize = samples.iter().map(|s| s.images).sum();
            let supervised: usize = samples.iter().map(|s| s.supervised).sum();
            let flops = forward
                + flops::read_rows(&self.config, supervised)
                + images as f64 * flops::vision(&self.config);
            let (floor_ms, floor) = self.operations(3.0 * flops);
            let ratio = match padded_rate {
                None => String::new(),
                Some(padded) => format!(", {:.2} x the first row", rate / padded),
            };
            padded_rate.get_or_insert(rate);
            self.rows.push(Row {
                work: format!("real lengths, {}", layout.name()),
                rate,
                unit: "useful tok/s".into(),
                ms,
                floor_ms,
                floor,
                mfu_percent: None,
                peak_gib: self.peak_gib(),
                note: format!(
                    "{useful} useful of {computed} computed tokens ({:.1} %), {precision}, full recompute{ratio}",
                    100.0 * useful as f64 / computed as f64
                ),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use llavar_model::config::Preset;

    use super::*;

    #[test]
    fn every_layout_has_all_samples_and_padding_counts_for_nothing() {
        let samples = samples();
        assert_eq!(samples.len(), MEASURED);
        let config = Preset::Nano768.config(None).unwrap();
        let (words, vocab) = (Words::of(&config), config.llm.vocab_size as i32);
        let sum = |f: fn(&Sample) -> usize| samples.iter().map(f).sum::<usize>();
        let useful = sum(|s| s.text + s.images * 576);
        for layout in Layout::ALL {
            let all = micro_batches(&samples, layout, 576).unwrap();
            let (mut tokens, mut images, mut taught, mut rows) = (0, 0, 0, 0);
            for micro in &all {
                let (ids, labels, segments) = stream(micro, 576, words);
                assert_eq!(
                    (ids.len(), labels.len()),
                    (segments.total(), segments.total())
                );
                assert!(ids.iter().chain(&labels).all(|id| *id < vocab));
                tokens += ids.len();
                images += ids.iter().filter(|id| **id == IMAGE).count();
                taught += labels.iter().filter(|l| **l >= 0).count();
                rows += micro.samples.len();
                match layout {
                    Layout::Packed => assert!(ids.len() <= PACK),
                    _ => assert!(micro.samples.len() <= SAMPLES),
                }
            }
            assert_eq!((rows, images), (samples.len(), 576 * sum(|s| s.images)));
            assert_eq!(taught, sum(|s| s.supervised.min(s.text - 1)));
            let share = useful as f64 / tokens as f64;
            eprintln!(
                "{}: {:.1} % of {tokens} tokens are useful",
                layout.name(),
                100.0 * share
            );
            match layout {
                Layout::Packed => assert_eq!(tokens, useful),
                _ => assert!(share < 1.0),
            }
        }
    }
}
