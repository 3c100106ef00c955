//! Importers of published data sets into LLaVA JSON.
//!
//! Each reads the official layout of a set into pages (a picture, its facts, its lines of text), and a [`Form`]
//! says which turns are made of a page.

pub mod chart_qa;
pub mod funsd;
mod page;
pub mod sroie;
mod turns;

pub use page::TextLine;
pub use turns::Form;

use crate::record::Sample;

/// What an import made and what it missed.
#[derive(Debug, Clone, Default)]
pub struct Imported {
    /// The samples; image paths are relative to the given root.
    pub samples: Vec<Sample>,
    /// Pictures with labels.
    pub pictures: usize,
    /// Labelled pictures whose file is missing; left out.
    pub missing_images: Vec<String>,
    /// Label files or rows that cannot be read, with the reason; left out.
    pub unreadable: Vec<(String, String)>,
    /// Facts not found among the lines, as `picture: question`; they have no duo.
    pub unlocated: Vec<String>,
}
