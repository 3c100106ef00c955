//! From answers to a [`RunResult`].

mod estimate;

pub(crate) use estimate::clusters;
pub use estimate::standard_error;

use crate::fingerprint::Fingerprint;
use crate::results::{CategoryResult, Counts, MetricResult, RunResult, SCHEMA, ScoredRow};
use crate::samples::{AnswersFile, SampleRow, match_answers};
use crate::tasks::{Item, Task};
use llavar_metrics::{Aggregate, CorpusStatistics, Metric, Row};
use rayon::prelude::*;
use std::collections::BTreeMap;

/// What is scored and how.
#[derive(Debug, Clone, Default)]
pub struct ScoreOptions {
    /// Metrics; the task's own where empty.
    pub metrics: Vec<Metric>,
    /// Leave questions out whose picture is not there. They would count as unanswered.
    pub only_with_image: bool,
}

/// Answers that cannot be scored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScoreError {
    /// No question has a reference and an image in scope.
    #[error(
        "task {task} ({split}): nothing can be scored: of {questions} questions {without_reference} \
         have no reference and {without_image} no picture"
    )]
    NothingToScore {
        /// Name of the task.
        task: String,
        /// Split.
        split: String,
        /// Questions.
        questions: usize,
        /// Those without a reference.
        without_reference: usize,
        /// Those left out because of their picture.
        without_image: usize,
    },
    /// None of the answers belongs to the task: a score would be a silent zero.
    #[error(
        "task {task} ({split}): none of the answers belongs to one of its {questions} questions; {report}"
    )]
    NoMatch {
        /// Name of the task.
        task: String,
        /// Split.
        split: String,
        /// Questions.
        questions: usize,
        /// What was found instead.
        report: String,
    },
}

/// Scores an answers file. The result and one row a question, in the task's order.
///
/// Questions without an answer, and those on which the model failed, score 0 and are counted; questions
/// without a reference are left out and counted.
///
/// # Errors
/// [`ScoreError`] where a number would mean nothing.
pub fn score(
    task: &Task,
    file: &AnswersFile,
    options: &ScoreOptions,
) -> Result<(RunResult, Vec<ScoredRow>), ScoreError> {
    let matched = match_answers(task, file);
    let report = &matched.report;
    if report.answered == 0 {
        return Err(ScoreError::NoMatch {
            task: task.name.clone(),
            split: task.split.clone(),
            questions: task.items.len(),
            report: report.to_string(),
        });
    }
    let mut counts = Counts {
        questions: task.items.len(),
        repeated: report.repeated.len(),
        unknown: report.unknown.len(),
        unusable_lines: report.bad_lines.len(),
        ..Counts::default()
    };
    let mut rows = Vec::with_capacity(task.items.len());
    let mut in_scope = Vec::with_capacity(task.items.len());
    let mut prompts = Some(Fingerprint::default());
    for (item, number) in task.items.iter().zip(&matched.numbers) {
        let given = number.map(|number| &file.answers[number]);
        let mut row = SampleRow::new(task, item, String::new(), "", "");
        let mut answered = false;
        if let Some(given) = given {
            match &given.question {
                Some(question) => row.prompt.clone_from(question),
                None => prompts = None,
            }
            if let Some(prompts) = &mut prompts {
                prompts.field(&item.id).field(&row.prompt);
            }
            row.error.clone_from(&given.error);
            answered = given.error.is_none();
            if answered {
                row.text.clone_from(&given.text);
            }
        }
        let scored = if item.answers.is_empty() {
            counts.without_reference += 1;
            false
        } else if options.only_with_image && item.image_path.is_none() {
            counts.without_image += 1;
            false
        } else {
            true
        };
        in_scope.push(scored);
        if scored {
            counts.scored += 1;
            counts.answered += usize::from(answered);
            counts.errors += usize::from(row.error.is_some());
            counts.missing += usize::from(given.is_none());
        }
        rows.push(ScoredRow {
            sample: row,
            answered,
            image_path: item.image_path.clone(),
            scores: BTreeMap::new(),
        });
    }
    if counts.scored == 0 {
        return Err(ScoreError::NothingToScore {
            task: task.name.clone(),
            split: task.split.clone(),
            questions: counts.questions,
            without_reference: counts.without_reference,
            without_image: counts.without_image,
        });
    }
    let metrics = if options.metrics.is_empty() {
        let own = task.metrics.iter();
        own.filter_map(|name| name.parse().ok()).collect()
    } else {
        options.metrics.clone()
    };
    let scope: Vec<usize> = (0..rows.len()).filter(|&at| in_scope[at]).collect();
    let results = metrics
        .into_iter()
        .map(|metric| score_metric(metric, task, &mut rows, &scope))
        .collect();
    let mut notes = Vec::new();
    if !report.is_clean() {
        notes.push(report.to_string());
    }
    if !task.missing.is_empty() {
        notes.push(task.missing.line());
    }
    notes.extend(task.note.map(str::to_owned));
    let result = RunResult {
        schema: SCHEMA,
        task: task.name.clone(),
        split: task.split.clone(),
        model_id: None,
        settings: None,
        run: None,
        prompt_hash: prompts.map(|hash| hash.hex()),
        counts,
        metrics: results,
        notes,
    };
    Ok((result, rows))
}

