//! Data selection: IFD, VFD, mIFD and FFD of every question-answer pair, and what to keep.
//!
//! It may call `llavar-assistant`, `llavar-client`, `llavar-report`, `llavar-eval`, `llavar-model`,
//! `llavar-data`, `llavar-image` and `llavar-tensor`.
//!
//! # Tour
//!
//! 1. [`pairs()`] reads a conversation as pairs and duos.
//! 2. [`Scorer`] measures the conditional losses of samples: all texts of a picture share its features and
//!    the keys and values of what they begin with.
//!    A [`RemoteModel`] is one on a server, which is asked for the log-probabilities of prompts.
//! 3. [`score_dataset`] does a whole data set, into a [`Journal`] that a killed run goes on from.
//! 4. [`ScoreTable`] is the Parquet file of it; [`merge`] joins those of several ranks.
//! 5. [`pick::pick`] decides what stays, [`pick::Card`] says why the rest does not.
//! 6. [`report::page`] shows scores and picks; [`faults`] plants faults that scores should find.
#![forbid(unsafe_code)]

mod error;
pub mod faults;
mod formula;
mod hash;
mod journal;
mod merge;
mod pairs;
mod pass;
pub mod pick;
mod pictures;
mod remote;
pub mod report;
mod row;
mod run;
mod run_info;
mod scorer;
mod table;
mod texts;

pub use error::SelectError;
pub use formula::{Compat, Loss, Losses, ScoreSet};
pub use journal::Journal;
pub use merge::merge;
pub use pairs::{Duos, Pair, PairKind, pairs};
pub use pass::span_losses;
pub use remote::RemoteModel;
pub use row::{RowKey, SCORES, ScoreOf, ScoreRow};
pub use run::{RunView, ScoreRun, score_dataset};
pub use run_info::RunInfo;
pub use scorer::{Prepared, ScoreOptions, Scorer, SeenPictures};
pub use table::{Part, ScoreTable};
