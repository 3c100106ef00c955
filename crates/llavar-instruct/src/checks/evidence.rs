//! What is known of a picture, and whether a text is in it.

use std::collections::HashSet;

use llavar_ocr::Line;

use super::{numbers, sentences};

/// Lines of which OCR is less sure do not oblige a caption to tell them.
pub(crate) const SURE: f64 = 0.7;

/// OCR and human caption, ready for looking things up.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// All texts, [`normal`], joined by spaces.
    text: Vec<char>,
    words: HashSet<String>,
    /// In lower case, as they are.
    raw: String,
    /// Digits that stand together, and whole numbers without the marks in them.
    numbers: HashSet<String>,
    /// What OCR found, where places are known.
    lines: Vec<PageLine>,
    /// Words in lines of which OCR is sure.
    sure_words: usize,
}

/// A line with its place.
#[derive(Debug, Clone)]
pub(super) struct PageLine {
    /// [`normal`].
    pub(super) text: String,
    /// Left edge, middle and right edge, and middle from the top, as parts of the picture.
    pub(super) in_picture: Spot,
    /// The same as parts of the rectangle around all text: pages are often smaller than their scans.
    pub(super) in_text: Spot,
}

/// Where a line stands, from 0 (left, top) to 1.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spot {
    pub(super) left: f64,
    pub(super) right: f64,
    pub(super) down: f64,
}

impl Spot {
    fn of(line: &Line, [x1, y1, x2, y2]: [f64; 4]) -> Self {
        let [left, top, right, bottom] = line.bounds();
        let part = |at: f64, from: f64, to: f64| (at - from) / (to - from).max(1.0);
        Self {
            left: part(left, x1, x2),
            right: part(right, x1, x2),
            down: part((top + bottom) / 2.0, y1, y2),
        }
    }
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
            numbers: numbers::forms(&joined),
            ..Self::default()
        }
    }

    /// Of what OCR found in a picture of this size, px, and what is told of it. Here places are known too.
    pub fn of_page<'a>(
        lines: &'a [Line],
        size: (u32, u32),
        told: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let text = lines.iter().map(|line| line.text.as_str());
        let mut evidence = Self::new(text.chain(told));
        let picture = [0.0, 0.0, f64::from(size.0), f64::from(size.1)];
        let around = lines.iter().map(Line::bounds).reduce(|a, b| {
            let low = |i: usize| a[i].min(b[i]);
            let high = |i: usize| a[i].max(b[i]);
            [low(0), low(1), high(2), high(3)]
        });
        let page = |line: &Line| PageLine {
            text: normal(&line.text),
            in_picture: Spot::of(line, picture),
            in_text: Spot::of(line, around.unwrap_or(picture)),
        };
        evidence.lines = lines.iter().map(page).collect();
        let sure = lines.iter().filter(|line| line.score >= SURE);
        evidence.sure_words = sure.map(|line| sentences::count(&line.text)).sum();
        evidence
    }

    /// Words in lines of which OCR is sure.
    pub(super) fn sure_words(&self) -> usize {
        self.sure_words
    }

    /// Whether these digits stand somewhere.
    pub(super) fn has_number(&self, digits: &str) -> bool {
        self.numbers.contains(digits)
    }

    /// Whether words follow each other in one line of the page.
    pub(super) fn in_a_line(&self, words: &[String]) -> bool {
        let words = format!(" {} ", words.join(" "));
        let mut lines = self.lines.iter();
        lines.any(|line| format!(" {} ", line.text).contains(&words))
    }

    /// The lines of the page that a quoted span is of.
    pub(super) fn lines_of(&self, span: &str, least: f64) -> Vec<&PageLine> {
        let span = normal(span);
        let whole = |part: &str, of: &str| format!(" {of} ").contains(&format!(" {part} "));
        let is_of = |line: &&PageLine| {
            whole(&span, &line.text)
                || (line.text.chars().count() >= 3 && whole(&line.text, &span))
                || strsim::normalized_levenshtein(&span, &line.text) >= least
        };
        match span.is_empty() {
            true => Vec::new(),
            false => self.lines.iter().filter(is_of).collect(),
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
        // Scripts without spaces: what stands between two marks is one word.
        let inside = word.contains(sentences::is_wide) && self.raw.contains(word);
        if inside || self.words.contains(word) {
            return true;
        }
        self.words.iter().any(|known| alike(known, word))
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

/// Whether two words are the same or begin alike: inflected forms count, other numbers do not.
pub(super) fn alike(known: &str, word: &str) -> bool {
    let stem = word
        .char_indices()
        .nth(4)
        .map(|(at, c)| &word[..at + c.len_utf8()]);
    let inflected =
        |stem: &str| !word.contains(|c: char| c.is_ascii_digit()) && known.starts_with(stem);
    known == word || stem.is_some_and(inflected)
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
