//! Text off pictures: engines behind one trait, the page as text, the OCR prefix of a question.
//!
//! It calls `llavar-image` for pixels, `llavar-onnx` for networks and `llavar-data` for the place of the
//! user's cache.
//!
//! | Start here | For |
//! |---|---|
//! | [`EngineChoice`] | an engine by the name that a user gave |
//! | [`Reader`] | an engine that reads every picture once: results cached by content |
//! | [`prefix`] | what goes before a question (spec 9.2) |
//! | [`page_layout`], [`paragraphs`] | its two forms |
//! | [`put_before`] | the prefix in a training sample |
//! | [`join_words`], [`Misreading`] | what an engine would find where the words are known |
//!
//! # Example
//!
//! ```
//! use llavar_ocr::{EngineChoice, Line, Reader, prefix};
//!
//! let reader = Reader::new("none".parse::<EngineChoice>()?.open()?, None);
//! # drop(reader);
//! let total = Line::in_box([10.0, 10.0, 90.0, 24.0], "Total 9.90", 0.98);
//! assert_eq!(prefix(&[total]), "OCR: Total 9.90\n");
//! # Ok::<(), llavar_ocr::OcrError>(())
//! ```

#![forbid(unsafe_code)]

pub mod bench;
mod cache;
mod engine;
mod error;
mod layout;
mod line;
mod misread;
mod order;
mod page;
mod paragraph;
pub mod ppocr;
mod prefix;
mod sidecar;
mod tesseract;
mod wheel;
mod words;

use std::path::PathBuf;

pub use cache::Reader;
pub use engine::{Engine, EngineChoice, NoEngine};
pub use error::OcrError;
pub use layout::page_layout;
pub use line::{Line, Quad};
pub use misread::Misreading;
pub use page::{ContentHash, Page};
pub use paragraph::{Paragraph, paragraphs};
pub use ppocr::PpOcr;
pub use prefix::{has_prefix, prefix, put_before};
pub use sidecar::{Sidecar, parse_lines};
pub use tesseract::Tesseract;
pub use words::join_words;

/// Where models and results of OCR are kept; `None` where the system has no place for the user.
pub fn cache_folder() -> Option<PathBuf> {
    Some(llavar_data::dataset::Cache::of_user().folder?.join("ocr"))
}

/// Bytes in hexadecimal.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
