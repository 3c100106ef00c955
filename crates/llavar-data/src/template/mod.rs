//! Conversation templates: from turns to a prompt, ids, labels and spans.
//!
//! The prompt is built piece by piece and the place of every question and answer is noted while it
//! is written. After tokenization the byte offsets of the tokens tell which of them belong to an
//! answer and its closing separator. No text is ever tokenized a second time to guess lengths, which
//! is how the reference code loses samples ("tokenization mismatch").

mod encode;
mod names;
mod render;

pub use encode::{Encoded, MaskMode, TurnSpan};
pub use names::TemplateName;
pub use render::{Message, Position, Prompt, TurnMarks};

use std::borrow::Cow;

/// How a template joins its parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// Images, caption, newline.
    Plain,
    /// `ROLE: text` with one separator after the user and another after the assistant.
    Two,
    /// Role marker, text, one separator; the marker carries its own newlines.
    Mpt,
}

/// A conversation template.
///
/// # Source
/// `conversation.py` of LLaVA-HR and LLaVA-pp: the strings are equal byte for byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    pub(crate) name: TemplateName,
    pub(crate) style: Style,
    /// What stands before the system text.
    pub(crate) system_mark: &'static str,
    pub(crate) system: Cow<'static, str>,
    pub(crate) roles: [&'static str; 2],
    pub(crate) user_end: &'static str,
    pub(crate) assistant_end: &'static str,
}

impl Template {
    /// The template of a name.
    pub fn new(name: TemplateName) -> Self {
        let two = |system| Self {
            name,
            style: Style::Two,
            system_mark: "",
            system: Cow::Borrowed(system),
            roles: ["USER", "ASSISTANT"],
            user_end: " ",
            assistant_end: "</s>",
        };
        match name {
            TemplateName::Plain => Self {
                name,
                style: Style::Plain,
                system_mark: "",
                system: Cow::Borrowed(""),
                roles: ["", ""],
                user_end: "",
                assistant_end: "\n",
            },
            TemplateName::V1 => two(
                "A chat between a curious user and an artificial intelligence assistant. The assistant \
                 gives helpful, detailed, and polite answers to the user's questions.",
            ),
            TemplateName::LlavaV1 => two(
                "A chat between a curious human and an artificial intelligence assistant. The assistant \
                 gives helpful, detailed, and polite answers to the human's questions.",
            ),
            TemplateName::Phi3Instruct => Self {
                name,
                style: Style::Mpt,
                system_mark: "<|system|>\n",
                system: Cow::Borrowed("You are a helpful AI assistant."),
                roles: ["\n<|user|>\n", "\n<|assistant|>\n"],
                user_end: "<|end|>",
                assistant_end: "<|end|>",
            },
            TemplateName::Llama3 => Self {
                name,
                style: Style::Mpt,
                system_mark: "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n",
                system: Cow::Borrowed(
                    "A chat between a curious user and an artificial intelligence assistant. The \
                     assistant gives helpful, detailed, and polite answers to the user's questions.",
                ),
                roles: [
                    "<|start_header_id|>user<|end_header_id|>\n\n",
                    "<|start_header_id|>assistant<|end_header_id|>\n\n",
                ],
                user_end: "<|eot_id|>",
                assistant_end: "<|eot_id|>",
            },
        }
    }

    /// The name.
    pub fn name(&self) -> TemplateName {
        self.name
    }

    /// The same with another system text in place of its own; `plain` has none.
    pub fn with_system(&self, text: &str) -> Self {
        let mut other = self.clone();
        if self.style != Style::Plain {
            other.system = Cow::Owned(text.to_owned());
        }
        other
    }

    /// The text that ends every answer; generation stops at it.
    pub fn stop(&self) -> &'static str {
        self.assistant_end
    }
}
