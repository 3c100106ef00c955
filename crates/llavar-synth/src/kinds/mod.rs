//! The kinds of documents: each samples its content first (so that a split can reject it cheaply) and
//! then draws it.

mod book_cover;
mod chart;
mod chart_draw;
mod entries;
mod form;
mod note;
mod poster;
mod receipt;
mod screenshot;
mod sign;
mod slip;
mod slip_draw;
mod table;
mod text;
mod word;

use std::fmt::Debug;

use crate::config::DocKind;
use crate::page::{Page, Space, Type};
use crate::rng::Rng;
use crate::words::Speaker;

/// Sampled content of one document. Its `Debug` text is the content key of the split, so it holds all
/// that is printed and differs, and nothing of the looks.
pub(crate) trait Content: Debug {
    /// Draws the page with its facts and caption.
    fn draw(&self, page: &mut Page<'_>);
}

/// Samples content of a kind.
pub(crate) fn sample(
    kind: DocKind,
    rng: &mut Rng,
    speaker: &Speaker<'_>,
    space: &Space,
) -> Box<dyn Content> {
    match kind {
        DocKind::Receipt => Box::new(receipt::Receipt::sample(rng, speaker, space)),
        DocKind::Form => Box::new(form::Form::sample(rng, speaker, space)),
        DocKind::Poster => Box::new(poster::Poster::sample(rng, speaker, space)),
        DocKind::BookCover => Box::new(book_cover::BookCover::sample(rng, speaker, space)),
        DocKind::BarChart | DocKind::LineChart | DocKind::PieChart => {
            Box::new(chart::Chart::sample(kind, rng, speaker, space))
        }
        DocKind::Table => Box::new(table::Table::sample(rng, speaker, space)),
        DocKind::Screenshot => Box::new(screenshot::Screenshot::sample(rng, speaker, space)),
        DocKind::Sign => Box::new(sign::Sign::sample(rng, speaker, space)),
        DocKind::Note => Box::new(note::Note::sample(rng, speaker, space)),
        DocKind::Text => Box::new(text::Text::sample(rng, speaker, space)),
        DocKind::Slip => Box::new(slip::Slip::sample(rng, speaker, space)),
        DocKind::Entries => Box::new(entries::Entries::sample(rng, speaker, space)),
        DocKind::Word => Box::new(word::Word::sample(rng, speaker)),
    }
}

/// Largest em, in px, at which every word of a list fits into `w` px: fixed layouts print all words of
/// a field at one size.
fn common_px(typ: &Type<'_>, list: &[&str], w: f32) -> f32 {
    w / list
        .iter()
        .map(|word| typ.em_width(word))
        .fold(1.0, f32::max)
}

/// "A" or "An" before a word.
fn article(word: &str) -> &'static str {
    if word.starts_with(['a', 'e', 'i', 'o', 'u', 'A', 'E', 'I', 'O', 'U']) {
        "An"
    } else {
        "A"
    }
}
