//! A language model as judge: for captions and open questions, where no metric over texts says what a
//! reader would.
//!
//! A verdict is never a score of a task. It stands in files of its own with the judge's name, the version
//! and fingerprint of its prompt, and how many replies could not be read; reports show it under that
//! label.
//!
//! | Start here | For |
//! |---|---|
//! | [`Judge::run`] | asking everything that is not judged yet, and the result |
//! | [`JudgeKind`] | points for one run, or one run against another |
//! | [`read_judged`] | the verdicts that lie beside a column |
//!
//! **Order.** A judge tends to prefer the answer that it reads first. Every pair is judged in both orders; one
//! that is judged differently then counts as a tie, and how many there are is part of the result.

mod prompt;
mod result;
mod run;

pub use prompt::{JudgeKind, JudgePrompt, MissingPlace};
pub use result::{
    JudgeCounts, JudgeResult, JudgedRow, PairResult, Verdict, read_judged, shown_verdict,
};
pub use run::{Judge, JudgeError, JudgeRun, JudgeSettings, JudgeView, JudgedRun};
