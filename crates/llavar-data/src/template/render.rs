//! Writing a prompt and noting where questions and answers lie in it.

use super::{Style, Template};
use crate::IMAGE_TAG;
use crate::error::EncodeError;
use crate::record::{Role, Sample};

/// One message of a chat. Unlike the turns of a [`Sample`], messages need not alternate: scores are
/// taken of chats that begin with the assistant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said; each `<image>` in it stands for one image.
    pub text: String,
}

impl Message {
    /// A message of the user.
    pub fn user(text: impl Into<String>) -> Self {
        Self {
            role: Role::Human,
            text: text.into(),
        }
    }

    /// A message of the model.
    pub fn assistant(text: impl Into<String>) -> Self {
        Self {
            role: Role::Gpt,
            text: text.into(),
        }
    }

    /// The messages of a sample, with the image of a turn moved to its front.
    ///
    /// A turn with one `<image>` becomes `<image>`, newline, trimmed text. A turn with several keeps
    /// them where they stand: the reference would leave only one.
    ///
    /// # Source
    /// `preprocess_multimodal` of LLaVA.
    pub fn from_sample(sample: &Sample) -> Vec<Self> {
        let turns = sample.conversations.iter();
        turns
            .map(|turn| Self {
                role: turn.from,
                text: image_first(&turn.value),
            })
            .collect()
    }
}

fn image_first(text: &str) -> String {
    if text.matches(IMAGE_TAG).count() != 1 {
        return text.to_string();
    }
    let rest = text.replace(IMAGE_TAG, "");
    format!("{IMAGE_TAG}\n{}", rest.trim()).trim().to_string()
}

/// A place in a prompt: byte `byte` of chunk `chunk`. Ordered as the text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Number of the text chunk; image `i` stands between chunks `i` and `i + 1`.
    pub chunk: usize,
    /// Byte within the chunk.
    pub byte: usize,
}

/// Where one question and its answer lie.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TurnMarks {
    /// The question's text, after role marker and leading images.
    pub question: Option<(Position, Position)>,
    /// The answer's text with the closing separator.
    pub answer: Option<(Position, Position)>,
}

/// A rendered prompt: text chunks with one image between each two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// Text between images; one more than there are images.
    pub chunks: Vec<String>,
    /// One entry for each question with its answer, in order.
    pub turns: Vec<TurnMarks>,
}

impl Prompt {
    fn new() -> Self {
        Self {
            chunks: vec![String::new()],
            turns: Vec::new(),
        }
    }

    /// Number of image slots.
    pub fn images(&self) -> usize {
        self.chunks.len() - 1
    }

    /// The prompt as one string with `<image>` in the slots.
    pub fn text(&self) -> String {
        self.chunks.join(IMAGE_TAG)
    }

    fn here(&self) -> Position {
        Position {
            chunk: self.chunks.len() - 1,
            byte: self.chunks.last().map_or(0, String::len),
        }
    }

    fn push(&mut self, text: &str) {
        if let Some(last) = self.chunks.last_mut() {
            last.push_str(text);
        }
    }

    /// Appends a message's text, opening a new chunk at each image.
    fn push_with_images(&mut self, text: &str) {
        for (i, part) in text.split(IMAGE_TAG).enumerate() {
            if i > 0 {
                self.chunks.push(String::new());
            }
            self.push(part);
        }
    }

    fn push_question(&mut self, text: &str) {
        // The image line is not part of the question.
        let mut body = text;
        let mut has_image = false;
        while let Some(rest) = body.strip_prefix(IMAGE_TAG) {
            has_image = true;
            body = rest.trim_start_matches('\n');
        }
        if !has_image {
            body = text;
        }
        self.push_with_images(&text[..text.len() - body.len()]);
        let start = self.here();
        self.push_with_images(body);
        let question = Some((start, self.here()));
        self.turns.push(TurnMarks {
            question,
            answer: None,
        });
    }

