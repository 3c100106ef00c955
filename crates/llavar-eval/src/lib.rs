//! Evaluation: metrics over answers, and pages a person can read.
//!
//! It calls `llavar-image` (to embed pictures in pages) and no other crate of the workspace: it judges
//! answers, wherever they come from.
#![forbid(unsafe_code)]

pub mod answer;
pub mod metrics;
pub mod page;

pub use answer::AnswerRow;