/// OCRBench and MultimodalOCR score formulas by rules of their own.
fn metric_of(metric: Metric, item: &Item) -> Metric {
    let set = item
        .extra
        .get("dataset_name")
        .and_then(|name| name.as_str());
    let formula = set.is_some_and(|set| set.eq_ignore_ascii_case("HME100k"))
        || item.id.starts_with("HME100k/")
        || item.category.as_deref() == Some("Handwritten Mathematical Expression Recognition");
    match metric {
        Metric::OcrBench if formula => Metric::OcrBenchFormula,
        Metric::MultimodalOcrVqa if formula => Metric::MultimodalOcrFormula,
        other => other,
    }
}

/// Scores the rows in `scope` and puts their scores into them.
fn score_metric(
    metric: Metric,
    task: &Task,
    rows: &mut [ScoredRow],
    scope: &[usize],
) -> MetricResult {
    let name = metric.name();
    let counted = count(metric, rows, scope);
    for variant in [
        metric,
        Metric::OcrBenchFormula,
        Metric::MultimodalOcrFormula,
    ] {
        let of: Vec<usize> = scope
            .iter()
            .copied()
            .filter(|&at| metric_of(metric, &task.items[at]) == variant)
            .collect();
        if of.is_empty() || (variant == metric && rows[of[0]].scores.contains_key(name)) {
            continue;
        }
        let scores: Vec<f64> = match variant.aggregate() {
            Aggregate::Corpus => {
                let one = |at: &usize| variant.corpus_value(&counted[*at]);
                of.iter().map(one).collect()
            }
            Aggregate::Mean | Aggregate::Sum => {
                let given: Vec<Row<'_>> = of.iter().map(|&at| row_of(&rows[at])).collect();
                variant.evaluate(&given).rows
            }
        };
        for (&at, score) in of.iter().zip(scores) {
            // An empty text can be right by a metric's rules; no answer never is.
            let score = if rows[at].answered { score } else { 0.0 };
            rows[at].scores.insert(name.to_owned(), score);
        }
    }
    let answered: Vec<usize> = scope
        .iter()
        .copied()
        .filter(|&at| rows[at].answered)
        .collect();
    let mut categories: Vec<(&str, Vec<usize>)> = Vec::new();
    for &at in scope {
        let Some(category) = task.items[at].category.as_deref() else {
            continue;
        };
        match categories.iter_mut().find(|(name, _)| *name == category) {
            Some((_, rows)) => rows.push(at),
            None => categories.push((category, vec![at])),
        }
    }
    let estimate = |of: &[usize]| estimate::estimate(metric, rows, &counted, of);
    MetricResult {
        metric: name.to_owned(),
        version: metric.version(),
        aggregate: match metric.aggregate() {
            Aggregate::Mean => "mean",
            Aggregate::Sum => "sum",
            Aggregate::Corpus => "corpus",
        }
        .to_owned(),
        overall: estimate(scope),
        answered_only: (!answered.is_empty()).then(|| estimate(&answered)),
        by_category: categories
            .iter()
            .map(|(category, of)| CategoryResult {
                category: (*category).to_owned(),
                estimate: estimate(of),
            })
            .collect(),
    }
}

/// What a corpus metric is computed from, by row and none outside of `scope`; empty for other metrics.
///
/// Value and error of every part of the rows come from these, so that texts are compared once: of captions that
/// repeat a word over and over that takes long.
fn count(metric: Metric, rows: &[ScoredRow], scope: &[usize]) -> Vec<Option<CorpusStatistics>> {
    if metric.aggregate() != Aggregate::Corpus {
        return Vec::new();
    }
    let of_row = |&at: &usize| metric.corpus_statistics(row_of(&rows[at]));
    let found: Vec<Option<CorpusStatistics>> = scope.par_iter().map(of_row).collect();
    let mut counted = vec![None; rows.len()];
    for (&at, statistics) in scope.iter().zip(found) {
        counted[at] = statistics;
    }
    counted
}

fn row_of(row: &ScoredRow) -> Row<'_> {
    Row {
        answer: &row.sample.text,
        references: &row.sample.gt,
    }
}
