//! Tokens, labels and spans of a rendered prompt.

use super::{Message, Position, Prompt, Template, TemplateName};
use crate::error::{EncodeError, Error};
use crate::record::Sample;
use crate::tokenizer::{Token, Tokenizer};
use crate::{IGNORE_INDEX, IMAGE_TOKEN_INDEX};
use std::ops::Range;

/// Which tokens are supervised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MaskMode {
    /// Each answer and its closing separator.
    #[default]
    Exact,
    /// As the LLaVAR-2 release: labels start two tokens early with `phi3_instruct` (the user's
    /// `<|end|>` and `<|assistant|>`) and one early with `llama3` (the newlines after the header).
    /// What that code masked whole for a length mismatch stays supervised.
    Llavar2,
}

impl MaskMode {
    fn early(self, template: TemplateName) -> usize {
        match (self, template) {
            (MaskMode::Llavar2, TemplateName::Phi3Instruct) => 2,
            (MaskMode::Llavar2, TemplateName::Llama3) => 1,
            _ => 0,
        }
    }
}

impl std::str::FromStr for MaskMode {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        match name {
            "exact" => Ok(MaskMode::Exact),
            "llavar2" => Ok(MaskMode::Llavar2),
            _ => Err(Error::Invalid {
                what: "mask-compat",
                reason: format!("unknown mode {name:?}; known: exact, llavar2"),
            }),
        }
    }
}

/// Token ranges of one question and its answer.
///
/// # Units
/// Positions in [`Encoded::ids`], where an image counts as one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TurnSpan {
    /// The question's text tokens; absent in a chat that starts with the assistant.
    pub question: Option<Range<usize>>,
    /// The answer's tokens and the closing separator; absent in an open or unanswered turn.
    pub answer: Option<Range<usize>>,
}

impl TurnSpan {
    /// From the question's first text token to the end of the answer: the span that the scores VFD
    /// and FFD average over.
    pub fn question_and_answer(&self) -> Option<Range<usize>> {
        let answer = self.answer.clone()?;
        let start = self.question.as_ref().map_or(answer.start, |q| q.start);
        Some(start..answer.end)
    }
}

/// A tokenized conversation.
///
/// # Shapes
/// `ids` and `labels` have one entry a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// Vocabulary ids, [`IMAGE_TOKEN_INDEX`] for each image.
    pub ids: Vec<i64>,
    /// The id where it is supervised, [`IGNORE_INDEX`] elsewhere.
    pub labels: Vec<i64>,
    /// Token ranges of each question and answer.
    pub turns: Vec<TurnSpan>,
}

impl Encoded {
    /// Number of supervised tokens.
    pub fn supervised(&self) -> usize {
        self.labels.iter().filter(|&&l| l != IGNORE_INDEX).count()
    }

    /// Number of images.
    pub fn images(&self) -> usize {
        self.ids
            .iter()
            .filter(|&&id| id == IMAGE_TOKEN_INDEX)
            .count()
    }

    /// Length once each image has become `image_tokens` features.
    pub fn expanded_len(&self, image_tokens: usize) -> usize {
        let images = self.images();
        self.ids.len() - images + images * image_tokens
    }

    /// Cuts the end so that the expanded length is at most `max_len`. An image is kept whole or
    /// dropped; the number of images dropped is returned, so the caller drops their pixels too.
    ///
    /// # Errors
    /// [`EncodeError::NoSupervisedToken`] where all answers were cut off.
    pub fn truncate(&mut self, max_len: usize, image_tokens: usize) -> Result<usize, EncodeError> {
        let before = self.images();
        let mut expanded = 0;
        let mut keep = 0;
        for &id in &self.ids {
            expanded += if id == IMAGE_TOKEN_INDEX {
                image_tokens
            } else {
                1
            };
            if expanded > max_len {
                break;
            }
            keep += 1;
        }
        if keep == self.ids.len() {
            return Ok(0);
        }
        self.ids.truncate(keep);
        self.labels.truncate(keep);
        let cut = |range: &Option<Range<usize>>| {
            let range = range.as_ref()?;
            (range.start < keep).then(|| range.start..range.end.min(keep))
        };
        for turn in &mut self.turns {
            turn.question = cut(&turn.question);
            turn.answer = cut(&turn.answer);
        }
        self.turns
            .retain(|t| t.question.is_some() || t.answer.is_some());
        if self.supervised() == 0 {
            return Err(EncodeError::NoSupervisedToken { truncated: true });
        }
        Ok(before - self.images())
    }
}

/// A token or image with its place in the prompt.
struct Placed {
    id: i64,
    start: Position,
    end: Position,
    added: bool,
}

