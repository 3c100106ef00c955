//! A closer look: where the model itself finds its answer unlikely, it looks at both halves of the picture as
//! well, each as large as the whole was before, with the same words, and the surest answer counts.
//!
//! What it costs: two more pictures and answers for a question that is not sure, nothing for the others.

use std::ops::ControlFlow;

use llavar_image::RgbImage;
use llavar_model::generation::GenerationOptions;

use crate::{Answer, Assistant, Conversation, Error};

/// The model's own probability of a whole answer below which a closer look is taken.
pub const UNSURE: f64 = 0.5;

/// Whether an answer of this log-probability is unlikely enough for a closer look. For greedy answers without beams.
pub fn is_unsure(score: f64) -> bool {
    score < UNSURE.ln()
}

impl Answer {
    /// As [`is_unsure`] of its score.
    pub fn is_unsure(&self) -> bool {
        is_unsure(self.score)
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

impl Conversation {
    /// As [`Conversation::ask`] in a conversation about one picture, whose `image` this is, with a closer look where the
    /// answer is unsure; whether it took one.
    ///
    /// # Errors
    /// As [`Assistant::see`] and [`Assistant::answer`].
    pub fn ask_closely(
        &mut self,
        assistant: &Assistant,
        image: &RgbImage,
        question: &str,
        options: &GenerationOptions,
    ) -> Result<(Answer, bool), Error> {
        let go_on = |_: &str| ControlFlow::Continue(());
        let mut whole = self.clone();
        let mut best = whole.ask(assistant, question, options, go_on)?;
        let closer = best.is_unsure();
        if closer {
            for half in image.halves() {
                let mut about_half = self.about(assistant.see(&half)?);
                best = best.or_surer(about_half.ask(assistant, question, options, go_on)?);
            }
            whole.answered_with(&best.text);
        }
        *self = whole;
        Ok((best, closer))
    }
}
