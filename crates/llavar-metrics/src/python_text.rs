//! Text as Python sees it: the published metrics are Python, and their scores hang on what Python
//! calls white space, a word character, a digit and a number.
//!
//! Source: CPython's `str` methods and `re` on `str` patterns.

use unicode_properties::{GeneralCategory, GeneralCategoryGroup, UnicodeGeneralCategory};

/// `str.isspace` and `\s`: Unicode white space and the four information separators.
pub(crate) fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}')
}

/// `\w`: letters, numbers and the underscore.
///
/// Marks are not word characters, unlike in Rust's `is_alphanumeric` (vowel signs of Indic scripts).
pub(crate) fn is_word(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_alphanumeric() || c == '_';
    }
    matches!(
        c.general_category_group(),
        GeneralCategoryGroup::Letter | GeneralCategoryGroup::Number
    )
}

/// `\d`: decimal digits of every script.
pub(crate) fn is_digit(c: char) -> bool {
    c.is_ascii_digit() || (!c.is_ascii() && c.general_category() == GeneralCategory::DecimalNumber)
}

/// `str.strip()`.
pub(crate) fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// `str.split()`: runs of white space separate, no empty words.
pub(crate) fn split(text: &str) -> impl Iterator<Item = &str> {
    text.split(is_space).filter(|word| !word.is_empty())
}

/// `str.lower()`.
pub(crate) fn lower(text: &str) -> String {
    if text.is_ascii() {
        text.to_ascii_lowercase()
    } else {
        text.to_lowercase()
    }
}

/// `len(str)`: code points.
pub(crate) fn len(text: &str) -> usize {
    if text.is_ascii() {
        text.len()
    } else {
        text.chars().count()
    }
}

/// `len(str.upper())`: an `ß` counts twice.
pub(crate) fn upper_len(text: &str) -> usize {
    if text.is_ascii() {
        text.len()
    } else {
        text.chars().map(|c| c.to_uppercase().count()).sum()
    }
}

/// `float(str)`, `None` where Python raises `ValueError`.
///
/// Accepts white space around, `1_000`, `.5`, `5.`, `1e5`, `inf`, `nan` and digits of every script.
pub(crate) fn parse_float(text: &str) -> Option<f64> {
    let text = strip(text);
    if text.is_ascii() && !text.contains('_') {
        return text.parse().ok();
    }
    let mut plain = String::with_capacity(text.len());
    let mut before = ' ';
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '_' {
            // An underscore stands between two digits or the text is no number.
            if !is_digit(before) || !chars.peek().is_some_and(|next| is_digit(*next)) {
                return None;
            }
        } else if c.is_ascii() {
            plain.push(c);
        } else {
            plain.push(char::from(b'0' + digit_value(c)?));
        }
        before = c;
    }
    plain.parse().ok()
}

/// Value of a decimal digit of any script. Every script's digits are ten code points in order, so
/// the value is the number of digits directly before it, modulo ten.
fn digit_value(c: char) -> Option<u8> {
    if !is_digit(c) {
        return None;
    }
    let before = (1..=60)
        .take_while(|back| {
            (c as u32)
                .checked_sub(*back)
                .and_then(char::from_u32)
                .is_some_and(is_digit)
        })
        .count();
    u8::try_from(before % 10).ok()
}

/// Whether `\b` + `word` + `\b` matches somewhere in `text`, `word` taken literally.
///
/// `\b` is any place where a word character meets something else, so a word that begins with a sign
/// needs a word character before it, and the empty word is found wherever `text` has a word character.
pub(crate) fn has_word(text: &str, word: &str) -> bool {
    if word.is_empty() {
        return text.chars().any(is_word);
    }
    let starts = word.chars().next().is_some_and(is_word);
    let ends = word.chars().next_back().is_some_and(is_word);
    let finder = memchr::memmem::Finder::new(word);
    let mut from = 0;
    while let Some(found) = finder.find(&text.as_bytes()[from..]) {
        let at = from + found;
        let before = text[..at].chars().next_back().is_some_and(is_word);
        let after = text[at + word.len()..].chars().next().is_some_and(is_word);
        if before != starts && after != ends {
            return true;
        }
        // Matches may overlap: go on one character further, not behind this one.
        from = at + text[at..].chars().next().map_or(1, char::len_utf8);
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_words_and_lengths() {
        assert_eq!(strip("\u{1f} a\u{a0}"), "a");
        assert_eq!(split("a\u{1c}b \n c").collect::<Vec<_>>(), ["a", "b", "c"]);
        assert!(is_word('é') && is_word('中') && is_word('²') && !is_word('\u{93e}'));
        assert_eq!((len("ß"), upper_len("ß"), upper_len("ab")), (1, 2, 2));
        assert_eq!(lower("ΑΣ É"), "ας é");
    }

    #[test]
    fn numbers_as_float_reads_them() {
        for (text, value) in [
            (" 1_000.5 ", 1000.5),
            ("+.5", 0.5),
            ("5.", 5.0),
            ("-1e3", -1000.0),
            ("٣٫", f64::NAN),
            ("١٢", 12.0),
            ("𝟗", 9.0),
            ("Infinity", f64::INFINITY),
        ] {
            match parse_float(text) {
                Some(found) => assert_eq!(found, value, "{text}"),
                None => assert!(value.is_nan(), "{text}"),
            }
        }
        for text in [
            "", "_1", "1_", "1__0", "1 000", "1,000", "e5", ".", "0x1", "²",
        ] {
            assert_eq!(parse_float(text), None, "{text}");
        }
        assert!(parse_float("-nan").is_some_and(f64::is_nan));
    }

    #[test]
    fn words_have_boundaries() {
        assert!(has_word("stop sign", "stop"));
        assert!(!has_word("unstoppable", "stop"));
        assert!(!has_word("aa aaa aa", "aa aa"));
        assert!(has_word("aa aa-aa", "aa"));
        assert!(has_word("naa aa", "aa"), "a later occurrence counts");
        assert!(!has_word("price $5", "$5"), "a sign needs a word before it");
        assert!(has_word("us$5", "$5"));
        assert!(has_word("x", "") && !has_word(" .", "") && !has_word("", ""));
    }
}
