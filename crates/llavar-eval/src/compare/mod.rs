//! Whether two runs on the same questions differ.
//!
//! Questions are paired by task and id. `difference` is B minus A, the mean over the pairs. Its standard error
//! is clustered by picture (see [`standard_error`]); the interval is the 2.5 and 97.5
//! percentile of a bootstrap that draws whole pictures; `p` is the two-sided share of random sign changes of
//! whole pictures' differences (A and B swapped) whose mean is at least as far from 0, the observed one
//! counted in. All draws come from a fixed seed, so a comparison repeats to the digit.
//!
//! Corpus metrics (BLEU, METEOR) are compared by the scores of their rows, whose mean is not the corpus value.

use crate::results::ScoredRow;
use crate::score::{clusters, standard_error};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Draws of the bootstrap and of the sign changes.
pub const DRAWS: usize = 10_000;

/// One metric of two runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MetricComparison {
    /// Name of the metric.
    pub metric: String,
    /// Questions that both runs scored.
    pub pairs: usize,
    /// Their pictures.
    pub images: usize,
    /// Mean of A over the pairs.
    pub a: f64,
    /// Mean of B over the pairs.
    pub b: f64,
    /// B minus A.
    pub difference: f64,
    /// Standard error of the difference, clustered by picture; none for a single picture.
    pub standard_error: Option<f64>,
    /// 95 % interval of the difference.
    pub interval: [f64; 2],
    /// Two-sided probability of a difference at least as large if A and B did not differ.
    pub p: f64,
    /// Pairs on which B is better.
    pub better: usize,
    /// Pairs on which A is better.
    pub worse: usize,
}

/// Two runs side by side.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// One entry for each metric that both runs have.
    pub metrics: Vec<MetricComparison>,
    /// Scored questions of A that B does not have.
    pub only_in_a: usize,
    /// Scored questions of B that A does not have.
    pub only_in_b: usize,
    /// Pairs whose question, picture or references are not the same in both; they are compared all the
    /// same.
    pub unlike: usize,
}

/// The runs have nothing in common.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CompareError {
    /// No question is scored in both.
    #[error("no question is scored in both ({a} in A, {b} in B): are they runs of one task?")]
    NoPairs {
        /// Scored questions of A.
        a: usize,
        /// Scored questions of B.
        b: usize,
    },
    /// No metric is.
    #[error("no metric is in both: A has {}, B has {}; score one again with --metric", a.join(", "), b.join(", "))]
    NoMetric {
        /// Metrics of A.
        a: Vec<String>,
        /// Metrics of B.
        b: Vec<String>,
    },
}

/// Compares scored rows.
///
/// # Errors
/// [`CompareError`] where nothing can be paired.
pub fn compare(a: &[ScoredRow], b: &[ScoredRow]) -> Result<Comparison, CompareError> {
    // Of rows of one question the first counts, as in a merge.
    fn scored(rows: &[ScoredRow]) -> Vec<&ScoredRow> {
        let mut seen = HashSet::new();
        rows.iter()
            .filter(|row| !row.scores.is_empty() && seen.insert(row.sample.key()))
            .collect()
    }
    let (a, b) = (scored(a), scored(b));
    let of_b: HashMap<_, &ScoredRow> = b.iter().map(|row| (row.sample.key(), *row)).collect();
    let pairs: Vec<(&ScoredRow, &ScoredRow)> = a
        .iter()
        .filter_map(|row| Some((*row, *of_b.get(&row.sample.key())?)))
        .collect();
    if pairs.is_empty() {
        return Err(CompareError::NoPairs {
            a: a.len(),
            b: b.len(),
        });
    }
    let clusters = clusters(pairs.iter().map(|(row, _)| *row));
    let names = |rows: &[&ScoredRow]| -> Vec<String> {
        let mut all: BTreeMap<&String, ()> = BTreeMap::new();
        rows.iter()
            .for_each(|row| all.extend(row.scores.keys().map(|name| (name, ()))));
        all.into_keys().cloned().collect()
    };
    let (in_a, in_b) = (names(&a), names(&b));
    let metrics: Vec<MetricComparison> = in_a
        .iter()
        .filter(|name| in_b.contains(name))
        .filter_map(|name| compare_metric(name, &pairs, &clusters))
        .collect();
    if metrics.is_empty() {
        return Err(CompareError::NoMetric { a: in_a, b: in_b });
    }
    let unlike = |(a, b): &&(&ScoredRow, &ScoredRow)| {
        a.sample.gt != b.sample.gt || a.sample.image != b.sample.image
    };
    Ok(Comparison {
        metrics,
        only_in_a: a.len() - pairs.len(),
        only_in_b: b.len() - pairs.len(),
        unlike: pairs.iter().filter(unlike).count(),
    })
}

