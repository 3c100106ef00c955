//! What a selection did, for people and scripts.

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize};

use super::{Dropped, PickOptions};
use crate::{SCORES, ScoreRow};

/// Kept and dropped values of a score at 0, 10, 25, 50, 75, 90 and 100 %.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    /// Of the kept pairs.
    pub kept: Vec<f64>,
    /// Of the dropped pairs.
    pub dropped: Vec<f64>,
}

/// Pairs of a source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceCount {
    /// In the score file.
    pub pairs: usize,
    /// Kept.
    pub kept: usize,
}

/// The card of a selection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Card {
    /// The options as used.
    pub options: PickOptions,
    /// Pairs of the score file.
    pub pairs: usize,
    /// Pairs kept.
    pub kept: usize,
    /// Samples of the score file.
    pub samples: usize,
    /// Samples of which a pair is kept.
    pub samples_kept: usize,
    /// Dropped pairs by reason.
    pub dropped: BTreeMap<String, usize>,
    /// Pairs by source.
    pub sources: BTreeMap<String, SourceCount>,
    /// Quantiles by score.
    pub scores: BTreeMap<String, Quantiles>,
}

impl Card {
    /// The card of a decision.
    pub fn new(options: &PickOptions, rows: &[ScoreRow], verdicts: &[Option<Dropped>]) -> Self {
        let (mut dropped, mut sources) = (BTreeMap::new(), BTreeMap::new());
        let (mut samples, mut samples_kept) = (HashSet::new(), HashSet::new());
        for (row, verdict) in rows.iter().zip(verdicts) {
            samples.insert(row.record);
            let source: &mut SourceCount = sources.entry(row.source.clone()).or_default();
            source.pairs += 1;
            match verdict {
                Some(reason) => *dropped.entry(reason.name().to_owned()).or_default() += 1,
                None => {
                    source.kept += 1;
                    samples_kept.insert(row.record);
                }
            }
        }
        let scores = SCORES.into_iter().map(|(name, get)| {
            let of = |kept: bool| {
                let pairs = rows.iter().zip(verdicts);
                let chosen = pairs.filter(|(_, verdict)| verdict.is_none() == kept);
                quantiles(chosen.filter_map(|(row, _)| get(row)).collect())
            };
            let quantiles = Quantiles {
                kept: of(true),
                dropped: of(false),
            };
            (name.to_owned(), quantiles)
        });
        Self {
            options: options.clone(),
            pairs: rows.len(),
            kept: verdicts.iter().filter(|verdict| verdict.is_none()).count(),
            samples: samples.len(),
            samples_kept: samples_kept.len(),
            dropped,
            sources,
            scores: scores.collect(),
        }
    }
}

fn quantiles(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    let Some(last) = values.len().checked_sub(1) else {
        return Vec::new();
    };
    let at = |share: f64| values[(share * last as f64).round() as usize];
    [0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0].map(at).to_vec()
}
