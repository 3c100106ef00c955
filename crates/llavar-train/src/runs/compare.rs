//! Runs side by side.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::Run;

/// What sets runs apart from the first of them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// Keys of the recipes that are not the same in all runs, with the value of each run; null where a run has no
    /// recipe that can be read.
    pub recipe: Vec<(String, Vec<Value>)>,
    /// Of every run but the first: how its losses differ from the first's.
    pub losses: Vec<Difference>,
}

/// How the losses of a run differ from those of another at the steps that both have logged.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Difference {
    /// Steps that both have.
    pub steps: usize,
    /// The first at which the losses are not the same number.
    pub first_step: Option<u64>,
    /// The largest difference, nats a token.
    pub largest: f64,
    /// Where that is.
    pub largest_step: Option<u64>,
    /// Mean of the second's minus the first's over the last tenth of those steps, nats a token.
    pub at_the_end: Option<f64>,
}

/// Compares runs with the first of them.
pub fn compare(runs: &[Run]) -> Comparison {
    let keys = |run: &Run| -> BTreeMap<String, Value> {
        let keys = run.recipe.as_ref().map(crate::Recipe::keys);
        keys.into_iter().flatten().collect()
    };
    let all: Vec<BTreeMap<String, Value>> = runs.iter().map(keys).collect();
    let names: std::collections::BTreeSet<&String> = all.iter().flat_map(|k| k.keys()).collect();
    let recipe = names.into_iter().filter_map(|name| {
        let value = |keys: &BTreeMap<String, Value>| keys.get(name).cloned().unwrap_or_default();
        let values: Vec<Value> = all.iter().map(value).collect();
        let differ = values.iter().any(|value| Some(value) != values.first());
        differ.then(|| (name.clone(), values))
    });
    let losses = match runs {
        [] => Vec::new(),
        [first, others @ ..] => others.iter().map(|run| difference(first, run)).collect(),
    };
    Comparison {
        recipe: recipe.collect(),
        losses,
    }
}

fn difference(first: &Run, second: &Run) -> Difference {
    let of_first: BTreeMap<u64, f64> = first.values("loss").into_iter().collect();
    let both = second.values("loss").into_iter();
    let both: Vec<(u64, f64)> = both
        .filter_map(|(step, loss)| Some((step, loss - of_first.get(&step)?)))
        .collect();
    let largest = both.iter().max_by(|a, b| a.1.abs().total_cmp(&b.1.abs()));
    let largest = largest.filter(|(_, by)| *by != 0.0);
    let tail = &both[both.len() - both.len().div_ceil(10)..];
    let end = tail.iter().map(|(_, by)| by).sum::<f64>() / tail.len() as f64;
    Difference {
        steps: both.len(),
        first_step: both
            .iter()
            .find(|(_, by)| *by != 0.0)
            .map(|(step, _)| *step),
        largest: largest.map_or(0.0, |(_, by)| by.abs()),
        largest_step: largest.map(|(step, _)| *step),
        at_the_end: (!tail.is_empty()).then_some(end),
    }
}
