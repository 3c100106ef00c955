//! A server's tokens laid over the text that it was sent.
//!
//! Servers give a token's text as its tokenizer spells it (`Ġword`, `▁word`), decoded (` word`), or decoded
//! alone, where SentencePiece loses the space before it; tokens that it adds are not in the text at all,
//! and a character of several tokens is spelled by none of them. So every token is looked for where the
//! last one ended, and what is skipped on the way (white space, a piece of a character) belongs to it.

use std::ops::Range;

/// Bytes that may be skipped for every piece of a character: most that one character has, and a space.
const SKIP: usize = 5;

/// Pieces that a first token of unknown text counts for: vLLM says nothing of the token that has no
/// probability, be it an added one or the first word.
const FIRST: usize = 8;

/// The bytes of every token: none for one that is not in the text, one byte where a piece of a character
/// begins. Where the tokens do not spell the text: the byte at which they leave it.
pub(super) fn align<'a>(
    text: &str,
    tokens: impl Iterator<Item = &'a str>,
) -> Result<Vec<Range<usize>>, usize> {
    let mut at = 0;
    // Pieces since the last whole token.
    let mut pieces = 0;
    let places = tokens
        .enumerate()
        .map(|(number, token)| {
            let spelled = spelled(token);
            // A token of pieces of characters is passed over; the next whole one finds its place again.
            if spelled.is_empty() {
                pieces += if number == 0 { FIRST } else { 0 };
                return at..at;
            }
            if spelled.contains(char::REPLACEMENT_CHARACTER) {
                pieces += 1;
                return at..at + 1;
            }
            let Some(end) = find(text, at, &spelled, pieces * SKIP) else {
                return at..at;
            };
            pieces = 0;
            let place = at..end;
            at = end;
            place
        })
        .collect();
    let rest = text.get(at..).unwrap_or_default();
    match rest.trim().is_empty() || rest.len() <= pieces * SKIP {
        true => Ok(places),
        false => Err(at),
    }
}

/// The end of a token that begins at `at`, behind white space, or at most `skip` bytes further on.
fn find(text: &str, at: usize, token: &str, skip: usize) -> Option<usize> {
    let rest = text.get(at..)?;
    if rest.starts_with(token) {
        return Some(at + token.len());
    }
    let bare = token.trim_start();
    let white = rest.len() - rest.trim_start().len();
    if !bare.is_empty() && rest[white..].starts_with(bare) {
        return Some(at + white + bare.len());
    }
    let sought = if bare.is_empty() { token } else { bare };
    let found = rest.find(sought).filter(|skipped| *skipped <= skip)?;
    Some(at + found + sought.len())
}

/// A token without the signs that vocabularies write for spaces and line ends, and bytes as what they
/// are: a piece of a character.
pub(super) fn spelled(token: &str) -> String {
    if let Some(hex) = token.strip_prefix("<0x").and_then(|t| t.strip_suffix('>')) {
        return match u8::from_str_radix(hex, 16) {
            Ok(byte) if byte.is_ascii() => char::from(byte).to_string(),
            _ => char::REPLACEMENT_CHARACTER.to_string(),
        };
    }
    token.replace(['\u{2581}', 'Ġ'], " ").replace('Ċ', "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(text: &str, tokens: &[&str]) -> Option<Vec<String>> {
        let places = align(text, tokens.iter().copied()).ok()?;
        let word = |place: Range<usize>| text.get(place).unwrap_or("piece").to_owned();
        Some(places.into_iter().map(word).collect())
    }

    #[test]
    fn tokens_of_many_spellings_find_their_places() {
        let text = "USER: What? ASSISTANT: A cat.</s>";
        for tokens in [
            [
                "USER",
                ":",
                " What",
                "?",
                " ASSISTANT",
                ":",
                " A",
                " cat",
                ".",
                "</s>",
            ],
            [
                "ĠUSER",
                ":",
                "ĠWhat",
                "?",
                "ĠASSISTANT",
                ":",
                "ĠA",
                "Ġcat",
                ".",
                "</s>",
            ],
            [
                "USER",
                ":",
                "What",
                "?",
                "ASSISTANT",
                ":",
                "A",
                "cat",
                ".",
                "</s>",
            ],
        ] {
            let got = places(text, &[&["<s>"], &tokens[..]].concat()).unwrap();
            assert_eq!(got[0], "", "an added token");
            assert_eq!(got[7..], [" A", " cat", ".", "</s>"]);
            assert_eq!(got.concat(), text);
        }
        let unknown = places("A chat", &["", " chat"]).unwrap();
        assert_eq!(unknown, ["", "A chat"]);
        assert_eq!(places(text, &["USER", ":"]), None, "the rest is missing");
        assert_eq!(places(text, &["something", "else"]), None);
    }

    #[test]
    fn broken_characters_are_passed_over() {
        let got = places(
            "né 日x",
            &[
                "n", "\u{fffd}", "\u{fffd}", " ", "<0xE6>", "<0x97>", "<0xA5>", "x",
            ],
        );
        let piece = "piece";
        let want = ["n", piece, piece, "é ", piece, piece, piece, "日x"];
        assert_eq!(got.unwrap(), want);
        assert!(places("日", &["<0xE6>", "<0x97>", "<0xA5>"]).is_some());
        assert_eq!(
            places("a\n\nb", &["a", "<0x0A>", "Ċ", "b"])
                .unwrap()
                .concat(),
            "a\n\nb"
        );
    }
}