impl Template {
    /// Renders and tokenizes a sample for training.
    ///
    /// # Errors
    /// [`Error::Encode`] with the sample's id: no supervised token, a shape that `plain` does not
    /// take, or a tokenizer fault.
    pub fn encode_sample(
        &self,
        tokenizer: &Tokenizer,
        sample: &Sample,
        mode: MaskMode,
    ) -> Result<Encoded, Error> {
        let encode = || {
            let prompt = self.render(&Message::from_sample(sample), false)?;
            let encoded = self.encode(tokenizer, &prompt, mode)?;
            if encoded.supervised() == 0 {
                return Err(EncodeError::NoSupervisedToken { truncated: false });
            }
            Ok(encoded)
        };
        encode().map_err(|source| Error::Encode {
            id: sample.id.to_string(),
            source,
        })
    }

    /// Ids of a chat that the model is to continue.
    ///
    /// # Errors
    /// [`EncodeError`].
    pub fn encode_prompt(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
    ) -> Result<Vec<i64>, EncodeError> {
        let prompt = self.render(messages, true)?;
        Ok(self.encode(tokenizer, &prompt, MaskMode::Exact)?.ids)
    }

    /// Tokenizes a rendered prompt: each chunk between images once, as a whole.
    ///
    /// A prompt without answers has no supervised token, which is no error here.
    ///
    /// # Errors
    /// [`EncodeError::Tokenizer`].
    pub fn encode(
        &self,
        tokenizer: &Tokenizer,
        prompt: &Prompt,
        mode: MaskMode,
    ) -> Result<Encoded, EncodeError> {
        let placed = place(tokenizer, prompt)?;
        let ids: Vec<i64> = placed.iter().map(|token| token.id).collect();
        let mut labels = vec![IGNORE_INDEX; ids.len()];
        let early = mode.early(self.name);
        let word_start = tokenizer.word_start_id().map(i64::from);
        let mut turns = Vec::with_capacity(prompt.turns.len());
        for marks in &prompt.turns {
            let span = TurnSpan {
                question: marks
                    .question
                    .map(|mark| tokens_of(&placed, mark, word_start)),
                answer: marks
                    .answer
                    .map(|mark| tokens_of(&placed, mark, word_start)),
            };
            if let Some(answer) = &span.answer
                && !answer.is_empty()
            {
                let start = answer.start.saturating_sub(early);
                for i in start..answer.end {
                    if ids[i] != IMAGE_TOKEN_INDEX {
                        labels[i] = ids[i];
                    }
                }
            }
            turns.push(span);
        }
        Ok(Encoded { ids, labels, turns })
    }
}

fn place(tokenizer: &Tokenizer, prompt: &Prompt) -> Result<Vec<Placed>, EncodeError> {
    let mut placed = Vec::new();
    let at = |chunk, byte| Position { chunk, byte };
    let mark = |id, position| Placed {
        id,
        start: position,
        end: position,
        added: true,
    };
    if let Some(bos) = tokenizer.bos_id().filter(|_| tokenizer.add_bos()) {
        placed.push(mark(i64::from(bos), at(0, 0)));
    }
    for (i, chunk) in prompt.chunks.iter().enumerate() {
        if i > 0 {
            placed.push(mark(
                IMAGE_TOKEN_INDEX,
                at(i - 1, prompt.chunks[i - 1].len()),
            ));
        }
        let tokens = tokenizer.encode_chunk(chunk)?;
        placed.extend(tokens.iter().map(|token: &Token| Placed {
            id: i64::from(token.id),
            start: at(i, token.start),
            end: at(i, token.end),
            added: token.added,
        }));
    }
    Ok(placed)
}

/// The tokens that cover a stretch of text.
///
/// A token that begins before the stretch counts if it reaches into it (the space before a word is
/// part of the word's token), and so does a lone word-start mark right before it: in a SentencePiece
/// vocabulary it is the first token of a word that has no entry together with its space. An added
/// token does not count: `<|assistant|>` with `rstrip` swallows white space that follows, and stays
/// a marker.
fn tokens_of(
    placed: &[Placed],
    (start, end): (Position, Position),
    word_start: Option<i64>,
) -> Range<usize> {
    let mut first = placed.partition_point(|token| token.end <= start);
    while placed
        .get(first)
        .is_some_and(|token| token.added && token.start < start)
    {
        first += 1;
    }
    let mut last = first;
    while placed.get(last).is_some_and(|token| token.start < end) {
        last += 1;
    }
    let is_mark = |token: &Placed| Some(token.id) == word_start && token.end == start;
    if last > first && first > 0 && placed.get(first - 1).is_some_and(is_mark) {
        first -= 1;
    }
    first..last
}
