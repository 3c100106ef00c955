//! Questions about documents with short answers, as an evaluation asks them: pictures are encoded, read
//! with several questions each, and answered.

use std::{ops::ControlFlow, time::Instant};

use llavar_model::{
    LlavaModel,
    generation::{GenerationOptions, Prompt, generate_many},
};
use llavar_tensor::{Tape, Tensor};

use super::{Bench, BenchError, Result};
use crate::{Row, flops};

/// Pictures of a batch.
const PICTURES: usize = 16;

/// Questions about each (DocVQA's validation set: 5,349 about 1,286 pages).
const QUESTIONS: usize = 4;

/// Tokens before the picture and after it.
const BEFORE: usize = 12;
const AFTER: usize = 28;

/// Ids of an answer.
const NEW: usize = 8;

/// Batches that are timed.
const BATCHES: usize = 8;

impl Bench<'_> {
    pub(super) fn doc_vqa(
        &mut self,
        model: &LlavaModel,
        progress: &mut impl FnMut(&str),
    ) -> Result<()> {
        let Some(vision) = &self.config.vision else {
            let name = self.options.preset.name().to_owned();
            return Err(BenchError::NoVision(name));
        };
        let (size, positions) = (vision.input_image_size, vision.image_tokens());
        progress(&format!(
            "{} questions about {PICTURES} pictures of {size} px a batch",
            PICTURES * QUESTIONS
        ));
        self.cuda.reset_peak();
        self.answer(model, size, positions, 0)?;
        let mut parts = [0.0; 2];
        for batch in 0..BATCHES {
            let seconds = self.answer(model, size, positions, 1 + batch)?;
            parts.iter_mut().zip(seconds).for_each(|(sum, s)| *sum += s);
        }
        let count = (PICTURES * QUESTIONS) as f64;
        let [see, tell] = parts.map(|seconds| 1e3 * seconds / BATCHES as f64);
        let ms = see + tell;
        // The picture's tokens once a picture, those behind it once a question; weights once a step.
        let read = BEFORE + positions + QUESTIONS * AFTER;
        let operations = PICTURES as f64 * flops::vision(&self.config)
            + flops::language_model(&self.config, &[read; PICTURES])
            + flops::read_rows(&self.config, PICTURES * QUESTIONS);
        let bytes = 2.0 * ((NEW - 1) * flops::decode_weights(&self.config)) as f64;
        let floor_ms = operations / self.matmul + bytes / self.copy;
        self.rows.push(Row {
            work: format!(
                "document questions, {QUESTIONS} a picture of {size} px, {NEW} ids an answer"
            ),
            rate: count / ms * 1e3,
            unit: "questions/s".into(),
            ms,
            floor_ms,
            floor: format!("{:.1} TFLOP, {:.1} GB", operations / 1e12, bytes / 1e9),
            mfu_percent: None,
            peak_gib: self.peak_gib(),
            note: format!(
                "{see:.1} ms for {PICTURES} pictures, {tell:.1} ms for {count:.0} answers"
            ),
        });
        Ok(())
    }

    /// One batch from bytes of pictures to ids of answers; seconds of both parts.
    fn answer(
        &self,
        model: &LlavaModel,
        size: usize,
        positions: usize,
        batch: usize,
    ) -> Result<[f64; 2]> {
        let begun = Instant::now();
        let bytes: Vec<u8> = (0..PICTURES * size * size * 3)
            .map(|i| ((i * 31 + i / 977 + batch * 57) % 251) as u8)
            .collect();
        let made = begun.elapsed();
        let mut levels = [[0.0; 256]; 3];
        for channel in &mut levels {
            let values = channel.iter_mut().enumerate();
            values.for_each(|(level, value)| *value = level as f32 / 64.0 - 2.0);
        }
        let shape = [PICTURES, size, size, 3];
        let dtype = model.activation_dtype();
        let pixels = Tensor::from_rgb(&bytes, &shape, &levels, self.device, dtype)?;
        let features = model.encode_images(&Tape::inference(), &pixels, false)?;
        let features = features.value();
        // The clock must not hand the pictures' work over to the answers.
        features.narrow(0, 1)?.to_f32_vec()?;
        let seen = begun.elapsed();
        let pictures: Vec<Tensor> = (0..PICTURES)
            .map(|i| features.narrow(i * positions, positions))
            .collect::<std::result::Result<_, _>>()?;
        let words = self.words();
        let word = |i: usize, j: usize| words.id(batch * (1 + PICTURES * QUESTIONS) + i, j);
        let texts: Vec<Vec<i32>> = (0..PICTURES * QUESTIONS)
            .map(|i| {
                let before = (0..BEFORE).map(|j| word(0, j));
                let picture = std::iter::repeat_n(-200, positions);
                let after = (0..AFTER).map(|j| word(1 + i, j));
                before.chain(picture).chain(after).collect()
            })
            .collect();
        let prompts: Vec<Prompt<'_>> = texts
            .iter()
            .enumerate()
            .map(|(i, ids)| Prompt {
                ids,
                features: Some(&pictures[i / QUESTIONS]),
            })
            .collect();
        let options = GenerationOptions {
            max_new_tokens: NEW,
            ..Default::default()
        };
        generate_many(model, &prompts, &options, |_, _| ControlFlow::Continue(()))?;
        let told = begun.elapsed();
        Ok([(seen - made).as_secs_f64(), (told - seen).as_secs_f64()])
    }
}
