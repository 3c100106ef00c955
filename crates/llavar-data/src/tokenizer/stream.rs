//! Incremental decoding.

use super::Tokenizer;
use crate::error::EncodeError;

/// Bytes of one character come in at most four byte tokens; more that still do not form text are
/// garbage and are handed out as replacement characters.
const MAX_PENDING: usize = 8;

/// Turns ids into text as they arrive.
///
/// Text is handed out once it is final: never half a character, and with the leading space that a
/// SentencePiece vocabulary gives a word inside a sentence but not at the start. The pieces of valid
/// UTF-8 joined equal [`Tokenizer::decode`] of all ids.
#[derive(Debug)]
pub struct DecodeStream<'a> {
    tokenizer: &'a Tokenizer,
    skip_special: bool,
    ids: Vec<u32>,
    /// Ids before this are handed out; they are the context that decides about a leading space.
    done: usize,
}

impl<'a> DecodeStream<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer, skip_special: bool) -> Self {
        Self {
            tokenizer,
            skip_special,
            ids: Vec::new(),
            done: 0,
        }
    }

    /// Takes one id and returns the text that is final now, often a word, sometimes nothing.
    ///
    /// # Errors
    /// [`EncodeError::Tokenizer`].
    pub fn push(&mut self, id: u32) -> Result<Option<String>, EncodeError> {
        if self.skip_special && self.tokenizer.is_special(id) {
            // Forgotten here, or it would stand between the bytes of a character.
            return Ok(None);
        }
        self.ids.push(id);
        let force = self.ids.len() - self.done > MAX_PENDING;
        self.take(force)
    }

    /// Hands out what is left, with replacement characters for an unfinished one.
    ///
    /// # Errors
    /// [`EncodeError::Tokenizer`].
    pub fn finish(&mut self) -> Result<Option<String>, EncodeError> {
        self.take(true)
    }

    fn take(&mut self, force: bool) -> Result<Option<String>, EncodeError> {
        let decode = |ids: &[u32]| self.tokenizer.decode(ids, self.skip_special);
        let before = decode(&self.ids[..self.done])?;
        let all = decode(&self.ids)?;
        if !force && all.ends_with('\u{FFFD}') {
            return Ok(None);
        }
        let new = match all.strip_prefix(before.as_str()) {
            Some(new) => new.to_string(),
            // Bytes after a finished character can spoil the run as a whole; what is out stays out.
            None => decode(&self.ids[self.done..])?,
        };
        if new.is_empty() {
            // A lone word-start mark has no text of its own and still is context.
            self.done = self.ids.len();
            return Ok(None);
        }
        // Old context is not needed again: the ids kept stay few however long the answer is.
        self.ids.drain(..self.done);
        self.done = self.ids.len();
        Ok(Some(new))
    }
}
