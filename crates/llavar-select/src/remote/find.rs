//! The last turn of a conversation in the tokens of a server.
//!
//! The server's own chat template wrote the conversation, so nothing is known of what stands between the
//! turns, and a picture is any number of tokens. Question and answer are known by their letters: they are
//! looked for from the end, white space aside, which templates trim and tokenizers move. A piece of a
//! character stands for one to three bytes of it, whichever; a token that says nothing of itself for none.

use std::{collections::BTreeSet, ops::Range};

use super::align::spelled;

/// Tokens without a text that may begin a character of several: a character has four bytes at most.
const LEADING: usize = 3;

/// Most bytes that a piece of a character may stand for.
const PIECE: usize = 3;

/// What a token says of the bytes that it stands for.
enum Part {
    /// These, without white space.
    Bytes(Vec<u8>),
    /// Some of a character that is not ASCII.
    Piece,
}

/// A part of a conversation that the tokens do not show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    Question,
    Answer,
}

/// The tokens of the last turn: from the question's first one to the answer's last one and what closes it.
pub(super) fn last_turn<'a>(
    tokens: impl Iterator<Item = &'a str>,
    question: &str,
    answer: &str,
) -> Result<Range<usize>, Missing> {
    let texts: Vec<&str> = tokens.collect();
    let parts: Vec<Vec<Part>> = texts.iter().map(|text| parts(text)).collect();
    let answer = last(&parts, answer).ok_or(Missing::Answer)?;
    let question = match solid(question).is_empty() {
        true => answer.clone(),
        false => last(&parts[..answer.start], question).ok_or(Missing::Question)?,
    };
    let blank = |text: &&str| !text.is_empty() && text.trim().is_empty();
    let closed = texts.get(answer.end).is_some_and(|text| !blank(text));
    Ok(question.start..answer.end + usize::from(closed))
}

/// A text's bytes without ASCII white space.
fn solid(text: &str) -> Vec<u8> {
    let bytes = text.bytes();
    bytes.filter(|b| !b.is_ascii_whitespace()).collect()
}

fn parts(token: &str) -> Vec<Part> {
    if let Some(hex) = token.strip_prefix("<0x").and_then(|t| t.strip_suffix('>'))
        && let Ok(byte) = u8::from_str_radix(hex, 16)
    {
        let bytes = (!byte.is_ascii_whitespace()).then_some(byte);
        return vec![Part::Bytes(bytes.into_iter().collect())];
    }
    let mut parts = Vec::new();
    for (i, text) in spelled(token)
        .split(char::REPLACEMENT_CHARACTER)
        .enumerate()
    {
        if i > 0 {
            parts.push(Part::Piece);
        }
        parts.push(Part::Bytes(solid(text)));
    }
    parts
}

/// The tokens of the last place where they spell `text`.
fn last(tokens: &[Vec<Part>], text: &str) -> Option<Range<usize>> {
    let text = solid(text);
    if text.is_empty() {
        return None;
    }
    let ends = (1..=tokens.len()).rev();
    let found = ends.filter(|end| !is_silent(&tokens[end - 1]));
    let (mut start, end) = found
        .into_iter()
        .find_map(|end| Some((spelled_from(&tokens[..end], &text)?, end)))?;
    if !text[0].is_ascii() {
        let silent = tokens[..start].iter().rev().take_while(|t| is_silent(t));
        start -= silent.take(LEADING).count();
    }
    Some(start..end)
}

fn is_silent(token: &[Part]) -> bool {
    let nothing = |part: &Part| matches!(part, Part::Bytes(bytes) if bytes.is_empty());
    token.iter().all(nothing)
}

/// The first of the last tokens that spell `text`. Where pieces fit a part of a character as well as all of it,
/// all of it is meant.
fn spelled_from(tokens: &[Vec<Part>], text: &[u8]) -> Option<usize> {
    // Places in the text where what is read so far, from the end, may begin; at most one but for pieces.
    let mut places = BTreeSet::from([text.len()]);
    let mut start = None;
    for (number, token) in tokens.iter().enumerate().rev() {
        for part in token.iter().rev() {
            places = part.before(text, &places);
        }
        if places.is_empty() {
            break;
        }
        if places.contains(&0) && !is_silent(token) {
            start = Some(number);
        }
    }
    start
}

