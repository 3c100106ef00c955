//! Metrics: pure functions of an answer and its references.

mod containment;

pub use containment::contains_words;
