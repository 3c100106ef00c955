//! METEOR 1.5 for English, with the matches whose resources are there.
//!
//! The words of the answer and of a reference are aligned one to one by exact, stem, synonym and
//! paraphrase matches. With content words weighted `d` and function words `1 - d`, matches by their kind
//! (1, 0.6, 0.8, 0.6), `P` and `R` the weighted matches over the weighted lengths:
//! `METEOR = P R / (a P + (1 - a) R) (1 - g (chunks / matches)^b)`, a = 0.85, b = 0.2, g = 0.6, d = 0.75, where a chunk
//! is a run of matches in the same order on both sides. A row scores its best reference; a corpus is scored
//! from the summed statistics of those, it is not the mean of the rows.
//!
//! # Variants
//! - [`Meteor::exact_stem`] needs no data. Values are about a tenth below the published program's, which also
//!   matches synonyms and paraphrases: say which variant a table has.
//! - [`Meteor::full`] reads WordNet's synonyms and the paraphrase table from the files of METEOR 1.5, which
//!   are not shipped with this program, see [`Resources`].
//!
//! # Quirks
//! - The text is normalised once more after [`ptb`](super::ptb): a hyphen inside a word separates, `'s` is `'`
//!   and `s`.
//! - Where alignments are as good, the number of chunks decides, then a distance; while searching, weights are
//!   cut to whole numbers, so a single match that is not exact counts nothing.
//! - A row that is matched whole adds no chunk to the corpus.
//!
//! # Source
//! Denkowski and Lavie, "Meteor Universal", 2014; version 1.5 with `-l en -norm`, as pycocoevalcap calls it.

mod align;
mod normalise;
mod resources;
mod search;

use std::{collections::HashSet, sync::LazyLock};

use align::{Alignment, Kind};
pub use resources::{Resources, ResourcesError};

use super::Row;

/// Raised when a score of any row can change.
pub const VERSION: u32 = 1;

const ALPHA: f64 = 0.85;
const BETA: f64 = 0.2;
const GAMMA: f64 = 0.6;
const DELTA: f64 = 0.75;

/// METEOR with a set of matchers.
#[derive(Debug, Default)]
pub struct Meteor {
    resources: Option<Resources>,
}

/// METEOR of a corpus and of each of its rows.
#[derive(Debug, Clone, PartialEq)]
pub struct MeteorScores {
    /// Score of all rows together, 0 to 1.
    pub corpus: f64,
    /// Score of each row, 0 to 1.
    pub rows: Vec<f64>,
}

impl Meteor {
    /// Exact and stem matches.
    pub fn exact_stem() -> Self {
        Self::default()
    }

    /// All four kinds of matches.
    pub fn full(resources: Resources) -> Self {
        Self {
            resources: Some(resources),
        }
    }

    /// Scores rows whose texts are tokens with spaces between (see [`ptb`](super::ptb)).
    pub fn evaluate(&self, rows: &[Row<'_>]) -> MeteorScores {
        let counted: Vec<Statistics> = rows.iter().map(|row| self.count(row)).collect();
        MeteorScores {
            corpus: corpus(&counted),
            rows: counted.iter().map(Statistics::score).collect(),
        }
    }

    /// Statistics of a row: those of its best reference, the first of equals; nothing without references.
    pub(crate) fn count(&self, row: &Row<'_>) -> Statistics {
        let answer = normalise::words(row.answer);
        let mut best: Option<(f64, Statistics)> = None;
        for reference in row.references {
            let reference = normalise::words(reference);
            let alignment = align::align(&answer, &reference, self.resources.as_ref());
            let statistics = Statistics::of(&answer, &reference, &alignment);
            let score = statistics.score();
            if best.as_ref().is_none_or(|(best, _)| score > *best) {
                best = Some((score, statistics));
            }
        }
        best.map(|(_, statistics)| statistics).unwrap_or_default()
    }
}

/// Score of rows together.
pub(crate) fn corpus<'s>(rows: impl IntoIterator<Item = &'s Statistics>) -> f64 {
    let mut total = Statistics::default();
    rows.into_iter().for_each(|row| total.add(row));
    total.score()
}

/// Counts of one side: content words and function words.
#[derive(Debug, Default, Clone, Copy)]
struct Words {
    content: u64,
    function: u64,
}

impl Words {
    fn count(&mut self, word: &str) {
        if is_function_word(word) {
            self.function += 1;
        } else {
            self.content += 1;
        }
    }

    fn add(&mut self, other: Self) {
        self.content += other.content;
        self.function += other.function;
    }

    fn all(self) -> u64 {
        self.content + self.function
    }

    fn weighted(self) -> f64 {
        DELTA * self.content as f64 + (1.0 - DELTA) * self.function as f64
    }
}

