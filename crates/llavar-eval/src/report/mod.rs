//! One or several runs on a page: scores beside the published ones, kinds of questions, paired
//! comparisons, and every question with its picture and answers.
//!
//! | Start here | For |
//! |---|---|
//! | [`ReportRun::open`] | a run folder, whatever state it is in |
//! | [`Summary::new`] | what all forms of the report say |
//! | [`html`], [`markdown`] | the forms; JSON is the [`Summary`] itself |
//! | [`PUBLISHED`] | the published rows |

mod browser;
mod html;
mod input;
mod markdown;
mod published;
mod summary;

pub use browser::{BrowserOptions, Shown};
pub use html::html;
pub use input::{ReportColumn, ReportError, ReportRun};
pub use markdown::markdown;
pub use published::{PUBLISHED, PublishedRow, PublishedTask, TASKS};
pub use summary::{ColumnSummary, Pairing, Summary};
