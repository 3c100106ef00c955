//! The form of a text.

use super::{Broken, Evidence, Language, Reason, broken, evidence::words, language::has_verb};

/// A number of words.
pub(super) fn length(name: &str, text: &str, limits: (usize, usize)) -> Result<(), Broken> {
    match count(text) {
        n if n < limits.0 => broken(
            Reason::Length,
            format!("{name} has only {n} words, fewer than {}", limits.0),
        ),
        n if n > limits.1 => broken(
            Reason::Length,
            format!("{name} has {n} words, more than {}", limits.1),
        ),
        _ => Ok(()),
    }
}

/// Words of a text; in scripts without spaces two characters count as one.
pub(super) fn count(text: &str) -> usize {
    let wide = text.chars().filter(|c| is_wide(*c)).count() / 2;
    text.split_whitespace().count().max(wide)
}

/// Characters of scripts without spaces.
pub(super) fn is_wide(c: char) -> bool {
    matches!(c, '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{9fff}' | '\u{0e00}'..='\u{0e7f}')
}

/// A statement from its capital to its full stop.
pub(super) fn whole(name: &str, text: &str) -> Result<(), Broken> {
    begins(name, text)?;
    let end = text.trim_end_matches(['"', '”', '’', '\'', ')', '»', '」', '』']);
    if end.ends_with("...") || end.ends_with('…') {
        return broken(Reason::Sentence, format!("{name} is cut off"));
    }
    if end.ends_with(['?', '？', '؟']) {
        return broken(Reason::Sentence, format!("{name} is a question"));
    }
    match end.ends_with(['.', '!', '。', '！', '।']) {
        true => Ok(()),
        false => broken(
            Reason::Sentence,
            format!("{name} is no whole sentence with a full stop"),
        ),
    }
}

/// A verb, in languages whose verbs are known.
pub(super) fn verb(name: &str, text: &str, language: Language) -> Result<(), Broken> {
    match language == Language::English && !has_verb(text) {
        true => broken(
            Reason::Sentence,
            format!("{name} has no verb: it is no whole sentence"),
        ),
        false => Ok(()),
    }
}

/// A question.
pub(super) fn question(name: &str, text: &str) -> Result<(), Broken> {
    begins(name, text)?;
    match text
        .trim_end_matches(['"', '”', '’'])
        .ends_with(['?', '？', '؟'])
    {
        true => Ok(()),
        false => broken(
            Reason::Sentence,
            format!("{name} does not end with a question mark"),
        ),
    }
}

fn begins(name: &str, text: &str) -> Result<(), Broken> {
    let first = text
        .trim_start_matches(['"', '“', '„', '«', '‘', '\'', '(', '¿', '¡', '「'])
        .chars()
        .next();
    match first {
        Some(c) if c.is_lowercase() => broken(
            Reason::Sentence,
            format!("{name} does not begin with a capital letter"),
        ),
        Some(c) if c.is_alphanumeric() || "$€£¥#@&".contains(c) => Ok(()),
        _ => broken(
            Reason::Sentence,
            format!("{name} does not begin with a word"),
        ),
    }
}

/// No markup, no placeholders, no loops.
pub(super) fn clean(text: &str) -> Result<(), Broken> {
    for mark in ["```", "{", "}", "<", "[", "\\n", "**", "\u{fffd}"] {
        if text.contains(mark) {
            return broken(Reason::Markup, format!("it holds `{mark}`"));
        }
    }
    let words = words(text);
    // Three words in the same order three times are a loop.
    for i in 0..words.len().saturating_sub(2) {
        let three = &words[i..i + 3];
        let times = words.windows(3).filter(|window| *window == three).count();
        if times >= 3 {
            return broken(
                Reason::Repetitive,
                format!("\"{}\" is said {times} times", three.join(" ")),
            );
        }
    }
    Ok(())
}

/// What belongs to the making of the data and not to the picture.
const META_WORDS: [&str; 40] = [
    "caption",
    "captions",
    "ocr",
    "json",
    "prompt",
    "as an ai",
    "i'm sorry",
    "i am sorry",
    "i apologize",
    "dataset",
    "data set",
    "training data",
    "language model",
    "bounding box",
    "bounding boxes",
    "page parser",
    "parser results",
    "provided text",
    "provided information",
    "provided description",
    "provided image description",
    "given text",
    "given description",
    "text provided",
    "text layout",
    "detected text",
    "extracted text",
    "recognized text",
    "recognised text",
    "the description",
    "human annotator",
    "annotator",
    "annotation",
    "i cannot see",
    "i can't see",
    "i cannot view",
    "extractive",
    "self explain",
    "self explaining",
    "self explanation",
];

/// No word of the making of the data, unless it stands in the picture.
pub(super) fn no_meta_words(text: &str, evidence: &Evidence) -> Result<(), Broken> {
    let padded = format!(" {} ", words(text).join(" "));
    for meta in META_WORDS {
        let normal = meta.replace('\'', " ");
        if padded.contains(&format!(" {normal} ")) && !evidence.mentions(meta) {
            return broken(
                Reason::MetaWords,
                format!("it speaks of \"{meta}\", which a viewer of the image does not know"),
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        for good in [
            "It says \"Open.\"",
            "“Open” is written.",
            "9.90 is the total.",
            "¿Qué es? Sí.",
            "東京です。",
        ] {
            assert_eq!(whole("x", good), Ok(()), "{good}");
        }
        for bad in ["it is.", "It is", "It is...", "- It is.", "Is it?", ""] {
            assert!(whole("x", bad).is_err(), "{bad}");
        }
        for no_verb in [
            "Additional Information Show source.",
            "Project name: BROWN & CO.",
        ] {
            assert!(verb("x", no_verb, Language::English).is_err(), "{no_verb}");
            assert_eq!(verb("x", no_verb, Language::German), Ok(()));
        }
        for good in [
            "It's 9.90.",
            "The total is 9.90.",
            "Children under six pay half.",
            "The line \"TOTAL 9.90\" supports this.",
            "Prices start at 9.90.",
            "ACME won the prize.",
        ] {
            assert_eq!(verb("x", good, Language::English), Ok(()), "{good}");
        }
        assert_eq!(question("x", "What is \"A\"?"), Ok(()));
        assert!(clean("a b c d a b c d a b c").is_err());
        assert_eq!(
            clean("It is at the top of the page and at the top left."),
            Ok(())
        );
        assert_eq!(length("x", "東京都千代田区の地図", (3, 10)), Ok(()));
    }
}
