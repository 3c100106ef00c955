//! Asking a model the questions of a task, so that it can be stopped at any moment.
//!
//! | Start here | For |
//! |---|---|
//! | [`Answerer`] | something that answers a batch of prompts; [`LocalModel`] is one, [`RemoteModel`] another |
//! | [`Column`], [`Column::ask_all`] | the questions of a task put to it, answers appended as they come |
//! | [`Column::finish`] | `results.json` and `scored.jsonl` of what was answered |
//! | [`columns`] | the columns that lie in a run folder |
//!
//! A run folder has one folder for each column: a task asked in one way. A column's folder holds the
//! files that [`crate::results`] describes, and `errors.jsonl` with the questions that failed last time.

mod answerer;
mod column;
mod error;
mod finish;
mod local;
mod model_hash;
mod prompts;
mod record;
mod remote;

pub use answerer::{AnswerError, Answerer, Ask, Replies, Reply};
pub use column::{Asked, Column, Prefix, RunView, column_name};
pub use error::RunError;
pub use local::{LocalModel, LocalOptions};
pub use model_hash::{model_hash, model_id};
pub use prompts::PromptFormat;
pub use record::{DataSource, RunRecord, columns, read_record};
pub use remote::{NotForServers, RemoteAsk, RemoteModel};
