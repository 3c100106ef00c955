//! CIDEr-D of tokenised text, as pycocoevalcap computes it.
//!
//! Each text is, for n = 1 to 4, a vector of its n-grams weighted `count (ln N - ln df)`, `N` the number of
//! rows and `df` in how many rows a reference has the n-gram (at least 1). With `h` of the answer and `r` of a
//! reference,
//! `CIDEr-D = 10 mean_n mean_refs exp(-(l_h - l_r)^2 / (2 sigma^2)) sum min(h, r) r / (|h| |r|)`, sigma = 6.
//! Of a corpus: the mean of its rows, 0 to 10.
//!
//! # Quirks
//! - A row has no score of its own: weights come from all references of the corpus. A corpus of one row
//!   scores 0, since every n-gram is in all of it.
//! - The "length" is the number of bigrams, one less than the words (0 for none and for one word).
//!
//! # Source
//! Vedantam et al., "CIDEr", 2015; `cider_scorer.py` of pycocoevalcap 1.2.

use std::collections::HashMap;

use super::{
    Row,
    ngrams::{MAX_N, Ngram, Vocabulary, common, count, order},
};

/// Raised when a score of any row can change.
pub const VERSION: u32 = 1;

const SIGMA: f64 = 6.0;

/// CIDEr-D of each row, 0 to 10, for rows whose texts are tokens with spaces between (see
/// [`ptb`](super::ptb)); the corpus' value is their mean.
pub fn cider_d(rows: &[Row<'_>]) -> Vec<f64> {
    let mut vocabulary = Vocabulary::default();
    let mut frequency: HashMap<Ngram, u32> = HashMap::new();
    let counted: Vec<(Counts, Vec<Counts>)> = rows
        .iter()
        .map(|row| {
            let answer = count(&vocabulary.words(row.answer));
            let references: Vec<Counts> = row
                .references
                .iter()
                .map(|reference| count(&vocabulary.words(reference)))
                .collect();
            let mut distinct: Vec<Ngram> = references
                .iter()
                .flatten()
                .map(|(ngram, _)| *ngram)
                .collect();
            distinct.sort_unstable();
            distinct.dedup();
            for ngram in distinct {
                *frequency.entry(ngram).or_default() += 1;
            }
            (answer, references)
        })
        .collect();
    let weights = Weights {
        frequency,
        log_rows: (rows.len() as f64).ln(),
    };
    counted
        .iter()
        .map(|(answer, references)| {
            let answer = weights.vector(answer);
            let sum: f64 = references
                .iter()
                .map(|reference| answer.similarity(&weights.vector(reference)))
                .sum();
            if references.is_empty() {
                0.0
            } else {
                10.0 * sum / MAX_N as f64 / references.len() as f64
            }
        })
        .collect()
}

type Counts = Vec<(Ngram, u32)>;

struct Weights {
    frequency: HashMap<Ngram, u32>,
    log_rows: f64,
}

impl Weights {
    fn vector(&self, counts: &Counts) -> Vector {
        let mut norms = [0.0; MAX_N];
        let mut bigrams = 0;
        let weighted = counts
            .iter()
            .map(|(ngram, count)| {
                let rows = self.frequency.get(ngram).copied().unwrap_or(1);
                let weight = f64::from(*count) * (self.log_rows - f64::from(rows).ln());
                let n = order(ngram);
                norms[n - 1] += weight * weight;
                if n == 2 {
                    bigrams += count;
                }
                (*ngram, weight)
            })
            .collect();
        Vector {
            weighted,
            norms: norms.map(f64::sqrt),
            length: f64::from(bigrams),
        }
    }
}

struct Vector {
    weighted: Vec<(Ngram, f64)>,
    norms: [f64; MAX_N],
    length: f64,
}

impl Vector {
    /// Clipped cosine times the length penalty, summed over the orders.
    fn similarity(&self, reference: &Self) -> f64 {
        let mut products = [0.0; MAX_N];
        for (ngram, own, theirs) in common(&self.weighted, &reference.weighted) {
            products[order(ngram) - 1] += own.min(*theirs) * theirs;
        }
        let difference = self.length - reference.length;
        let penalty = (-difference * difference / (2.0 * SIGMA * SIGMA)).exp();
        (0..MAX_N)
            .map(|n| match self.norms[n] * reference.norms[n] {
                0.0 => 0.0,
                norm => penalty * products[n] / norm,
            })
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_of_distinct_rows_is_ten() {
        let references = [["a b c d e".to_owned()], ["f g h i j".to_owned()]];
        let rows: Vec<Row<'_>> = references
            .iter()
            .map(|reference| Row {
                answer: &reference[0],
                references: reference,
            })
            .collect();
        for score in cider_d(&rows) {
            assert!((score - 10.0).abs() < 1e-9);
        }
    }

    #[test]
    fn one_word_in_common() {
        // Two rows, idf ln 2 for every n-gram. Row 0: unigrams "a x" against "a b": 1/2; the one bigram
        // differs; no length difference. 10 * (1/2) / 4.
        let (a, b) = (["a b".to_owned()], ["c d".to_owned()]);
        let rows = [
            Row {
                answer: "a x",
                references: &a,
            },
            Row {
                answer: "",
                references: &b,
            },
        ];
        let scores = cider_d(&rows);
        assert!((scores[0] - 1.25).abs() < 1e-12, "{}", scores[0]);
        assert_eq!(scores[1], 0.0);
    }

    #[test]
    fn a_single_row_scores_nothing() {
        let references = ["a b".to_owned()];
        let row = Row {
            answer: "a b",
            references: &references,
        };
        assert_eq!(cider_d(&[row]), [0.0]);
        assert!(cider_d(&[]).is_empty());
    }
}