/// What METEOR is computed from, summable over rows; index 0 is the answer, 1 the reference.
#[derive(Debug, Default, Clone)]
pub(crate) struct Statistics {
    lengths: [Words; 2],
    /// Matched words by kind of match.
    matches: [[Words; Kind::ALL.len()]; 2],
    chunks: u64,
}

impl Statistics {
    fn of(answer: &[String], reference: &[String], alignment: &Alignment) -> Self {
        let mut statistics = Self {
            chunks: alignment.chunks,
            ..Self::default()
        };
        for (side, words) in [answer, reference].into_iter().enumerate() {
            for word in words {
                statistics.lengths[side].count(word);
            }
            for found in &alignment.matches {
                let (start, length) = if side == 0 {
                    found.answer
                } else {
                    found.reference
                };
                for word in &words[start..start + length] {
                    statistics.matches[side][found.kind as usize].count(word);
                }
            }
        }
        statistics
    }

    fn add(&mut self, other: &Self) {
        for side in 0..2 {
            self.lengths[side].add(other.lengths[side]);
            for kind in Kind::ALL {
                self.matches[side][kind as usize].add(other.matches[side][kind as usize]);
            }
        }
        // A row that is matched whole is not fragmented, in a corpus neither.
        if !other.is_whole() {
            self.chunks += other.chunks;
        }
    }

    fn matched(&self, side: usize) -> u64 {
        self.matches[side].iter().map(|words| words.all()).sum()
    }

    /// Whether every word of both sides is matched, in one run.
    fn is_whole(&self) -> bool {
        self.chunks == 1 && (0..2).all(|side| self.matched(side) == self.lengths[side].all())
    }

    fn score(&self) -> f64 {
        let share = |side: usize| {
            let matched: f64 = Kind::ALL
                .iter()
                .map(|kind| kind.weight() * self.matches[side][*kind as usize].weighted())
                .sum();
            matched / self.lengths[side].weighted()
        };
        let (precision, recall) = (share(0), share(1));
        let fragmentation = if self.is_whole() {
            0.0
        } else {
            self.chunks as f64 / ((self.matched(0) + self.matched(1)) as f64 / 2.0)
        };
        let mean = 1.0 / ((1.0 - ALPHA) / precision + ALPHA / recall);
        let score = mean * (1.0 - GAMMA * fragmentation.powf(BETA));
        // No words, or none matched: a division by zero.
        if score.is_nan() { 0.0 } else { score.max(0.0) }
    }
}

fn is_function_word(word: &str) -> bool {
    static WORDS: LazyLock<HashSet<&str>> = LazyLock::new(|| FUNCTION_WORDS.split(' ').collect());
    WORDS.contains(word)
}

/// METEOR 1.5's English function words (by its paper, those above a thousandth of the words of a large
/// corpus). The list is part of the metric's definition.
const FUNCTION_WORDS: &str = "the , . to of and a in that for \" is on 's it with was as said at he by be from have has \
are his but an this not i will ’ they ) -rrb- ( -lrb- who their had we which were been more or s its would about \
new one after you : also up when there than $ all out her people she year two - can if last first “ over other ” into \
some what so -- no time years could ? 't — '";

#[cfg(test)]
mod tests {
    use super::*;

    fn one(answer: &str, reference: &str) -> f64 {
        let references = [reference.to_owned()];
        Meteor::exact_stem()
            .evaluate(&[Row {
                answer,
                references: &references,
            }])
            .rows[0]
    }

    #[test]
    fn by_hand() {
        assert!((one("red car stops", "red car stops") - 1.0).abs() < 1e-12);
        assert_eq!(one("red car", "blue sky"), 0.0);
        // Two of three content words, one chunk: P = R = 2/3, penalty 0.6 (1/2)^0.2.
        let expected = 2.0 / 3.0 * (1.0 - 0.6 * 0.5f64.powf(0.2));
        assert!((one("red car stops", "red car waits") - expected).abs() < 1e-12);
        // A stem match weighs 0.6: P = R = (1 + 0.6) / 2, all matched in one chunk.
        assert!((one("red cars", "red car") - 0.8).abs() < 1e-12);
        // "the" is a function word: P = 0.75 / (0.75 + 0.25), R = 1.
        let mean = 1.0 / (0.15 / 0.75 + 0.85);
        let expected = mean * (1.0 - 0.6 * (1.0f64 / 1.0).powf(0.2));
        assert!((one("the car", "car") - expected).abs() < 1e-12);
    }

    #[test]
    fn empty_texts_score_nothing() {
        assert_eq!((one("", "a"), one("a", ""), one("", "")), (0.0, 0.0, 0.0));
        assert_eq!(Meteor::exact_stem().evaluate(&[]).corpus, 0.0);
    }
}
