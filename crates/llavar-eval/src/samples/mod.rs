//! Answers on disk: our own `samples.jsonl`, and the answers files of any tool.
//!
//! | Start here | For |
//! |---|---|
//! | [`SampleStore`] | appending answers so that a killed run goes on where it was |
//! | [`Shard`], [`merge`] | splitting the questions over processes and joining their files |
//! | [`read_answers`], [`match_answers`] | reading what another tool wrote and finding its questions |

mod answers;
mod error;
mod line_numbers;
mod lines;
mod matching;
mod merge;
mod row;
mod shard;
mod store;

pub use answers::{Answer, AnswersFile, read_answers};
pub use error::{BadLine, LineFault, SampleError};
pub use lines::{Duplicate, Recovery, Torn};
pub use matching::{MatchReport, Matched, RepeatedAnswer, match_answers};
pub use merge::{MergeLock, Merged, merge, write_merged};
pub use row::{SampleKey, SampleRow};
pub use shard::Shard;
pub use store::SampleStore;
