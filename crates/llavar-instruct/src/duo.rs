//! What is made: duos, and what was turned down.

use llavar_data::IMAGE_TAG;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::checks::Reason;

/// A question for a fact in the picture, and one for what in the picture supports the answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Duo {
    /// Asks for a fact.
    pub extractive_question: String,
    /// Names it in a whole sentence.
    pub extractive_answer: String,
    /// Asks what in the picture supports that.
    pub self_explain_question: String,
    /// Quotes the text and says where it stands.
    pub self_explain_answer: String,
}

impl Duo {
    /// Names of the fields, in order.
    pub const FIELDS: [&str; 4] = [
        "extractive_question",
        "extractive_answer",
        "self_explain_question",
        "self_explain_answer",
    ];

    /// The texts, in order.
    pub fn texts(&self) -> [&str; 4] {
        [
            &self.extractive_question,
            &self.extractive_answer,
            &self.self_explain_question,
            &self.self_explain_answer,
        ]
    }

    /// Of texts in order.
    pub fn from_texts(texts: [String; 4]) -> Self {
        let [eq, ea, sq, sa] = texts;
        Self {
            extractive_question: eq,
            extractive_answer: ea,
            self_explain_question: sq,
            self_explain_answer: sa,
        }
    }

    /// Whether a text holds the tag that stands for a picture: a record has one tag a picture, no more.
    pub(crate) fn holds_image_tag(&self) -> bool {
        self.texts().iter().any(|text| text.contains(IMAGE_TAG))
    }

    /// Sixteen hexadecimal digits of its texts and its picture's hash: the name by which a review means it.
    pub fn id(&self, picture: &str) -> String {
        let mut hash = Sha256::new();
        hash.update(picture);
        for text in self.texts() {
            hash.update([0]);
            hash.update(text);
        }
        hex(&hash.finalize()[..8])
    }
}

/// Something that was not kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejection {
    /// `caption` or `duos`.
    pub step: String,
    /// Which request, from 1.
    pub attempt: u32,
    /// Why.
    pub reason: Reason,
    /// What exactly, for people and for the next prompt.
    pub detail: String,
    /// What was turned down.
    pub text: String,
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
