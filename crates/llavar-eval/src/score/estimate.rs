//! Values with standard errors over pictures as clusters.
//!
//! Several questions share a picture, so their scores are not independent; a standard error that takes
//! them as such is too small.
//!
//! Mean `m` of `n` rows in `G` clusters: `SE = sqrt(G / (G - 1) * sum_g (sum_{i in g} (x_i - m))^2) / n`; of
//! a sum, `n` times that. With one row a cluster it is the usual standard error of the mean.
//! A corpus value (BLEU, METEOR) is no mean of rows: its error is the delete-a-group jackknife over up to 20
//! groups of clusters, `sqrt((K - 1) / K * sum_k (v_k - mean v)^2)`.
//!
//! # Source
//! Liang and Zeger 1986 (cluster-robust variance); Kott 2001 (delete-a-group jackknife); for evaluations:
//! Miller 2024, "Adding Error Bars to Evals".

use crate::results::{Estimate, ScoredRow};
use llavar_metrics::{Aggregate, CorpusStatistics, Metric};
use std::collections::HashMap;

/// Groups of the jackknife: its error is then known to about 16 %.
const GROUPS: usize = 20;

/// Value and error of a metric over the rows `of`, of which there is at least one; `counted` has the statistics
/// of each row where the metric is one of a corpus.
pub(super) fn estimate(
    metric: Metric,
    rows: &[ScoredRow],
    counted: &[Option<CorpusStatistics>],
    of: &[usize],
) -> Estimate {
    let clusters = clusters(of.iter().map(|&at| &rows[at]));
    let images = clusters.iter().max().map_or(0, |last| last + 1);
    let n = of.len();
    let scores: Vec<f64> = of
        .iter()
        .filter_map(|&at| rows[at].scores.get(metric.name()).copied())
        .collect();
    let (value, standard_error) = match metric.aggregate() {
        Aggregate::Mean => (
            scores.iter().sum::<f64>() / n as f64,
            standard_error(&scores, &clusters),
        ),
        Aggregate::Sum => (
            scores.iter().sum(),
            standard_error(&scores, &clusters).map(|error| error * n as f64),
        ),
        Aggregate::Corpus => (
            corpus(metric, counted, of.iter()),
            jackknife(metric, counted, of, &clusters, images),
        ),
    };
    Estimate {
        value,
        standard_error,
        n,
        images,
    }
}

/// Standard error of the mean of `scores`; `clusters` numbers the cluster of each from 0. None for fewer
/// than two clusters.
pub fn standard_error(scores: &[f64], clusters: &[usize]) -> Option<f64> {
    let count = clusters.iter().max().map_or(0, |last| last + 1);
    if count < 2 || scores.len() != clusters.len() {
        return None;
    }
    let mean = scores.iter().sum::<f64>() / scores.len() as f64;
    let mut sums = vec![0.0; count];
    for (score, cluster) in scores.iter().zip(clusters) {
        sums[*cluster] += score - mean;
    }
    let squares: f64 = sums.iter().map(|sum| sum * sum).sum();
    let groups = count as f64;
    Some((groups / (groups - 1.0) * squares).sqrt() / scores.len() as f64)
}

/// Number of the picture of each row, from 0 in order of first appearance. A row without a picture's
/// name is one of its own.
pub(crate) fn clusters<'a>(rows: impl IntoIterator<Item = &'a ScoredRow>) -> Vec<usize> {
    let mut known: HashMap<&str, usize> = HashMap::new();
    let mut next = 0;
    rows.into_iter()
        .map(|row| {
            let mut new = || {
                next += 1;
                next - 1
            };
            match row.sample.image.as_str() {
                "" => new(),
                image => *known.entry(image).or_insert_with(new),
            }
        })
        .collect()
}

fn corpus<'a>(
    metric: Metric,
    counted: &[Option<CorpusStatistics>],
    of: impl Iterator<Item = &'a usize>,
) -> f64 {
    metric.corpus_value(of.filter_map(|&at| counted.get(at)?.as_ref()))
}

/// The statistics of the rows that stay are added up for each group: beside counting them that costs nothing, and
/// sums of whole numbers are exact.
fn jackknife(
    metric: Metric,
    counted: &[Option<CorpusStatistics>],
    of: &[usize],
    clusters: &[usize],
    images: usize,
) -> Option<f64> {
    let groups = images.min(GROUPS);
    if groups < 2 {
        return None;
    }
    let values: Vec<f64> = (0..groups)
        .map(|group| {
            let kept = of.iter().zip(clusters);
            let kept = kept.filter(|(_, cluster)| *cluster % groups != group);
            corpus(metric, counted, kept.map(|(at, _)| at))
        })
        .collect();
    let count = groups as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    Some(((count - 1.0) / count * squares).sqrt())
}

