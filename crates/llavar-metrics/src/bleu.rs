//! BLEU-1 to BLEU-4 of tokenised text, as pycocoevalcap computes them.
//!
//! `BLEU_n = BP (p_1 ... p_n)^(1/n)`, `p_k` the clipped k-gram matches over the k-grams of the answer, each
//! clipped at its largest count in any one reference; `BP = exp(1 - r/c)` where the answer's length `c` is below
//! `r`, the length of the reference nearest in length (the shorter of two as near).
//!
//! Of a corpus: matches, k-grams and lengths are summed over the rows before the formula; it is not the mean of
//! the rows.
//!
//! # Quirks
//! - No smoothing but guards against zero: `(matches + 1e-15) / (k-grams + 1e-9)`, so a row without a match of
//!   some order has a score near 1e-9, not 0, and identity scores slightly under 1.
//!
//! # Source
//! Papineni et al., "BLEU", 2002; `bleu_scorer.py` of pycocoevalcap 1.2 (option `closest`).

use super::{
    Row,
    ngrams::{MAX_N, Ngram, Vocabulary, common, count, order},
};

/// Raised when a score of any row can change.
pub const VERSION: u32 = 1;

/// BLEU-1 to BLEU-4 of a corpus and of each of its rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Bleu {
    /// BLEU-1 to BLEU-4 of all rows together, 0 to 1.
    pub corpus: [f64; MAX_N],
    /// BLEU-1 to BLEU-4 of each row.
    pub rows: Vec<[f64; MAX_N]>,
}

/// Scores rows whose texts are tokens with spaces between (see [`ptb`](super::ptb)).
pub fn bleu(rows: &[Row<'_>]) -> Bleu {
    let mut vocabulary = Vocabulary::default();
    let counted: Vec<Statistics> = rows
        .iter()
        .map(|row| Statistics::of(row, &mut vocabulary))
        .collect();
    Bleu {
        corpus: corpus(&counted),
        rows: counted.iter().map(Statistics::scores).collect(),
    }
}

/// BLEU-1 to BLEU-4 of rows together.
pub(crate) fn corpus<'s>(rows: impl IntoIterator<Item = &'s Statistics>) -> [f64; MAX_N] {
    let mut rows = rows.into_iter().peekable();
    // The guards against zero would make something of nothing.
    if rows.peek().is_none() {
        return [0.0; MAX_N];
    }
    let mut total = Statistics::default();
    rows.for_each(|row| total.add(row));
    total.scores()
}

/// What BLEU is computed from, summable over rows.
#[derive(Debug, Default, Clone)]
pub(crate) struct Statistics {
    /// Words of the answer.
    length: usize,
    /// Words of the reference nearest in length.
    reference_length: usize,
    /// Clipped matches by order.
    matches: [u64; MAX_N],
    /// N-grams of the answer by order.
    ngrams: [u64; MAX_N],
}

impl Statistics {
    pub(crate) fn of<'a>(row: &Row<'a>, vocabulary: &mut Vocabulary<'a>) -> Self {
        let answer = vocabulary.words(row.answer);
        let mut statistics = Self {
            length: answer.len(),
            ..Self::default()
        };
        for n in 1..=MAX_N {
            statistics.ngrams[n - 1] = (answer.len() + 1).saturating_sub(n) as u64;
        }
        let counts = count(&answer);
        let mut clipped: Vec<(Ngram, u32)> = counts.iter().map(|(ngram, _)| (*ngram, 0)).collect();
        let mut lengths = Vec::with_capacity(row.references.len());
        for reference in row.references {
            let words = vocabulary.words(reference);
            lengths.push(words.len());
            let largest: Vec<(Ngram, u32)> = common(&counts, &count(&words))
                .map(|(ngram, own, theirs)| (ngram, *own.min(theirs)))
                .collect();
            let mut found = largest.iter().peekable();
            for (ngram, most) in &mut clipped {
                if let Some((_, matches)) = found.next_if(|(other, _)| other == ngram) {
                    *most = (*most).max(*matches);
                }
            }
        }
        for (ngram, matches) in &clipped {
            statistics.matches[order(*ngram) - 1] += u64::from(*matches);
        }
        statistics.reference_length = lengths
            .into_iter()
            .min_by_key(|length| (length.abs_diff(answer.len()), *length))
            .unwrap_or(0);
        statistics
    }

    fn add(&mut self, other: &Self) {
        self.length += other.length;
        self.reference_length += other.reference_length;
        for n in 0..MAX_N {
            self.matches[n] += other.matches[n];
            self.ngrams[n] += other.ngrams[n];
        }
    }

    fn scores(&self) -> [f64; MAX_N] {
        const TINY: f64 = 1e-15;
        const SMALL: f64 = 1e-9;
        let ratio = (self.length as f64 + TINY) / (self.reference_length as f64 + SMALL);
        let penalty = if ratio < 1.0 {
            (1.0 - 1.0 / ratio).exp()
        } else {
            1.0
        };
        let mut product = 1.0;
        std::array::from_fn(|n| {
            product *= (self.matches[n] as f64 + TINY) / (self.ngrams[n] as f64 + SMALL);
            product.powf(1.0 / (n + 1) as f64) * penalty
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(answer: &str, references: &[&str]) -> [f64; MAX_N] {
        let references: Vec<String> = references.iter().map(|text| (*text).into()).collect();
        bleu(&[Row {
            answer,
            references: &references,
        }])
        .rows[0]
    }

    #[test]
    fn matches_are_clipped_and_short_answers_penalised() {
        // The classic example: 2 of 7 "the".
        let score = one(
            "the the the the the the the",
            &["the cat is on the mat", "there is a cat on the mat"],
        );
        assert!((score[0] - 2.0 / 7.0).abs() < 1e-9);
        // p1 = 1, p2 = 1, BP = exp(1 - 4/2).
        let score = one("a b", &["a b c d"]);
        assert!((score[0] - (-1.0f64).exp()).abs() < 1e-8);
        assert!((score[1] - (-1.0f64).exp()).abs() < 1e-8);
        // No trigram at all: the guards leave (1e-15 / 1e-9)^(1/3).
        assert!((score[2] - 1e-2 * (-1.0f64).exp()).abs() < 1e-8);
    }

    #[test]
    fn the_nearest_length_is_the_shorter_of_two_as_near() {
        // Lengths 2 and 4 are as near to 3: no penalty.
        assert!((one("a b c", &["a b", "a b c d"])[0] - 1.0).abs() < 1e-8);
    }

    #[test]
    fn a_corpus_is_not_the_mean_of_its_rows() {
        let (a, b) = (["x y".to_owned()], ["a b c d".to_owned()]);
        let rows = [
            Row {
                answer: "x y",
                references: &a,
            },
            Row {
                answer: "a z z z",
                references: &b,
            },
        ];
        let score = bleu(&rows);
        assert!((score.corpus[0] - 3.0 / 6.0).abs() < 1e-8);
        assert!((score.rows[0][0] + score.rows[1][0]) / 2.0 > 0.6);
        assert_eq!(bleu(&[]).corpus, [0.0; MAX_N]);
    }
}
