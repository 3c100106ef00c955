//! Training steps.

use std::time::Instant;

use llavar_model::{Checkpointing, LlavaModel};
use llavar_tensor::{Error, PixelLevels, Segments, Tape, Tensor, optim::Precision};

use super::{Bench, BenchError, Options, Result, update::Update, words::Words};
use crate::{Row, flops};

/// Id of an image position.
const IMAGE: i32 = -200;

/// Blocks that keep their activations in the row between all and none: as many as the peer's peak of memory
/// (41.6 GiB for the 3.8B shape) has room for.
const KEPT: usize = 6;

/// One packed batch of `samples` of `text` tokens and a picture of `picture` positions: 20 ids, the picture, then
/// the rest of the text, whose second half is supervised.
fn batch(
    samples: usize,
    text: usize,
    picture: usize,
    words: Words,
) -> (Vec<i32>, Vec<i32>, Segments) {
    let (mut ids, mut labels) = (Vec::new(), Vec::new());
    for sample in 0..samples {
        let word = |i: usize| words.id(sample, i);
        let before = text.min(20);
        ids.extend((0..before).map(word));
        ids.extend(std::iter::repeat_n(IMAGE, picture));
        ids.extend((before..text).map(word));
        labels.extend(std::iter::repeat_n(-100, picture + text - text / 2));
        labels.extend((text - text / 2..text).map(word));
    }
    let segments = Segments::from_lengths(vec![picture + text; samples]);
    (ids, labels, segments)
}

impl Bench<'_> {
    pub(super) fn train(
        &mut self,
        model: &LlavaModel,
        precision: Precision,
        progress: &mut impl FnMut(&str),
    ) -> Result<()> {
        let picture = model.tokens_per_image().unwrap_or(0);
        let Options { batch: n, text, .. } = *self.options;
        let (ids, labels, segments) = batch(n, text, picture, self.words());
        // Pictures come as bytes, as from the loader; the values are looked up on the device.
        let shape = self.pixels(1)?.shape().to_vec();
        let shape = [self.options.batch, shape[1], shape[2], 3];
        let rgb: Vec<u8> = (0..shape.iter().product::<usize>())
            .map(|i| (i * 31 % 251) as u8)
            .collect();
        let levels: PixelLevels = std::array::from_fn(|c| {
            std::array::from_fn(|v| (v as f32 / 255.0 - 0.45 - 0.02 * c as f32) / 0.27)
        });
        let mut update = Update::new(self.device, model, precision)?;
        let lengths: Vec<usize> = segments.ranges().map(|r| r.len()).collect();
        let supervised = labels.iter().filter(|l| **l >= 0).count();
        let forward = flops::language_model(&self.config, &lengths)
            + flops::read_rows(&self.config, supervised)
            + self.options.batch as f64 * flops::vision(&self.config);
        let pure = precision == Precision::PureBf16;
        let with_fp8 = pure && self.cuda.check_fp8().is_ok();
        let mut ways = Vec::new();
        let mut add = |checkpoint, how: String| {
            ways.push((checkpoint, false, how.clone()));
            if with_fp8 {
                ways.push((checkpoint, true, format!("{how}, FP8 products")));
            }
        };
        add(Checkpointing::ALL, "full recompute".into());
        if pure {
            let some = format!("{KEPT} blocks not recomputed");
            add(Checkpointing::keeping(KEPT), some);
            add(Checkpointing::NONE, "no recompute".into());
        }
        for (checkpoint, fp8, how) in ways {
            model.set_fp8(fp8);
            progress(&format!("training step, {precision}, {how}"));
            self.cuda.reset_peak();
            // The first and the last alone: small tensors that stay would cut the pool's memory into pieces.
            let mut losses: [Option<Tensor>; 2] = [None, None];
            let mut step = || -> Result<()> {
                update.zero_grad();
                let tape = Tape::training();
                let pixels =
                    Tensor::from_rgb(&rgb, &shape, &levels, self.device, precision.weights())?;
                let loss =
                    model.loss(&tape, &ids, &labels, &segments, Some(&pixels), checkpoint)?;
                let sum = loss.sum.value().clone();
                tape.backward(&loss.sum, 1.0 / supervised as f32)?;
                update.step()?;
                let last = usize::from(losses[0].is_some());
                losses[last] = Some(sum);
                Ok(())
            };
            let warmed = (0..2).try_for_each(|_| step());
            if let (true, Err(BenchError::Tensor(error @ Error::OutOfMemory { .. }))) =
                (fp8, &warmed)
            {
                // Copies of the weights take room that the same step in bf16 has.
                progress(&format!("{how} does not fit: {error}"));
                continue;
            }
            warmed?;
            self.device.synchronize()?;
            // Whether steps still ask the card for memory, in the first and in the second half of them.
            let reserved = || self.cuda.memory().reserved as i64;
            let (before, half) = (reserved(), self.options.steps / 2);
            let start = Instant::now();
            (0..half).try_for_each(|_| step())?;
            let between = reserved();
            (half..self.options.steps).try_for_each(|_| step())?;
            let queued = start.elapsed().as_secs_f64() * 1e3 / self.options.steps as f64;
            self.device.synchronize()?;
            let ms = start.elapsed().as_secs_f64() * 1e3 / self.options.steps as f64;
            let after = reserved();
            progress(&format!("{how}: {ms:.1} ms"));
            if self.options.profile {
                let shares = self.cuda.profile(&mut step)?;
                self.show(&shares, progress);
            }
            // Operations that the model asks for; what is computed twice is not among them.
            let (floor_ms, floor) = self.operations(3.0 * forward);
            let mut values = Vec::new();
            for loss in losses.iter().flatten() {
                values.push(loss.item()? / supervised as f32);
            }
            self.rows.push(Row {
                work: format!(
                    "SFT step, batch {} x {}, {precision}, {how}",
                    self.options.batch, lengths[0]
                ),
                rate: ids.len() as f64 / ms * 1e3,
                unit: "tok/s".into(),
                ms,
                floor_ms,
                floor,
                mfu_percent: Some(self.mfu(3.0 * forward, ms)),
                peak_gib: self.peak_gib(),
                note: format!(
                    "queued in {queued:.0} ms, loss {values:.3?}, memory from the card {:+} and {:+} bytes in the halves of {} steps",
                    between - before,
                    after - between,
                    self.options.steps
                ),
            });
        }
        model.set_fp8(false);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use llavar_model::config::Preset;

    use super::*;

    #[test]
    fn a_batch_fits_the_smallest_shape() {
        let config = Preset::Nano.config(None).unwrap();
        let words = Words::of(&config);
        let side = config.vision.as_ref().unwrap().input_image_size;
        let model = LlavaModel::init(config, 0).unwrap();
        let picture = model.tokens_per_image().unwrap();
        let (ids, labels, segments) = batch(2, 24, picture, words);
        assert_eq!(segments.total(), 2 * (24 + picture));
        let pixels = Tensor::zeros(&[2, side, side, 3]);
        let tape = Tape::inference();
        let loss = model
            .loss(&tape, &ids, &labels, &segments, Some(&pixels), false)
            .unwrap();
        let mean = loss.sum.value().item().unwrap() / 24.0;
        // That of ids drawn evenly from 2,048, about.
        assert!((mean - 7.6).abs() < 1.0, "{mean}");
    }
}