    fn push_answer(&mut self, text: &str, end: &str) {
        let start = self.here();
        self.push_with_images(text);
        self.push(end);
        let answer = Some((start, self.here()));
        match self.turns.last_mut() {
            Some(turn) if turn.answer.is_none() => turn.answer = answer,
            _ => self.turns.push(TurnMarks {
                question: None,
                answer,
            }),
        }
    }
}

impl Template {
    /// Renders a chat. With `open`, an assistant marker without text follows, for generation.
    ///
    /// # Errors
    /// [`EncodeError::PlainShape`] where `plain` gets anything but one image question and (unless
    /// `open`) one answer.
    pub fn render(&self, messages: &[Message], open: bool) -> Result<Prompt, EncodeError> {
        let mut prompt = Prompt::new();
        match self.style {
            Style::Plain => self.render_plain(&mut prompt, messages, open)?,
            Style::Two => {
                prompt.push(self.system_mark);
                prompt.push(&self.system);
                prompt.push(self.user_end);
                for message in messages {
                    prompt.push(self.role(message.role));
                    prompt.push(": ");
                    self.push_message(&mut prompt, message);
                }
                if open {
                    prompt.push(self.role(Role::Gpt));
                    prompt.push(":");
                }
            }
            Style::Mpt => {
                prompt.push(self.system_mark);
                prompt.push(&self.system);
                prompt.push(self.user_end);
                for message in messages {
                    prompt.push(self.role(message.role));
                    self.push_message(&mut prompt, message);
                }
                if open {
                    prompt.push(self.role(Role::Gpt));
                }
            }
        }
        Ok(prompt)
    }

    fn role(&self, role: Role) -> &'static str {
        match role {
            Role::Human => self.roles[0],
            Role::Gpt => self.roles[1],
        }
    }

    fn push_message(&self, prompt: &mut Prompt, message: &Message) {
        match message.role {
            Role::Human => {
                prompt.push_question(&message.text);
                prompt.push(self.user_end);
            }
            Role::Gpt => prompt.push_answer(&message.text, self.assistant_end),
        }
    }

    /// The question's words are left out: stage 1 learns captions from the image alone.
    fn render_plain(
        &self,
        prompt: &mut Prompt,
        messages: &[Message],
        open: bool,
    ) -> Result<(), EncodeError> {
        let images = messages
            .first()
            .map_or(0, |message| message.text.matches(IMAGE_TAG).count());
        let answer = match messages {
            [question] if open && question.role == Role::Human => None,
            [question, answer]
                if !open && question.role == Role::Human && answer.role == Role::Gpt =>
            {
                Some(answer)
            }
            _ => {
                return Err(EncodeError::PlainShape {
                    turns: messages.len(),
                    images,
                });
            }
        };
        if images == 0 {
            return Err(EncodeError::PlainShape {
                turns: messages.len(),
                images,
            });
        }
        prompt.push_question(&IMAGE_TAG.repeat(images));
        if let Some(answer) = answer {
            prompt.push_answer(&answer.text, self.assistant_end);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template::TemplateName;

    #[test]
    fn another_system_text_takes_the_place_of_the_own_one() {
        let messages = [Message::user("Hi")];
        for (name, start) in [
            (TemplateName::V1, "Be brief. USER: Hi ASSISTANT:"),
            (
                TemplateName::Phi3Instruct,
                "<|system|>\nBe brief.<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\n",
            ),
            (
                TemplateName::Llama3,
                "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>\
                 <|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>\
                 <|start_header_id|>assistant<|end_header_id|>\n\n",
            ),
        ] {
            let own = Template::new(name);
            let other = own.with_system("Be brief.");
            assert_eq!(other.render(&messages, true).unwrap().text(), start);
            let own_text = own.system.to_string();
            assert_eq!(own, other.with_system(&own_text), "nothing else is changed");
        }
        let plain = Template::new(TemplateName::Plain);
        assert_eq!(plain.with_system("Be brief."), plain);
    }
}