impl Part {
    /// Where this part may begin if it ends at one of `ends`.
    fn before(&self, text: &[u8], ends: &BTreeSet<usize>) -> BTreeSet<usize> {
        match self {
            Self::Bytes(bytes) => {
                let ends = ends.iter().filter(|end| text[..**end].ends_with(bytes));
                ends.map(|end| end - bytes.len()).collect()
            }
            Self::Piece => {
                let begins = |end: &usize| {
                    let foreign = text[..*end].iter().rev().take_while(|b| !b.is_ascii());
                    let most = foreign.take(PIECE).count();
                    end - most..*end
                };
                ends.iter().flat_map(begins).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(tokens: &[&str], question: &str, answer: &str) -> Result<Range<usize>, Missing> {
        last_turn(tokens.iter().copied(), question, answer)
    }

    #[test]
    fn the_last_turn_is_found_behind_a_picture() {
        let text = "<s>|USER|:|<image>|<image>|\n|What|?| ASSISTANT|:| A| cat|</s>|\
            USER|:| What|?| ASSISTANT|:| A| cat|.|</s>|\n";
        let tokens: Vec<&str> = text.split('|').collect();
        assert_eq!(found(&tokens, "What?", "A cat."), Ok(15..23));
        assert_eq!(found(&tokens, " What?\n", "A  cat."), Ok(15..23));
        assert_eq!(found(&tokens[..13], "What?", "A cat"), Ok(6..13));
        // A turn that is not closed, or closed by nothing but an empty line.
        assert_eq!(found(&tokens[..22], "What?", "A cat."), Ok(15..22));
        let open = [&tokens[..22], &["\n"]].concat();
        assert_eq!(found(&open, "What?", "A cat."), Ok(15..22));
        assert_eq!(found(&tokens, "", "A cat."), Ok(19..23));
        assert_eq!(found(&tokens, "Where?", "A cat."), Err(Missing::Question));
        assert_eq!(found(&tokens, "What?", "A dog."), Err(Missing::Answer));
        assert_eq!(found(&tokens, "What?", ""), Err(Missing::Answer));
        assert_eq!(found(&[], "What?", "A cat."), Err(Missing::Answer));
        // A token that goes on behind the answer is another word.
        assert_eq!(found(&["Q", "cats"], "Q", "cat"), Err(Missing::Answer));
    }

    #[test]
    fn spellings_of_vocabularies_and_pieces_of_characters() {
        for tokens in [
            [
                "▁Qu", "'", "est", ":", "▁caf", "<0xC3>", "<0xA9>", "<0x0A>", "▁é", "</s>",
            ],
            [
                "ĠQu", "'", "est", ":", "Ġcaf", "\u{fffd}", "\u{fffd}", "Ċ", "Ġé", "<|end|>",
            ],
            // vLLM gives a character with its last piece.
            ["Qu", "'", "est", ":", " caf", "", "é", "\n", " é", "</s>"],
        ] {
            assert_eq!(found(&tokens, "Qu'est", "café\né"), Ok(0..10), "{tokens:?}");
            assert_eq!(found(&tokens[4..], "", "café\né"), Ok(0..6), "{tokens:?}");
        }
        for pieces in [
            ["<0xE6>", "<0x97>", "<0xA5>"],
            ["\u{fffd}"; 3],
            ["", "", "日"],
        ] {
            let tokens = [&["Q", ":"][..], &pieces, &["</s>"]].concat();
            assert_eq!(found(&tokens, "Q", "日"), Ok(0..6), "{pieces:?}");
            assert_eq!(found(&tokens, "", "日"), Ok(2..6), "{pieces:?}");
            assert!(found(&tokens, "Q", "x").is_err());
        }
        let mixed = ["Q", " \u{fffd}", "\u{fffd}本", "語", "</s>"];
        assert_eq!(found(&mixed, "Q", "日本語"), Ok(0..5));
        assert_eq!(found(&mixed, "Q", "日本 語"), Ok(0..5));
        assert_eq!(found(&mixed, "Q", "日木語"), Err(Missing::Answer));
    }

    #[test]
    fn long_texts_of_pieces_are_no_trouble() {
        let text = "日".repeat(500);
        let tokens = vec!["\u{fffd}"; 1500];
        let all: Vec<&str> = ["Q"].into_iter().chain(tokens).chain(["</s>"]).collect();
        assert_eq!(found(&all, "Q", &text), Ok(0..1502));
    }
}
