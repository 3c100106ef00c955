//! What is known of a picture, and whether a text is in it.

use std::collections::HashSet;

/// OCR and human caption, ready for looking things up.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// All texts, [`normal`], joined by spaces.
    text: Vec<char>,
    words: HashSet<String>,
    /// In lower case, as they are.
    raw: String,
}

impl Evidence {
    /// Of these texts; a span may run from one into the next.
    pub fn new<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        let mut joined = String::new();
        for text in texts {
            joined.push_str(text);
            joined.push('\n');
        }
        Self {
            text: normal(&joined).chars().collect(),
            words: words(&joined).into_iter().collect(),
            raw: joined.to_lowercase(),
        }
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// Whether the texts hold these characters, case aside.
    pub(super) fn mentions(&self, text: &str) -> bool {
        self.raw.contains(&text.to_lowercase())
    }

    /// Whether a span is there: equal numbers, and its best place at least this like it.
    pub(super) fn holds(&self, span: &str, least: f64) -> bool {
        let span = normal(span);
        if span.is_empty() {
            // Nothing but punctuation.
            return true;
        }
        let numbers_are_there = span
            .split(' ')
            .filter(|word| word.contains(|c: char| c.is_ascii_digit()))
            .all(|word| self.words.contains(word));
        let span: Vec<char> = span.chars().collect();
        numbers_are_there && 1.0 - self.distance(&span) as f64 / span.len() as f64 >= least
    }

    /// Whether a word is there, or one that begins alike: inflected forms count.
    pub(super) fn has_word(&self, word: &str) -> bool {
        if self.words.contains(word) {
            return true;
        }
        let stem: String = word.chars().take(5).collect();
        word.chars().count() >= 5
            && !word.contains(|c: char| c.is_ascii_digit())
            && self.words.iter().any(|known| known.starts_with(&stem))
    }

    /// Edit distance of a span to the part of the text that is nearest to it.
    fn distance(&self, span: &[char]) -> usize {
        // Row by row over the text; a match may begin anywhere, so the empty prefix costs nothing.
        let mut column: Vec<usize> = (0..=span.len()).collect();
        let mut best = span.len();
        for c in &self.text {
            let mut diagonal = 0;
            for i in 1..=span.len() {
                let replaced = diagonal + usize::from(span[i - 1] != *c);
                diagonal = column[i];
                column[i] = replaced.min(column[i - 1] + 1).min(diagonal + 1);
            }
            best = best.min(column[span.len()]);
        }
        best
    }
}

/// Lower case; what is no letter or digit is one space, but for marks inside a number.
pub(super) fn normal(text: &str) -> String {
    let chars: Vec<char> = text.to_lowercase().chars().collect();
    let mut out = String::with_capacity(text.len());
    for (i, &c) in chars.iter().enumerate() {
        let digit = |at: Option<&char>| at.is_some_and(char::is_ascii_digit);
        let inside_number = matches!(c, '.' | ',' | ':' | '/' | '-' | '%')
            && i > 0
            && digit(chars.get(i - 1))
            && (c == '%' || digit(chars.get(i + 1)));
        if c.is_alphanumeric() || inside_number {
            out.push(c);
        } else if !out.ends_with(' ') && !out.is_empty() {
            out.push(' ');
        }
    }
    out.truncate(out.trim_end().len());
    out
}

/// The words of a text, [`normal`].
pub(super) fn words(text: &str) -> Vec<String> {
    let normal = normal(text);
    let words = normal.split(' ').filter(|word| !word.is_empty());
    words.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_found_as_a_person_would_find_them() {
        let evidence = Evidence::new([
            "GRAND  OPENING",
            "Sat. 14:30 - 18:00",
            "Tel 555-0199",
            "€ 1,299.00 (20% off)",
        ]);
        for there in [
            "Grand Opening",
            "GRAND OPENlNG",
            "grand opening sat",
            "14:30",
            "555-0199",
            "1,299.00",
            "20%",
            "…",
        ] {
            assert!(evidence.holds(there, 0.8), "{there}");
        }
        for missing in [
            "Closing",
            "14:35",
            "1,399.00",
            "555-019",
            "30%",
            "grand closing",
        ] {
            assert!(!evidence.holds(missing, 0.8), "{missing}");
        }
        assert!(
            !evidence.holds("GRAND OPENlNG", 0.95),
            "the threshold counts"
        );
        assert!(evidence.has_word("openings") && !evidence.has_word("opera"));
    }
}
