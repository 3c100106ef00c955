//! Whoever answers: a model here, or one at the other end of a connection.

use crate::results::{DecodeSettings, ModelInfo};
use serde_json::{Map, Value};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::AtomicBool;

/// One question on its way.
#[derive(Debug, Clone)]
pub struct Ask<'a> {
    /// Id of the question, for messages.
    pub id: &'a str,
    /// The picture's file.
    pub image: &'a Path,
    /// The user's turn after the picture: OCR text, question and suffix.
    pub prompt: String,
}

/// An answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// The text.
    pub text: String,
    /// What goes into the row's `metadata`. Nothing that changes from run to run (times) belongs here: a
    /// run that was killed and went on leaves the same file.
    pub metadata: Map<String, Value>,
}

/// Replies to some of the asks, by their numbers; the text of an error where one failed.
pub type Replies = Vec<(usize, Result<Reply, String>)>;

/// The model or the connection failed, not a single question: the run ends, what was answered is kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AnswerError {
    /// A model of ours.
    #[error(transparent)]
    Assistant(#[from] llavar_assistant::Error),
    /// A server, for every question alike.
    #[error(transparent)]
    Server(llavar_client::ClientError),
    /// Anything else.
    #[error(transparent)]
    Other(Box<dyn std::error::Error + Send + Sync>),
}

/// Something that answers questions about pictures.
pub trait Answerer {
    /// What is recorded of it.
    fn info(&self) -> ModelInfo;

    /// How many asks it wants at once.
    fn at_once(&self) -> usize;

    /// Penalty on ids that occurred, where the model's own settings have one.
    fn repetition_penalty(&self) -> f32 {
        1.0
    }

    /// Whether it can decode so, before anything is asked.
    ///
    /// # Errors
    /// [`AnswerError`] that names the setting.
    fn check(&self, decode: &DecodeSettings) -> Result<(), AnswerError> {
        let _ = decode;
        Ok(())
    }

    /// Answers. Replies go to `deliver` as they are there, each ask once; where `deliver` breaks or `stop`
    /// is set, the rest need no answer. A reply depends on its ask and `decode` alone.
    ///
    /// # Errors
    /// [`AnswerError`] where going on makes no sense. A fault of one question is a reply.
    fn answer(
        &mut self,
        asks: &[Ask<'_>],
        decode: &DecodeSettings,
        stop: &AtomicBool,
        deliver: &mut dyn FnMut(Replies) -> ControlFlow<()>,
    ) -> Result<(), AnswerError>;

    /// One line about the work done, for the end of a run.
    fn summary(&self) -> Option<String> {
        None
    }
}
