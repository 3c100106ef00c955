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

use super::{
    Row,
    ngrams::{MAX_N, Map, Ngram, Vocabulary, common, count, order},
};

/// Raised when a score of any row can change.
pub const VERSION: u32 = 1;

const SIGMA: f64 = 6.0;

/// CIDEr-D of each row, 0 to 10, for rows whose texts are tokens with spaces between (see
/// [`ptb`](super::ptb)); the corpus' value is their mean.
pub fn cider_d(rows: &[Row<'_>]) -> Vec<f64> {
    let mut vocabulary = Vocabulary::default();
    let mut seen = Frequencies::default();
    let counted: Vec<(PlainCounts, Vec<Counts>)> = rows
        .iter()
        .enumerate()
        .map(|(at, row)| {
            let references = row
                .references
                .iter()
                .map(|reference| seen.add(at, count(&vocabulary.words(reference))))
                .collect();
            (count(&vocabulary.words(row.answer)), references)
        })
        .collect();
    let log_rows = (rows.len() as f64).ln();
    // An n-gram that no reference has counts as in one row.
    let mut weights = vec![log_rows];
    weights.extend(
        seen.rows
            .iter()
            .map(|(_, rows)| log_rows - f64::from(*rows).ln()),
    );
    counted
        .into_iter()
        .map(|(answer, references)| {
            let answer = Vector::new(&seen.look_up(answer), &weights);
            let sum: f64 = references
                .iter()
                .map(|reference| answer.similarity(&Vector::new(reference, &weights)))
                .sum();
            10.0 * sum / MAX_N as f64 / references.len().max(1) as f64
        })
        .collect()
}

/// N-grams with how often they occur.
type PlainCounts = Vec<(Ngram, u32)>;

/// N-grams with how often they occur and where their weight stands.
type Counts = Vec<(Ngram, (u32, usize))>;

/// In how many rows a reference has an n-gram.
#[derive(Default)]
struct Frequencies {
    /// Place of an n-gram in the weights; 0 is for those that no reference has.
    places: Map<Ngram, usize>,
    /// By place, from 1: the last row that had it, and how many did.
    rows: Vec<(usize, u32)>,
}

impl Frequencies {
    /// Counts the n-grams of one reference of a row, each once a row.
    fn add(&mut self, row: usize, counts: PlainCounts) -> Counts {
        counts
            .into_iter()
            .map(|(ngram, count)| {
                let next = self.rows.len() + 1;
                let place = *self.places.entry(ngram).or_insert(next);
                match self.rows.get_mut(place - 1) {
                    None => self.rows.push((row, 1)),
                    Some((last, _)) if *last == row => {}
                    Some(seen) => *seen = (row, seen.1 + 1),
                }
                (ngram, (count, place))
            })
            .collect()
    }

    fn look_up(&self, counts: PlainCounts) -> Counts {
        let place = |ngram| self.places.get(&ngram).copied().unwrap_or(0);
        counts
            .into_iter()
            .map(|(ngram, count)| (ngram, (count, place(ngram))))
            .collect()
    }
}

struct Vector {
    weighted: Vec<(Ngram, f64)>,
    norms: [f64; MAX_N],
    length: f64,
}

impl Vector {
    fn new(counts: &Counts, weights: &[f64]) -> Self {
        let mut norms = [0.0; MAX_N];
        let mut bigrams = 0;
        let weighted = counts
            .iter()
            .map(|(ngram, (count, place))| {
                let weight = f64::from(*count) * weights[*place];
                let n = order(*ngram);
                norms[n - 1] += weight * weight;
                if n == 2 {
                    bigrams += count;
                }
                (*ngram, weight)
            })
            .collect();
        Self {
            weighted,
            norms: norms.map(f64::sqrt),
            length: f64::from(bigrams),
        }
    }

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
