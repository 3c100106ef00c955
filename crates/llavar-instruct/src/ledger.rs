//! What a run cost, by step and model, added up from its journal.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use crate::Entry;

/// Sums of one step with one model.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct LedgerRow {
    /// `caption` or `duos`.
    pub step: String,
    /// The model.
    pub model: String,
    /// Requests that were sent; tries of the same request again count once.
    pub requests: u64,
    /// Answers that came.
    pub answers: u64,
    /// Tokens of the requests, attempts that were charged and failed included.
    pub prompt_tokens: u64,
    /// Of those, tokens that the server had in its cache.
    pub cached_tokens: u64,
    /// Tokens of the answers.
    pub completion_tokens: u64,
    /// Of the answers, those whose tokens we estimate because the server counts none.
    pub estimated_answers: u64,
    /// Price of all tokens above, USD; absent without prices.
    pub usd: Option<f64>,
    /// Attempts that failed, by class.
    pub failed: BTreeMap<String, u64>,
    /// Requests whose fate is not known (the process was killed, the answer cut off or late): the server may
    /// have charged them.
    pub in_doubt: u64,
    /// The most that those cost, USD.
    pub in_doubt_usd: Option<f64>,
    /// Sum of the answers' times, seconds.
    pub seconds: f64,
}

/// All rows.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Ledger {
    /// By step and model.
    pub rows: Vec<LedgerRow>,
    /// Sum of the rows' prices, USD.
    pub usd: Option<f64>,
    /// The most that requests in doubt cost, USD.
    pub in_doubt_usd: Option<f64>,
}

/// A request: step, model, the most that it costs.
type Sent<'a> = (&'a str, &'a str, Option<f64>);

fn plus(sum: &mut Option<f64>, more: Option<f64>) {
    if let Some(more) = more {
        *sum = Some(sum.unwrap_or(0.0) + more);
    }
}

impl Ledger {
    /// Adds a journal up.
    pub fn of(entries: &[Entry]) -> Self {
        let mut rows: BTreeMap<(String, String), LedgerRow> = BTreeMap::new();
        // Requests that were sent and have no answer yet, with the most that they cost.
        let mut open: HashMap<&str, Vec<Sent<'_>>> = HashMap::new();
        let mut most: HashMap<&str, Option<f64>> = HashMap::new();
        for entry in entries {
            match entry {
                Entry::Sent {
                    key,
                    step,
                    model,
                    most_usd,
                    ..
                } => {
                    let row = row_of(&mut rows, step, model);
                    row.requests += 1;
                    open.entry(key).or_default().push((step, model, *most_usd));
                    most.insert(key, *most_usd);
                }
                Entry::Failed {
                    key,
                    step,
                    model,
                    class,
                    usage,
                    usd,
                    may_be_charged,
                    last,
                    ..
                } => {
                    let row = row_of(&mut rows, step, model);
                    *row.failed.entry(class.clone()).or_default() += 1;
                    match usage {
                        Some(usage) => {
                            row.prompt_tokens += usage.prompt_tokens;
                            row.cached_tokens += usage.cached_tokens;
                            row.completion_tokens += usage.completion_tokens;
                            plus(&mut row.usd, *usd);
                        }
                        None if *may_be_charged => {
                            row.in_doubt += 1;
                            plus(
                                &mut row.in_doubt_usd,
                                most.get(key.as_str()).copied().flatten(),
                            );
                        }
                        None => {}
                    }
                    if *last {
                        open.entry(key).or_default().pop();
                    }
                }
                Entry::Answer(answer) => {
                    let row = row_of(&mut rows, &answer.step, &answer.model);
                    row.answers += 1;
                    row.prompt_tokens += answer.usage.prompt_tokens;
                    row.cached_tokens += answer.usage.cached_tokens;
                    row.completion_tokens += answer.usage.completion_tokens;
                    row.estimated_answers += u64::from(answer.estimated);
                    row.seconds += answer.seconds;
                    plus(&mut row.usd, answer.usd);
                    open.entry(&answer.key).or_default().pop();
                }
                Entry::Run { .. } | Entry::Review(_) => {}
            }
        }
        for (step, model, most_usd) in open.into_values().flatten() {
            let row = row_of(&mut rows, step, model);
            row.in_doubt += 1;
            plus(&mut row.in_doubt_usd, most_usd);
        }
        let mut ledger = Self {
            rows: rows.into_values().collect(),
            ..Self::default()
        };
        for row in &ledger.rows {
            plus(&mut ledger.usd, row.usd);
            plus(&mut ledger.in_doubt_usd, row.in_doubt_usd);
        }
        ledger
    }

    /// Tokens of all rows: of requests, of answers.
    pub fn tokens(&self) -> (u64, u64) {
        let sum = |of: fn(&LedgerRow) -> u64| self.rows.iter().map(of).sum();
        (
            sum(|row| row.prompt_tokens),
            sum(|row| row.completion_tokens),
        )
    }
}

fn row_of<'a>(
    rows: &'a mut BTreeMap<(String, String), LedgerRow>,
    step: &str,
    model: &str,
) -> &'a mut LedgerRow {
    rows.entry((step.to_owned(), model.to_owned()))
        .or_insert_with(|| LedgerRow {
            step: step.to_owned(),
            model: model.to_owned(),
            ..LedgerRow::default()
        })
}
