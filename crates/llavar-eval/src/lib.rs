//! Evaluation: benchmarks in their official layouts, answers files, metrics over answers, and pages a
//! person can read.
//!
//! It calls `llavar-image` (headers, pictures in pages) and `llavar-data` (records, confined image
//! paths) and knows nothing of models: it judges answers, wherever they come from.
#![forbid(unsafe_code)]

pub mod answer;
pub mod metrics;
pub mod page;
pub mod samples;
pub mod tasks;

pub use answer::AnswerRow;