fn compare_metric(
    name: &str,
    pairs: &[(&ScoredRow, &ScoredRow)],
    clusters: &[usize],
) -> Option<MetricComparison> {
    let both: Vec<(f64, f64, usize)> = pairs
        .iter()
        .zip(clusters)
        .filter_map(|((a, b), cluster)| {
            Some((*a.scores.get(name)?, *b.scores.get(name)?, *cluster))
        })
        .collect();
    if both.is_empty() {
        return None;
    }
    let n = both.len() as f64;
    let mean = |of: &dyn Fn(&(f64, f64, usize)) -> f64| both.iter().map(of).sum::<f64>() / n;
    let differences: Vec<f64> = both.iter().map(|(a, b, _)| b - a).collect();
    // Numbered anew: a metric may lack some pictures.
    let mut numbers: HashMap<usize, usize> = HashMap::new();
    let of: Vec<usize> = both
        .iter()
        .map(|(.., cluster)| {
            let next = numbers.len();
            *numbers.entry(*cluster).or_insert(next)
        })
        .collect();
    let mut sums = vec![(0.0, 0.0); numbers.len()];
    for (difference, cluster) in differences.iter().zip(&of) {
        sums[*cluster].0 += difference;
        sums[*cluster].1 += 1.0;
    }
    Some(MetricComparison {
        metric: name.to_owned(),
        pairs: both.len(),
        images: sums.len(),
        a: mean(&|row| row.0),
        b: mean(&|row| row.1),
        difference: mean(&|row| row.1 - row.0),
        standard_error: standard_error(&differences, &of),
        interval: bootstrap(&sums),
        p: sign_changes(&sums),
        better: differences.iter().filter(|d| **d > 0.0).count(),
        worse: differences.iter().filter(|d| **d < 0.0).count(),
    })
}

/// Percentiles of the mean over pictures drawn with replacement; `(sum, rows)` of each picture.
fn bootstrap(pictures: &[(f64, f64)]) -> [f64; 2] {
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let count = pictures.len() as u64;
    let mut means: Vec<f64> = (0..DRAWS)
        .map(|_| {
            let (mut sum, mut rows) = (0.0, 0.0);
            for _ in 0..count {
                // The bias of this scaling is below 2^-40 for any number of pictures.
                let at = ((u128::from(rng.next_u64()) * u128::from(count)) >> 64) as usize;
                sum += pictures[at].0;
                rows += pictures[at].1;
            }
            sum / rows
        })
        .collect();
    means.sort_by(f64::total_cmp);
    [means[DRAWS * 25 / 1000], means[DRAWS * 975 / 1000 - 1]]
}

/// Share of sign changes with a mean at least as far from 0, the observed one among them.
fn sign_changes(pictures: &[(f64, f64)]) -> f64 {
    // Pictures without a difference do not change with their sign.
    let sums: Vec<f64> = pictures
        .iter()
        .map(|(sum, _)| *sum)
        .filter(|sum| *sum != 0.0)
        .collect();
    // Sums of the same numbers in another order differ in the last digits.
    let slack = 1e-9 * sums.iter().map(|sum| sum.abs()).sum::<f64>();
    let observed = sums.iter().sum::<f64>().abs() - slack;
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut as_far = 1usize;
    for _ in 0..DRAWS {
        let mut bits = 0u64;
        let mut total = 0.0;
        for (at, sum) in sums.iter().enumerate() {
            if at % 64 == 0 {
                bits = rng.next_u64();
            }
            total += if bits & 1 == 0 { *sum } else { -*sum };
            bits >>= 1;
        }
        as_far += usize::from(total.abs() >= observed);
    }
    as_far as f64 / (DRAWS + 1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_runs_do_not_differ() {
        let none = vec![(0.0, 3.0); 30];
        assert_eq!(sign_changes(&none), 1.0);
        assert_eq!(bootstrap(&none), [0.0, 0.0]);
    }

    #[test]
    fn a_clear_difference_is_found_and_chance_is_not() {
        let clear: Vec<(f64, f64)> = (0..40)
            .map(|i| (if i % 8 == 0 { -1.0 } else { 1.0 }, 2.0))
            .collect();
        assert!(sign_changes(&clear) < 0.001);
        let [low, high] = bootstrap(&clear);
        assert!(
            low > 0.1 && high < 0.6 && low < 0.375 && high > 0.375,
            "{low} {high}"
        );
        let chance: Vec<(f64, f64)> = (0..40)
            .map(|i| (if i % 2 == 0 { -1.0 } else { 1.0 }, 2.0))
            .collect();
        assert!(sign_changes(&chance) > 0.5);
    }

    /// Rows of one answer each, of which `right` in ten are right.
    fn rows(right: usize, image: impl Fn(usize) -> String) -> Vec<ScoredRow> {
        let row = |i: usize| {
            let row = serde_json::json!({
                "question_id": i.to_string(), "prompt": "q", "text": "a", "image": image(i), "gt": ["a"], "task": "t", "answered": true,
                "scores": {"anls": f64::from(u8::from(i % 10 < right))},
            });
            serde_json::from_value(row).unwrap()
        };
        (0..300).map(row).collect()
    }

    #[test]
    fn rows_that_name_no_picture_are_each_one_of_their_own() {
        let none = |_: usize| String::new();
        let each = |i: usize| i.to_string();
        let compared = compare(&rows(4, none), &rows(7, none)).unwrap();
        assert_eq!(compared, compare(&rows(4, each), &rows(7, each)).unwrap());
        let metric = &compared.metrics[0];
        assert_eq!((metric.images, metric.better, metric.worse), (300, 90, 0));
        assert!(metric.p < 0.001 && metric.interval[0] > 0.2 && metric.interval[1] < 0.4);
    }

    #[test]
    fn a_question_counts_once() {
        let (a, b) = (rows(4, |_| String::new()), rows(7, |_| String::new()));
        let twice = [&a[..], &a[..]].concat();
        assert_eq!(compare(&twice, &b), compare(&a, &b));
        assert_eq!(compare(&a[..5], &b).unwrap().only_in_b, 295);
    }

    #[test]
    fn few_pictures_are_counted_exactly() {
        // Three pictures, all better: 2 of the 8 sign patterns are as far from 0.
        let p = sign_changes(&[(1.0, 1.0), (1.0, 1.0), (1.0, 1.0)]);
        assert!((p - 0.25).abs() < 0.02, "{p}");
    }
}
