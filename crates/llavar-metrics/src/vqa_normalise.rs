//! Answer normalisation of the VQA challenge, as M4C and MultimodalOCR carry it on.
//!
//! In order: punctuation, full stops, lower case, number words to digits, articles dropped, missing
//! apostrophes put back.
//!
//! # Quirks
//! - A sign is deleted wherever it stands if it stands beside a space somewhere in the text, or if the
//!   text has a comma between two digits; otherwise it becomes a space. So `a-b` is two words and
//!   `a-b - c` has `ab`.
//! - A full stop goes unless a digit follows (the look-behind of the original is misspelt), and only the
//!   first 32 go (`re.UNICODE`, which is 32, is passed where the count stands).
//! - Number words become digits before articles are dropped; contractions are looked up last, and those
//!   of the published table that begin with a capital never match.
//!
//! # Source
//! `m4c_evaluator.py` of MMF and `eval.py` of MultimodalOCR (2023), both after the VQA API.

use std::sync::LazyLock;

use super::python_text::{is_digit, lower, split, strip};

/// Signs of which every one is deleted or becomes a space.
const SIGNS: &[u8] = b";/[]\"{}()=+\\_-><@`,?!";

/// Full stops removed at most.
const MAX_FULL_STOPS: usize = 32;

/// Index into [`SIGNS`] plus one by byte, 0 for no sign.
const SIGN_OF: [u8; 256] = {
    let mut table = [0; 256];
    let mut at = 0;
    while at < SIGNS.len() {
        table[SIGNS[at] as usize] = at as u8 + 1;
        at += 1;
    }
    table
};

/// The normalised text: lower-case words with one space between.
pub(crate) fn normalise(text: &str) -> String {
    let spaced = spaces_for_line_breaks(text);
    words(&without_signs(strip(spaced.as_deref().unwrap_or(text))))
}

/// `text` with spaces for line feeds and tabs, if it has any.
fn spaces_for_line_breaks(text: &str) -> Option<String> {
    memchr::memchr2(b'\n', b'\t', text.as_bytes()).map(|_| text.replace(['\n', '\t'], " "))
}

/// Deletes signs or makes them spaces; a full stop is kept for [`words`].
fn without_signs(text: &str) -> String {
    let bytes = text.as_bytes();
    // One bit for each sign that is to be deleted.
    let mut deleted = 0u32;
    for (at, byte) in bytes.iter().enumerate() {
        let sign = SIGN_OF[usize::from(*byte)];
        if sign == 0 {
            continue;
        }
        let before = at.checked_sub(1).map(|at| bytes[at]);
        let after = bytes.get(at + 1).copied();
        if before == Some(b' ') || after == Some(b' ') {
            deleted |= 1 << sign;
        }
        if *byte == b','
            && text[..at].chars().next_back().is_some_and(is_digit)
            && text[at + 1..].chars().next().is_some_and(is_digit)
        {
            deleted = u32::MAX;
            break;
        }
    }
    let mut out = Vec::with_capacity(text.len());
    for byte in bytes {
        match SIGN_OF[usize::from(*byte)] {
            0 => out.push(*byte),
            sign if deleted & (1 << sign) != 0 => {}
            _ => out.push(b' '),
        }
    }
    // Only ASCII was taken out or replaced, so this is UTF-8 still.
    String::from_utf8(out).unwrap_or_default()
}

/// Full stops, lower case, number words, articles and contractions.
fn words(text: &str) -> String {
    let mut stopped = String::with_capacity(text.len());
    let mut rest = text;
    let mut removed = 0;
    while removed < MAX_FULL_STOPS
        && let Some((before, after)) = rest.split_once('.')
    {
        stopped.push_str(before);
        rest = after;
        if after.chars().next().is_some_and(is_digit) {
            stopped.push('.');
        } else {
            removed += 1;
        }
    }
    stopped.push_str(rest);
    let lowered = lower(&stopped);
    let mut out = String::with_capacity(lowered.len() + 8);
    for word in split(&lowered) {
        let word = digit_of(word).unwrap_or(word);
        if matches!(word, "a" | "an" | "the") {
            continue;
        }
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(contraction_of(word).unwrap_or(word));
    }
    out
}

fn digit_of(word: &str) -> Option<&'static str> {
    Some(match word {
        "none" | "zero" => "0",
        "one" => "1",
        "two" => "2",
        "three" => "3",
        "four" => "4",
        "five" => "5",
        "six" => "6",
        "seven" => "7",
        "eight" => "8",
        "nine" => "9",
        "ten" => "10",
        _ => return None,
    })
}

/// The word with the apostrophe that it lacks.
fn contraction_of(word: &str) -> Option<&'static str> {
    /// Range of [`CONTRACTIONS`] by first byte: most words have none or few with theirs.
    static BY_FIRST: LazyLock<[(u8, u8); 256]> = LazyLock::new(|| {
        let mut ranges = [(0, 0); 256];
        for (at, (key, _)) in (0u8..).zip(CONTRACTIONS) {
            let range = &mut ranges[usize::from(key.as_bytes()[0])];
            if range.1 == 0 {
                range.0 = at;
            }
            range.1 = at + 1;
        }
        ranges
    });
    let (from, to) = BY_FIRST[usize::from(*word.as_bytes().first()?)];
    CONTRACTIONS[usize::from(from)..usize::from(to)]
        .iter()
        .find(|(key, _)| *key == word)
        .map(|(_, value)| *value)
}

