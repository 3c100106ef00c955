//! A conversation of several turns about several pictures.

use std::ops::ControlFlow;

use llavar_data::{IMAGE_TAG, Message};
use llavar_model::generation::GenerationOptions;
use llavar_tensor::Tensor;

use crate::{Answer, Assistant, Error};

/// What was said and shown so far.
#[derive(Debug, Clone, Default)]
pub struct Conversation {
    messages: Vec<Message>,
    /// Features of all pictures, rows one after the other, in the order of their tags.
    features: Vec<Tensor>,
    /// Pictures shown since the last question.
    pending: usize,
}

impl Conversation {
    /// Shows a picture (from [`Assistant::see`]); the next question is about it too.
    pub fn show(&mut self, picture: Tensor) {
        self.features.push(picture);
        self.pending += 1;
    }

    /// Number of finished turns.
    pub fn turns(&self) -> usize {
        self.messages.len() / 2
    }

    /// The same words about another picture in place of the first.
    pub(crate) fn about(&self, picture: Tensor) -> Self {
        let mut other = self.clone();
        if let Some(first) = other.features.first_mut() {
            *first = picture;
        }
        other
    }

    /// Another answer to the last question.
    pub(crate) fn answered_with(&mut self, answer: &str) {
        if let Some(last) = self.messages.last_mut() {
            answer.clone_into(&mut last.text);
        }
    }

    /// Pictures shown so far.
    pub fn pictures(&self) -> usize {
        self.features.len()
    }

    /// Asks; question and answer become part of the conversation. A failed question leaves it as it
    /// was, its pictures still waiting.
    ///
    /// # Errors
    /// As [`Assistant::answer`].
    pub fn ask(
        &mut self,
        assistant: &Assistant,
        question: &str,
        options: &GenerationOptions,
        on_text: impl FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Answer, Error> {
        self.messages.push(user_turn(self.pending, question));
        let features = stack(&self.features)?;
        match assistant.answer(&self.messages, features.as_ref(), options, on_text) {
            Ok(answer) => {
                self.pending = 0;
                self.messages.push(Message::assistant(answer.text.clone()));
                Ok(answer)
            }
            Err(error) => {
                self.messages.pop();
                Err(error)
            }
        }
    }
}

/// A turn of the user: its pictures, then what is said about them.
pub fn user_turn(pictures: usize, text: &str) -> Message {
    // A tag that the user typed would ask for a picture that nobody gave.
    let text = text.replace(IMAGE_TAG, "");
    let tags = format!("{IMAGE_TAG}\n").repeat(pictures);
    Message::user(format!("{tags}{}", text.trim()))
}

/// Rows of all pictures in one tensor.
///
/// # Errors
/// When they are not of one width, or the device has no room.
pub fn stack(pictures: &[Tensor]) -> Result<Option<Tensor>, Error> {
    match pictures {
        [] => Ok(None),
        // Whoever knows the picture by its memory shall know it again.
        [picture] => Ok(Some(picture.clone())),
        pictures => Ok(Some(Tensor::concat(pictures)?)),
    }
}
