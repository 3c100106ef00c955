//! The texts that a sample's losses are measured on, with the tokens that each loss is the mean of.
//!
//! Four texts give five losses: the chat without picture gives both `s(A|Q)` and `s(Q,A)`.

use std::ops::Range;

use llavar_assistant::Assistant;
use llavar_data::{
    EncodeError, Encoded, IMAGE_TAG, IMAGE_TOKEN_INDEX, MaskMode, Message, TurnSpan,
};

use crate::{Compat, Loss, Pair, PairKind, ScoreSet};

/// A loss to be measured: of which pair, over which tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) pair: usize,
    pub(crate) loss: Loss,
    /// Tokens of the text, pictures expanded.
    pub(crate) span: Range<usize>,
}

/// One text for the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Text {
    /// Ids; `-1 - k` at every position of the sample's picture `k`.
    pub(crate) ids: Vec<i32>,
    pub(crate) wanted: Vec<Wanted>,
}

/// What the texts of one sample need to know.
pub(crate) struct TextBuilder<'a> {
    pub(crate) assistant: &'a Assistant,
    pub(crate) scores: ScoreSet,
    pub(crate) compat: Compat,
    /// Pictures of the sample, 0 where they cannot be used.
    pub(crate) images: usize,
    /// Longest text, tokens.
    pub(crate) limit: usize,
}

impl TextBuilder<'_> {
    /// The texts of all pairs; second, why losses of a pair are missing, by pair.
    pub(crate) fn texts(
        &self,
        pairs: &[Pair],
    ) -> Result<(Vec<Text>, Vec<Option<String>>), EncodeError> {
        let vocabulary = self.assistant.model().language_model.config().vocab_size as i32;
        let mut texts = Vec::new();
        let mut reasons = vec![None; pairs.len()];
        for (i, pair) in pairs.iter().enumerate() {
            let Some(answer) = &pair.answer else {
                reasons[i] = Some("the question has no answer".to_owned());
                continue;
            };
            let turn = [
                Message::user(&pair.question),
                Message::assistant(answer.as_str()),
            ];
            let mut add = |text: Text| {
                let tokens = text.ids.len();
                if text.wanted.is_empty() {
                    return;
                }
                if tokens > self.limit {
                    reasons[i].get_or_insert(format!(
                        "too long: {tokens} tokens, the limit is {}",
                        self.limit
                    ));
                } else if text.ids.iter().any(|id| *id >= vocabulary) {
                    reasons[i].get_or_insert("a token outside the model's vocabulary".to_owned());
                } else if text.wanted.iter().any(|w| w.span.is_empty()) {
                    reasons[i].get_or_insert("a span without tokens".to_owned());
                } else {
                    texts.push(text);
                }
            };
            add(self.text(i, &turn, &[Loss::AGivenQ, Loss::Qa])?);
            add(self.text(i, &turn[1..], &[Loss::A])?);
            if self.images == 0 {
                continue;
            }
            add(self.text(i, &self.with_picture(&turn), &[Loss::QaGivenImage])?);
            let before = i.checked_sub(1).map(|i| &pairs[i]);
            if let (PairKind::SelfExplain, Some(before)) = (pair.kind, before)
                && let Some(first) = &before.answer
            {
                let mut duo = vec![
                    Message::user(&before.question),
                    Message::assistant(first.as_str()),
                ];
                duo.extend(turn.iter().cloned());
                add(self.text(i, &self.with_picture(&duo), &[Loss::Duo])?);
            }
        }
        Ok((texts, reasons))
    }

    fn with_picture(&self, messages: &[Message]) -> Vec<Message> {
        let mut messages = messages.to_vec();
        if let Some(first) = messages.first_mut() {
            let tags = format!("{IMAGE_TAG}\n").repeat(self.images);
            first.text = format!("{tags}{}", first.text);
        }
        messages
    }

    fn text(
        &self,
        pair: usize,
        messages: &[Message],
        losses: &[Loss],
    ) -> Result<Text, EncodeError> {
        let template = self.assistant.template();
        let losses = losses.iter().filter(|loss| self.scores.wants(**loss));
        let mut losses = losses.peekable();
        let mut text = Text {
            ids: Vec::new(),
            wanted: Vec::new(),
        };
        if losses.peek().is_none() {
            return Ok(text);
        }
        let prompt = template.render(messages, false)?;
        let encoded = template.encode(self.assistant.tokenizer(), &prompt, MaskMode::Exact)?;
        let starts = self.expand(&encoded, &mut text.ids);
        let turn = encoded.turns.last();
        text.wanted = losses
            .map(|loss| {
                let span = self.span(*loss, turn, encoded.ids.len());
                // Nothing stands before the first token, so it is never predicted.
                let start = starts[span.start].max(1);
                Wanted {
                    pair,
                    loss: *loss,
                    span: start..starts[span.end].max(start),
                }
            })
            .collect();
        Ok(text)
    }

    /// The span of a loss in a text whose last turn is the pair.
    fn span(&self, loss: Loss, turn: Option<&TurnSpan>, len: usize) -> Range<usize> {
        let answer = || turn.and_then(|turn| turn.answer.clone());
        let both = || turn.and_then(TurnSpan::question_and_answer);
        let span = match (self.compat, loss) {
            (Compat::Exact, Loss::AGivenQ | Loss::A) => answer(),
            (Compat::Llavar2, Loss::AGivenQ | Loss::A) => Some(1.min(len)..len),
            (Compat::Llavar2, Loss::Duo) => both().map(|s| s.start.saturating_sub(1)..s.end),
            _ => both(),
        };
        span.unwrap_or(0..0)
    }

    /// Ids with a place for every position of a picture; where each token begins, and the end.
    fn expand(&self, encoded: &Encoded, ids: &mut Vec<i32>) -> Vec<usize> {
        let positions = self.assistant.model().tokens_per_image().unwrap_or(0);
        let mut picture = 0;
        let mut starts = Vec::with_capacity(encoded.ids.len() + 1);
        for id in &encoded.ids {
            starts.push(ids.len());
            if *id == IMAGE_TOKEN_INDEX {
                picture += 1;
                ids.extend(std::iter::repeat_n(-picture, positions));
            } else {
                ids.push(*id as i32);
            }
        }
        starts.push(ids.len());
        starts
    }
}