#[cfg(test)]
mod tests {
    use super::super::{count, row_of};
    use super::*;
    use crate::samples::SampleRow;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[test]
    fn one_row_a_cluster_is_the_usual_error() {
        let scores = [1.0, 0.0, 0.0, 1.0, 1.0];
        // Sample deviation over the root of n: sqrt(1.2 / 4) / sqrt(5).
        let usual = (1.2f64 / 4.0).sqrt() / 5f64.sqrt();
        let error = standard_error(&scores, &[0, 1, 2, 3, 4]).unwrap();
        assert!((error - usual).abs() < 1e-12, "{error} {usual}");
        assert_eq!(standard_error(&scores, &[0; 5]), None);
        assert_eq!(standard_error(&[], &[]), None);
    }

    #[test]
    fn rows_that_go_together_count_once() {
        // Every score three times, in one cluster each: the error is that of the single scores.
        let single = [1.0, 0.0, 0.0, 1.0, 1.0, 0.25];
        let once = standard_error(&single, &[0, 1, 2, 3, 4, 5]).unwrap();
        let scores: Vec<f64> = single.iter().flat_map(|s| [*s; 3]).collect();
        let clusters: Vec<usize> = (0..18).map(|i| i / 3).collect();
        let clustered = standard_error(&scores, &clusters).unwrap();
        assert!((clustered - once).abs() < 1e-12);
        let naive = standard_error(&scores, &(0..18).collect::<Vec<_>>()).unwrap();
        assert!(naive < 0.65 * clustered, "{naive} {clustered}");
    }

    /// A row of picture `image`, or of none.
    fn row(image: Option<usize>, text: &str, references: &[String]) -> ScoredRow {
        ScoredRow {
            sample: SampleRow {
                question_id: String::new(),
                prompt: String::new(),
                text: text.into(),
                answer_id: String::new(),
                model_id: String::new(),
                metadata: serde_json::Map::new(),
                gt: references.to_vec(),
                task: String::new(),
                image: image.map(|image| image.to_string()).unwrap_or_default(),
                category: None,
                run: String::new(),
                error: None,
            },
            answered: true,
            image_path: None,
            scores: BTreeMap::new(),
        }
    }

    /// Value and error with the whole metric computed again for each group.
    fn slow(metric: Metric, rows: &[ScoredRow], of: &[usize]) -> (f64, Option<f64>) {
        let value = |kept: &[usize]| {
            let given: Vec<_> = kept.iter().map(|&at| row_of(&rows[at])).collect();
            metric.evaluate(&given).value
        };
        let clusters = clusters(of.iter().map(|&at| &rows[at]));
        let images = clusters.iter().max().map_or(0, |last| last + 1);
        let groups = images.min(GROUPS);
        if groups < 2 {
            return (value(of), None);
        }
        let mut values = Vec::new();
        for group in 0..groups {
            let kept = of.iter().zip(&clusters);
            let kept = kept.filter(|(_, cluster)| *cluster % groups != group);
            values.push(value(&kept.map(|(at, _)| *at).collect::<Vec<_>>()));
        }
        let count = groups as f64;
        let mean = values.iter().sum::<f64>() / count;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        (value(of), Some(((count - 1.0) / count * squares).sqrt()))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        #[test]
        fn a_corpus_has_the_estimate_of_the_metric_computed_again(
            rows in prop::collection::vec(
                (
                    prop::option::of(0usize..30),
                    "((the|a|red|cars?|No\\.)( (the|a|red|cars?|sign\\.)){0,8})?",
                    prop::collection::vec("(the|a|red|cars?)( (the|a|red|car|sign)){0,8}", 0..4),
                    prop::bool::weighted(0.8),
                ),
                1..60,
            ),
        ) {
            let mut of: Vec<usize> = (0..rows.len()).filter(|&at| rows[at].3).collect();
            if of.is_empty() {
                of.push(0);
            }
            let rows: Vec<ScoredRow> = rows
                .iter()
                .map(|(image, text, references, _)| row(*image, text, references))
                .collect();
            for metric in [
                Metric::Bleu1, Metric::Bleu2, Metric::Bleu3, Metric::Bleu4, Metric::MeteorExactStem,
            ] {
                let scope: Vec<usize> = (0..rows.len()).collect();
                let counted = count(metric, &rows, &scope);
                let fast = estimate(metric, &rows, &counted, &of);
                let (value, error) = slow(metric, &rows, &of);
                prop_assert_eq!(fast.value.to_bits(), value.to_bits(), "{}", metric);
                prop_assert_eq!(
                    fast.standard_error.map(f64::to_bits),
                    error.map(f64::to_bits),
                    "{}", metric
                );
            }
        }
    }
}
