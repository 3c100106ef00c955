//! Evaluation: benchmarks in their official layouts, answers files, and scores of answers (`llavar-metrics`).
//!
//! It calls `llavar-image` (headers), `llavar-data` (records, confined image paths)
//! and, in [`run`] alone, `llavar-assistant`. Tasks and scores know nothing of models: they judge
//! answers, wherever these come from.
//!
//! | Start here | For |
//! |---|---|
//! | [`tasks::Task::open`] | the questions of a benchmark |
//! | [`run::Column`] | putting them to a model |
//! | [`samples`] | answers on disk, ours and those of other tools |
//! | [`score::score`] | scores with standard errors, as a [`results::RunResult`] |
//! | [`compare::compare`] | whether two runs differ |
#![forbid(unsafe_code)]

pub mod answer;
pub mod compare;
pub mod fingerprint;
pub mod judge;
pub mod report;
pub mod results;
pub mod run;
pub mod samples;
pub mod score;
pub mod tasks;

pub use answer::AnswerRow;