/// Contractions by what people write for them, sorted. Identities of the published table and keys that
/// begin with a capital (which lower-cased text never has) are left out.
const CONTRACTIONS: &[(&str, &str)] = &[
    ("'ow'sat", "'ow's'at"),
    ("'ows'at", "'ow's'at"),
    ("aint", "ain't"),
    ("arent", "aren't"),
    ("cant", "can't"),
    ("couldn'tve", "couldn't've"),
    ("couldnt", "couldn't"),
    ("couldnt've", "couldn't've"),
    ("couldve", "could've"),
    ("didnt", "didn't"),
    ("doesnt", "doesn't"),
    ("dont", "don't"),
    ("hadn'tve", "hadn't've"),
    ("hadnt", "hadn't"),
    ("hadnt've", "hadn't've"),
    ("hasnt", "hasn't"),
    ("havent", "haven't"),
    ("he'dve", "he'd've"),
    ("hed", "he'd"),
    ("hed've", "he'd've"),
    ("hes", "he's"),
    ("howd", "how'd"),
    ("howll", "how'll"),
    ("hows", "how's"),
    ("isnt", "isn't"),
    ("it'dve", "it'd've"),
    ("itd", "it'd"),
    ("itd've", "it'd've"),
    ("itll", "it'll"),
    ("maam", "ma'am"),
    ("mightn'tve", "mightn't've"),
    ("mightnt", "mightn't"),
    ("mightnt've", "mightn't've"),
    ("mightve", "might've"),
    ("mustnt", "mustn't"),
    ("mustve", "must've"),
    ("neednt", "needn't"),
    ("notve", "not've"),
    ("oclock", "o'clock"),
    ("oughtnt", "oughtn't"),
    ("ow's'at", "'ow's'at"),
    ("shant", "shan't"),
    ("she'dve", "she'd've"),
    ("shed've", "she'd've"),
    ("shouldn'tve", "shouldn't've"),
    ("shouldnt", "shouldn't"),
    ("shouldnt've", "shouldn't've"),
    ("shouldve", "should've"),
    ("somebody'd", "somebodyd"),
    ("somebody'dve", "somebody'd've"),
    ("somebodyd've", "somebody'd've"),
    ("somebodyll", "somebody'll"),
    ("somebodys", "somebody's"),
    ("someone'dve", "someone'd've"),
    ("someoned", "someone'd"),
    ("someoned've", "someone'd've"),
    ("someonell", "someone'll"),
    ("someones", "someone's"),
    ("something'dve", "something'd've"),
    ("somethingd", "something'd"),
    ("somethingd've", "something'd've"),
    ("somethingll", "something'll"),
    ("thats", "that's"),
    ("there'dve", "there'd've"),
    ("thered", "there'd"),
    ("thered've", "there'd've"),
    ("therere", "there're"),
    ("theres", "there's"),
    ("they'dve", "they'd've"),
    ("theyd", "they'd"),
    ("theyd've", "they'd've"),
    ("theyll", "they'll"),
    ("theyre", "they're"),
    ("theyve", "they've"),
    ("twas", "'twas"),
    ("wasnt", "wasn't"),
    ("we'dve", "we'd've"),
    ("wed've", "we'd've"),
    ("werent", "weren't"),
    ("weve", "we've"),
    ("whatll", "what'll"),
    ("whatre", "what're"),
    ("whats", "what's"),
    ("whatve", "what've"),
    ("whens", "when's"),
    ("whered", "where'd"),
    ("wheres", "where's"),
    ("whereve", "where've"),
    ("who'dve", "who'd've"),
    ("whod", "who'd"),
    ("whod've", "who'd've"),
    ("wholl", "who'll"),
    ("whos", "who's"),
    ("whove", "who've"),
    ("whyll", "why'll"),
    ("whyre", "why're"),
    ("whys", "why's"),
    ("wont", "won't"),
    ("wouldn'tve", "wouldn't've"),
    ("wouldnt", "wouldn't"),
    ("wouldnt've", "wouldn't've"),
    ("wouldve", "would've"),
    ("y'all'dve", "y'all'd've"),
    ("y'alld've", "y'all'd've"),
    ("y'allll", "y'all'll"),
    ("yall", "y'all"),
    ("yall'd've", "y'all'd've"),
    ("yall'll", "y'all'll"),
    ("you'dve", "you'd've"),
    ("youd", "you'd"),
    ("youd've", "you'd've"),
    ("youll", "you'll"),
    ("youre", "you're"),
    ("youve", "you've"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_beside_a_space_are_deleted_everywhere() {
        assert_eq!(
            normalise("a-b"),
            "b",
            "the article goes when the sign is a space"
        );
        assert_eq!(normalise("x-b - c"), "xb c");
        assert_eq!(normalise("x/y 1,000 (z)"), "xy 1000 z");
        assert_eq!(normalise("x/y,z"), "x y z");
        assert_eq!(
            normalise(" -x-"),
            "x",
            "a space that strip removes does not count"
        );
    }

    #[test]
    fn full_stops_go_unless_a_digit_follows() {
        assert_eq!(normalise("Mr. X has 3.5 at no.5."), "mr x has 3.5 at no.5");
        let many = "x. ".repeat(40);
        assert_eq!(normalise(&many).matches('.').count(), 40 - MAX_FULL_STOPS);
        // A kept full stop does not count as one of the 32.
        assert_eq!(normalise("1.5 2.5 x."), "1.5 2.5 x");
    }

    #[test]
    fn numbers_articles_and_contractions() {
        assert_eq!(
            normalise("The Two\nMen\tdont see an elephant"),
            "2 men don't see elephant"
        );
        assert_eq!(normalise("None"), "0");
        assert_eq!(normalise("somebody'd"), "somebodyd");
        assert_eq!(normalise(""), "");
    }

    #[test]
    fn the_table_is_sorted_and_changes_every_key() {
        assert!(CONTRACTIONS.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert!(CONTRACTIONS.iter().all(|(key, value)| key != value));
        assert_eq!(CONTRACTIONS.len(), 114);
    }
}
