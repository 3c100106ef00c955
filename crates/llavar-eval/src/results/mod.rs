//! What an evaluation leaves on disk.
//!
//! A run folder holds `run.json` ([`RunSettings`]), `samples.jsonl` (answers, append-only:
//! [`SampleStore`](crate::samples::SampleStore)), `results.json` ([`RunResult`]) and `scored.jsonl` (one
//! [`ScoredRow`] a question). The last two follow from the first two and the benchmark, and can be made
//! again at any time.

mod display;
mod files;
mod settings;

pub use display::Unit;
pub use files::{
    ResultsError, read_json, read_result, read_rows, read_rows_of, write_json, write_rows,
};
pub use settings::{DecodeSettings, ModelInfo, OcrMode, PromptSettings, RunSettings};

use crate::samples::SampleRow;
use crate::tasks::title;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Name of the file of settings in a run folder.
pub const SETTINGS_FILE: &str = "run.json";
/// Name of the file of answers in a run folder.
pub const SAMPLES_FILE: &str = "samples.jsonl";
/// Name of the file of questions that failed in a run folder.
pub const ERRORS_FILE: &str = "errors.jsonl";
/// Name of the file of results in a run folder.
pub const RESULTS_FILE: &str = "results.json";
/// Name of the file of scored rows in a run folder.
pub const SCORED_FILE: &str = "scored.jsonl";

/// Version of the form of [`RunResult`].
pub const SCHEMA: u32 = 1;

/// The result of one task for one set of answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunResult {
    /// [`SCHEMA`] of the program that wrote it.
    pub schema: u32,
    /// Name of the task.
    pub task: String,
    /// Split that was asked.
    pub split: String,
    /// Name of the model, if it is known.
    pub model_id: Option<String>,
    /// What decided the answers; none for answers of other tools.
    pub settings: Option<RunSettings>,
    /// Fingerprint of [`RunResult::settings`], as in [`SampleRow::run`].
    pub run: Option<String>,
    /// Fingerprint of all prompts with their ids in the task's order, without OCR text (whose source is in
    /// [`PromptSettings::ocr_lines`]). None where the answers do not repeat their questions.
    pub prompt_hash: Option<String>,
    /// How many questions there are and what became of them.
    pub counts: Counts,
    /// One entry a metric; the first is the one that the literature reports.
    pub metrics: Vec<MetricResult>,
    /// What a reader must know: faults of the answers file, what the data folder lacks.
    pub notes: Vec<String>,
}

impl RunResult {
    /// Task and split in words.
    pub fn title(&self) -> String {
        title(&self.task, &self.split)
    }
}

/// What became of the questions. Nothing is left out of a score without a count here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Questions of the task.
    pub questions: usize,
    /// Questions that are scored: those in scope with a reference.
    pub scored: usize,
    /// Questions left out because their picture is absent (only where asked for, or never asked).
    pub without_image: usize,
    /// Questions left out because they have no reference.
    pub without_reference: usize,
    /// Scored questions with an answer.
    pub answered: usize,
    /// Scored questions without an answer; they score 0.
    pub missing: usize,
    /// Scored questions where the model failed (error in the row); they score 0.
    pub errors: usize,
    /// Second answers to a question; the first counts.
    pub repeated: usize,
    /// Answers to questions that the task does not have.
    pub unknown: usize,
    /// Lines of the answers file that hold no answer.
    pub unusable_lines: usize,
}

/// A value with its uncertainty.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The metric's value: a share from 0 to 1, a count for OCRBench, 0 to 10 for CIDEr-D.
    pub value: f64,
    /// Standard error, in the units of the value, over pictures as clusters; none for a single picture.
    pub standard_error: Option<f64>,
    /// Questions.
    pub n: usize,
    /// Distinct pictures.
    pub images: usize,
}

/// One metric over all questions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MetricResult {
    /// Name, as in [`Metric`](llavar_metrics::Metric).
    pub metric: String,
    /// Version of its definition.
    pub version: u32,
    /// How rows become the value: `mean`, `sum` or `corpus`.
    pub aggregate: String,
    /// Over all scored questions; those without an answer count 0.
    #[serde(flatten)]
    pub overall: Estimate,
    /// The same over the questions with an answer; none where there is none.
    pub answered_only: Option<Estimate>,
    /// The same for each kind of question, in order of first appearance.
    pub by_category: Vec<CategoryResult>,
}

/// A metric over the questions of one kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CategoryResult {
    /// The kind.
    pub category: String,
    /// Its value.
    #[serde(flatten)]
    pub estimate: Estimate,
}

/// One question with its answer and its scores.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScoredRow {
    /// Question, answer and references. `text` is empty where there is no answer.
    #[serde(flatten)]
    pub sample: SampleRow,
    /// Whether there is an answer.
    pub answered: bool,
    /// The picture's file, where it was looked for and found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_path: Option<PathBuf>,
    /// Score by metric; empty for a question that is not scored.
    pub scores: BTreeMap<String, f64>,
}
