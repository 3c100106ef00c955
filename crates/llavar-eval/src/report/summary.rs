//! What all forms of the report say.

use super::input::ReportRun;
use super::published::{PUBLISHED, PublishedRow, PublishedTask, TASKS};
use crate::compare::{Comparison, compare};
use crate::judge::JudgeResult;
use crate::results::{MetricResult, OcrMode, RunResult, Unit};
use serde::Serialize;

/// Everything but the questions themselves.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// The published rows.
    pub published: &'static [PublishedRow],
    /// Their columns.
    pub published_tasks: &'static [PublishedTask],
    /// Every scored column of every run.
    pub columns: Vec<ColumnSummary>,
    /// The first way of answering a task beside every other.
    pub pairings: Vec<Pairing>,
    /// What could not be used.
    pub faults: Vec<String>,
}

/// One task answered in one way.
#[derive(Debug, Clone, Serialize)]
pub struct ColumnSummary {
    /// Who answered: the run, and the OCR mode where it is known.
    pub by: String,
    /// Scores and what decided them.
    pub result: RunResult,
    /// Scored rows that are there.
    pub rows: usize,
    /// What language models said of the answers: never a part of the scores.
    pub judges: Vec<JudgeResult>,
}

/// Two ways of answering one task, question by question.
#[derive(Debug, Clone, Serialize)]
pub struct Pairing {
    /// Task and split.
    pub task: String,
    /// Answerer A.
    pub a: String,
    /// Answerer B.
    pub b: String,
    /// B minus A.
    pub comparison: Comparison,
}

impl ColumnSummary {
    /// Task and split.
    pub fn title(&self) -> String {
        self.result.title()
    }

    /// OCR mode in words.
    pub fn ocr(&self) -> &'static str {
        match self.result.settings.as_ref().map(|s| s.prompt.ocr) {
            Some(mode) => mode.as_str(),
            None => "not recorded",
        }
    }

    /// The metric of a column of the published table, or the first one.
    pub(super) fn metric(&self, name: Option<&str>) -> Option<&MetricResult> {
        let metrics = &self.result.metrics;
        let named = name.and_then(|name| metrics.iter().find(|metric| metric.metric == name));
        named.or(metrics.first())
    }
}

impl Summary {
    /// The summary of runs.
    pub fn new(runs: &[ReportRun]) -> Self {
        let names = distinct_names(runs);
        let mut columns = Vec::new();
        let mut faults = Vec::new();
        let mut rows = Vec::new();
        for (run, name) in runs.iter().zip(&names) {
            faults.extend(run.faults.iter().map(|fault| format!("{name}/{fault}")));
            for column in &run.columns {
                let by = answerer(name, run, &column.result);
                columns.push(ColumnSummary {
                    by,
                    result: column.result.clone(),
                    rows: column.rows.len(),
                    judges: column
                        .judged
                        .iter()
                        .map(|(judge, _)| judge.clone())
                        .collect(),
                });
                rows.push(&column.rows);
            }
        }
        let mut pairings = Vec::new();
        let mut seen: Vec<(String, usize)> = Vec::new();
        for (at, column) in columns.iter().enumerate() {
            let task = column.title();
            let Some((_, first)) = seen.iter().find(|(other, _)| *other == task) else {
                seen.push((task, at));
                continue;
            };
            match compare(rows[*first], rows[at]) {
                Ok(comparison) => pairings.push(Pairing {
                    task,
                    a: columns[*first].by.clone(),
                    b: column.by.clone(),
                    comparison,
                }),
                Err(error) => {
                    let (a, b) = (&columns[*first].by, &column.by);
                    faults.push(format!("{task}: {a} and {b} cannot be compared: {error}"));
                }
            }
        }
        Self {
            published: &PUBLISHED,
            published_tasks: &TASKS,
            columns,
            pairings,
            faults,
        }
    }

    /// Who answered, in order of first appearance.
    pub fn answerers(&self) -> Vec<&str> {
        distinct(self.columns.iter().map(|column| column.by.as_str()))
    }

    /// Tasks with their splits, in order of first appearance.
    pub fn titles(&self) -> Vec<String> {
        let titles: Vec<String> = self.columns.iter().map(ColumnSummary::title).collect();
        distinct(titles.iter().map(String::as_str))
            .into_iter()
            .map(str::to_owned)
            .collect()
    }

    /// The columns of a task.
    pub(super) fn of(&self, title: &str) -> impl Iterator<Item = &ColumnSummary> {
        self.columns
            .iter()
            .filter(move |column| column.title() == title)
    }
}

/// What the differences of paired comparisons are counted in.
pub(super) const PAIRED: &str =
    "B - A is in points where the metric is in %, else in the metric's own unit.";

/// B minus A, or an end of its interval, with its sign.
pub(super) fn difference(unit: Unit, value: f64) -> String {
    format!("{:+.*}", unit.decimals, unit.scale * value)
}

pub(super) fn distinct<'a>(values: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut seen = std::collections::HashSet::new();
    values.filter(|value| seen.insert(*value)).collect()
}

/// Names of the runs; those of the same name are numbered.
pub(super) fn distinct_names(runs: &[ReportRun]) -> Vec<String> {
    let mut names: Vec<String> = Vec::with_capacity(runs.len());
    for run in runs {
        let mut name = run.name.clone();
        let mut number = 1;
        while names.contains(&name) {
            number += 1;
            name = format!("{} ({number})", run.name);
        }
        names.push(name);
    }
    names
}

/// A run's name, with the OCR mode where it decides, and whether it looked closer: published rows did not.
pub(super) fn answerer(name: &str, run: &ReportRun, result: &RunResult) -> String {
    let closer = result.settings.as_ref().is_some_and(|s| s.decode.closer);
    let name = match closer {
        true => format!("{name}, closer look"),
        false => name.to_owned(),
    };
    let mode = |result: &RunResult| result.settings.as_ref().map(|s| s.prompt.ocr);
    match mode(result) {
        Some(OcrMode::On) => format!("{name}, OCR on"),
        // Only where the run has both is it worth a word.
        Some(OcrMode::Off)
            if run
                .columns
                .iter()
                .any(|c| mode(&c.result) == Some(OcrMode::On)) =>
        {
            format!("{name}, OCR off")
        }
        _ => name,
    }
}
