//! A closer look: where the model itself finds its answer unlikely, it looks at both halves of the picture as
//! well, each as large as the whole was before, with the same words, and the surest answer counts.
//!
//! What it costs: two more pictures and answers for a question that is not sure, nothing for the others.

use std::ops::ControlFlow;

use llavar_data::Message;
use llavar_image::RgbImage;
use llavar_model::generation::GenerationOptions;

use crate::{Answer, Assistant, Error, Question, user_turn};

/// The model's own probability of a whole answer below which a closer look is taken.
pub const UNSURE: f64 = 0.5;

impl Answer {
    /// Whether the model finds it unlikely enough for a closer look. For greedy answers without beams.
    pub fn is_unsure(&self) -> bool {
        self.score < UNSURE.ln()
    }

    /// The surer of two answers to one question; this one where they are equally sure.
    #[must_use]
    pub fn or_surer(self, other: Self) -> Self {
        match other.score > self.score {
            true => other,
            false => self,
        }
    }
}

impl Assistant {
    /// Answers a question about one picture, with a closer look where it is unsure; whether it took one.
    ///
    /// # Errors
    /// As [`Assistant::see`] and [`Assistant::answer`].
    pub fn ask_closely(
        &self,
        image: &RgbImage,
        question: &str,
        options: &GenerationOptions,
    ) -> Result<(Answer, bool), Error> {
        let messages = [user_turn(1, question)];
        let first = self.answer_about(image, &messages, options)?;
        if !first.is_unsure() {
            return Ok((first, false));
        }
        let mut best = first;
        for half in image.halves() {
            best = best.or_surer(self.answer_about(&half, &messages, options)?);
        }
        Ok((best, true))
    }

    fn answer_about(
        &self,
        image: &RgbImage,
        messages: &[Message],
        options: &GenerationOptions,
    ) -> Result<Answer, Error> {
        let features = self.see(image)?;
        let question = Question {
            messages,
            features: Some(&features),
        };
        let mut answers = self.answer_many(&[question], options, || ControlFlow::Continue(()))?;
        let answer = answers.pop();
        answer.unwrap_or_else(|| Err(llavar_model::ModelError::EmptyPrompt.into()))
    }
}
