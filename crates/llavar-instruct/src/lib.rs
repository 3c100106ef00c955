//! Hybrid-Instruct: human captions, OCR and a language model become detail-enriched captions and duos of
//! questions.
//!
//! It calls `llavar-client`, `llavar-ocr`, `llavar-data` and `llavar-image`.
//!
//! # Tour
//!
//! 1. [`Pictures`] lists a folder; [`Captions`] reads what people wrote about it.
//! 2. [`Prompts`] are files; [`parse_duos`] reads whatever a model answers.
//! 3. [`checks::Rules`] decide what is kept and say why the rest is not.
//! 4. [`Journal`] holds every answer that was paid for; [`Ledger`] adds them up; [`Budget`] stops in time.
//! 5. [`generate`] does a folder with many requests at once: from the journal where an answer is there, from
//!    the server where not. What is kept is a function of pictures, settings and journal, so going on after
//!    a kill, repeating without a network, and the first run are the same code.
//! 6. [`template`] makes pairs from OCR alone; [`review`] asks people; [`output`] writes the data set and
//!    its card.
#![forbid(unsafe_code)]

mod budget;
mod call;
mod captions;
pub mod checks;
mod duo;
mod error;
mod estimate;
mod generate;
mod journal;
mod ledger;
pub mod output;
mod parse;
mod pictures;
mod prompts;
pub mod review;

mod run;
mod run_file;
pub mod template;

pub use budget::{Budget, Prices};
pub use call::{CallError, Caller, Sampling};
pub use captions::{Captions, Matched};
pub use duo::{Duo, Rejection};
pub use error::InstructError;
pub use estimate::Estimate;
pub use generate::{PictureResult, Settings, State};
pub use journal::{Answer, Entry, Journal, Verdict};
pub use ledger::{Ledger, LedgerRow};
pub use parse::{parse_caption, parse_duos};
pub use pictures::{Picture, Pictures};
pub use prompts::{Prompt, Prompts};
pub use run::{Generated, Stop, View, generate};
pub use run_file::{RunFile, read_pictures, write_pictures};
