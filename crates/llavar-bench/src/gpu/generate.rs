//! Prefill and decoding.

use std::{ops::ControlFlow, time::Instant};

use llavar_model::{
    LlavaModel,
    generation::{GenerationOptions, Prompt, generate_many},
};

use super::{Bench, Result};
use crate::{Row, flops};

/// Tokens of a prompt: a picture and a short question.
const PROMPT: usize = 660;

/// Prompts that are read together.
const PREFILL: usize = 16;

/// Ids of an answer.
const NEW: usize = 128;

impl Bench<'_> {
    pub(super) fn generate(
        &mut self,
        model: &LlavaModel,
        progress: &mut impl FnMut(&str),
    ) -> Result<()> {
        progress("prefill");
        self.cuda.reset_peak();
        self.seconds(model, PREFILL, 2, 1)?;
        let ms = 1e3 * self.seconds(model, PREFILL, 1, 5)?;
        let flops = flops::language_model(&self.config, &[PROMPT; PREFILL])
            + flops::read_rows(&self.config, PREFILL);
        let (floor_ms, floor) = self.operations(flops);
        self.rows.push(Row {
            work: format!("prefill, {PREFILL} x {PROMPT} tokens"),
            rate: (PREFILL * PROMPT) as f64 / ms * 1e3,
            unit: "tok/s".into(),
            ms,
            floor_ms,
            floor,
            mfu_percent: Some(self.mfu(flops, ms)),
            peak_gib: self.peak_gib(),
            note: "first ids of the answers included".into(),
        });
        for count in [1, 4, 8, 16] {
            progress(&format!("decoding, {count} streams"));
            self.cuda.reset_peak();
            self.seconds(model, count, 8, 1)?;
            let short = self.seconds(model, count, 1, 3)?;
            let long = self.seconds(model, count, 1 + NEW, 3)?;
            let ms = 1e3 * (long - short) / NEW as f64;
            if self.options.profile {
                // The first steps are not yet a graph, so their kernels can be told apart.
                let shares = self
                    .cuda
                    .profile(|| self.seconds(model, count, 3, 1).map(drop))?;
                progress("prefill and two steps of decoding, without the graph");
                self.show(&shares, progress);
            }
            // Weights once, keys and values of every stream at its mean length.
            let llm = &self.config.llm;
            let cache = 2 * llm.kv_size() * llm.num_hidden_layers * (PROMPT + NEW / 2) * count;
            let bytes = 2.0 * (flops::decode_weights(&self.config) + cache) as f64;
            self.rows.push(Row {
                work: format!("decoding, {count} streams of {NEW} ids"),
                rate: count as f64 / ms * 1e3,
                unit: "tok/s".into(),
                ms,
                floor_ms: bytes / self.copy,
                floor: format!("{:.2} GB", bytes / 1e9),
                mfu_percent: None,
                peak_gib: self.peak_gib(),
                note: format!(
                    "{:.0} tok/s with the prefill counted in",
                    (count * (NEW + 1)) as f64 / long
                ),
            });
        }
        Ok(())
    }

    /// Seconds for answers of `new` ids to `count` prompts, the fastest of some runs.
    fn seconds(&self, model: &LlavaModel, count: usize, new: usize, runs: usize) -> Result<f64> {
        let words = self.words();
        let ids: Vec<Vec<i32>> = (0..count)
            .map(|i| (0..PROMPT).map(|j| words.id(i, j)).collect())
            .collect();
        let prompts: Vec<Prompt<'_>> = ids
            .iter()
            .map(|ids| Prompt {
                ids,
                features: None,
            })
            .collect();
        let options = GenerationOptions {
            max_new_tokens: new,
            ..Default::default()
        };
        let mut best = f64::INFINITY;
        for _ in 0..runs {
            let start = Instant::now();
            generate_many(model, &prompts, &options, |_, _| ControlFlow::Continue(()))?;
            best = best.min(start.elapsed().as_secs_f64());
        }
        Ok(best)
    }
}
