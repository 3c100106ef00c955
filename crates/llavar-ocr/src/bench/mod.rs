//! How much of what people labelled an engine finds.
//!
//! # What counts as found
//! Words of labels and of results are taken in lower case without anything but letters and digits; words of
//! which nothing is left do not count. A page is a multiset: a word that is labelled n times can be found n
//! times.
//!
//! * *found*: the word occurs in the text of a line, also inside or across what the engine takes for words,
//!   so that an engine that loses spaces is not blamed for it; occurrences in a line do not overlap;
//! * *whole*: the word is a word of the result, between spaces.

mod labels;

use std::collections::HashMap;

use crate::Line;

pub use labels::{LabelledPage, labelled_pages};

/// Counts over pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WordCounts {
    /// Labelled words.
    pub labelled: usize,
    /// Those that occur in the text of a line.
    pub found: usize,
    /// Those that are words of the result.
    pub whole: usize,
}

impl WordCounts {
    /// Compares a page's labels with what was read.
    pub fn of(labels: &[String], lines: &[Line]) -> Self {
        let mut wanted: HashMap<String, usize> = HashMap::new();
        for word in labels.iter().map(|word| normal(word)) {
            if !word.is_empty() {
                *wanted.entry(word).or_default() += 1;
            }
        }
        let texts: Vec<String> = lines.iter().map(|line| normal(&line.text)).collect();
        let mut words: HashMap<String, usize> = HashMap::new();
        for word in lines.iter().flat_map(|line| line.text.split_whitespace()) {
            *words.entry(normal(word)).or_default() += 1;
        }
        let mut counts = Self::default();
        for (word, count) in wanted {
            let occurrences = texts.iter().map(|text| text.matches(&word).count()).sum();
            counts.labelled += count;
            counts.found += count.min(occurrences);
            counts.whole += count.min(words.get(&word).copied().unwrap_or(0));
        }
        counts
    }

    /// Adds the counts of another page.
    pub fn add(&mut self, other: Self) {
        self.labelled += other.labelled;
        self.found += other.found;
        self.whole += other.whole;
    }

    /// Share of the labelled words that was found, 0 to 1.
    pub fn found_share(&self) -> f64 {
        self.found as f64 / self.labelled.max(1) as f64
    }

    /// Share that was found as whole words, 0 to 1.
    pub fn whole_share(&self) -> f64 {
        self.whole as f64 / self.labelled.max(1) as f64
    }
}

/// Lower case, letters and digits alone.
fn normal(text: &str) -> String {
    let lower = text.chars().flat_map(char::to_lowercase);
    lower.filter(|c| c.is_alphanumeric()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_counted_as_a_multiset() {
        let labels: Vec<String> = ["Total:", "9.90", "9.90", "RM", "--", "Tan"]
            .map(str::to_owned)
            .to_vec();
        let line = |text: &str| Line::in_box([0.0, 0.0, 1.0, 1.0], text, 1.0);
        let lines = [line("TOTAL(RM) 9.90"), line("sultan")];
        let counts = WordCounts::of(&labels, &lines);
        // The dashes do not count; one 9.90 is missing; `tan` is part of a word.
        assert_eq!((counts.labelled, counts.found, counts.whole), (5, 4, 1));
        let mut twice = counts;
        twice.add(counts);
        assert_eq!(twice.labelled, 10);
        assert!((counts.found_share() - 0.8).abs() < 1e-12);
        assert_eq!(WordCounts::of(&[], &lines).found_share(), 0.0);
    }
}
