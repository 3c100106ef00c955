//! Metrics: pure functions of an answer and its references.
//!
//! One file a metric: formula, source, quirks and a `VERSION` that is raised when a score of any row can
//! change, so that a result can say what it was scored with. [`Metric`] names them all for tasks and the
//! program; the functions are there for those who need one reading alone.
//!
//! ```
//! use llavar_metrics::{Metric, Row};
//!
//! let references = ["itc limited".to_owned()];
//! let row = Row { answer: "ITC Limitad", references: &references };
//! let metric: Metric = "anls".parse()?;
//! assert_eq!(metric.score(row), Some(1.0 - 1.0 / 11.0));
//! assert_eq!(metric.evaluate(&[row]).value, 1.0 - 1.0 / 11.0);
//! # Ok::<(), llavar_metrics::UnknownMetric>(())
//! ```

pub mod anls;
pub mod bleu;
pub mod chartqa;
pub mod cider_d;
mod corpus;
pub mod meteor;
pub mod multimodal_ocr;
mod ngrams;
pub mod ocrbench;
pub mod ptb;
mod python_text;
mod registry;
pub mod rouge_l;
pub mod textvqa_m4c;
pub mod token_f1;
mod vqa_normalise;
pub mod whole_words;

pub use corpus::CorpusStatistics;
pub use registry::{Aggregate, Evaluation, Metric, UnknownMetric};
pub use whole_words::contains_words;

/// What was answered and what is right.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    /// The answer of the model.
    pub answer: &'a str,
    /// The references, any of which is right (or, for captions, all of which are compared).
    pub references: &'a [String],
}
