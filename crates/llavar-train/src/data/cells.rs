//! The letters of a picture's cells as labels of its image tokens.
//!
//! A vision tower that starts from nothing learns to tell letters apart long before a language model finds out where
//! to look for the next one, if it is told what each of its tokens shows.

use std::collections::HashMap;

use llavar_data::{IGNORE_INDEX, Sample, Tokenizer};
use serde_json::Value;

/// Key of a sample's cells.
pub(crate) const CELLS: &str = "cells";

/// How many labels count.
pub(crate) fn supervised_cells(labels: &[i64]) -> usize {
    labels.iter().filter(|&&l| l != IGNORE_INDEX).count()
}

/// The token that stands for a character.
#[derive(Debug)]
pub(super) struct CellLabels {
    known: HashMap<char, i64>,
}

impl CellLabels {
    /// Looks the characters of ASCII up.
    pub(super) fn new(tokenizer: &Tokenizer) -> Self {
        let known = (' '..='~').filter_map(|c| Some((c, token_of(tokenizer, c)?)));
        Self {
            known: known.collect(),
        }
    }

    /// A label for each of `image_tokens` tokens; `None` where the sample has no cells.
    ///
    /// # Errors
    /// The reason where `cells` is no text of as many characters.
    pub(super) fn of(
        &self,
        sample: &Sample,
        image_tokens: usize,
        tokenizer: &Tokenizer,
    ) -> Result<Option<Vec<i64>>, String> {
        let Some(cells) = sample.extra.get(CELLS) else {
            return Ok(None);
        };
        let Value::String(cells) = cells else {
            return Err("`cells` must be a text of one character a cell".into());
        };
        let count = cells.chars().count();
        if count != image_tokens {
            return Err(format!(
                "`cells` has {count} characters and a picture {image_tokens} tokens; make the set with that grid, or \
                 set data.cells = false"
            ));
        }
        let label = |c: char| match self.known.get(&c) {
            Some(&id) => id,
            None => token_of(tokenizer, c).unwrap_or(IGNORE_INDEX),
        };
        Ok(Some(cells.chars().map(label).collect()))
    }
}

/// The first token of a character: all of it, where the vocabulary has it.
fn token_of(tokenizer: &Tokenizer, c: char) -> Option<i64> {
    let ids = tokenizer.encode(c.encode_utf8(&mut [0; 4])).ok()?;
    let id = ids.iter().find(|&&id| Some(id) != tokenizer.bos_id())?;
    Some(i64::from(*id))
}
