//! Self-contained HTML pages: tables, charts and cards of answered questions in one file that needs
//! nothing else, opens without a network, and prints.
//!
//! It calls `llavar-image` only. What a page says is its callers' business: evaluation, selection and
//! training put their own numbers into the same parts.
//!
//! | Start here | For |
//! |---|---|
//! | [`Page`] | heading, sections, paragraphs, and the file as text |
//! | [`Table`] | numbers that can be sorted by a click |
//! | [`LineChart`], [`BarChart`], [`Histogram`], [`Scatter`] | inline SVG, in light and dark |
//! | [`Cards`] | pictures with question, gold and answers, to be searched, filtered and sorted |
//! | [`Pictures`] | the pictures of a page, each embedded once, within a limit |
//!
//! **Every text is untrusted**: answers come from models and questions from data sets. Texts are escaped;
//! control characters and characters that turn the reading direction are shown by their numbers; very
//! long texts are cut with a word about it. Should a text break out nevertheless, the page's content
//! policy allows no script but its own and no address at all.
//!
//! # Example
//!
//! ```
//! use llavar_report::{Axis, LineChart, Page, Series, Table};
//!
//! let mut page = Page::new("a run");
//! page.paragraph("Loss of 3 steps.");
//! page.section("Loss");
//! page.add(&LineChart {
//!     title: "training loss".into(),
//!     x: Axis::linear("step"),
//!     y: Axis::log("nats a token"),
//!     series: vec![Series::of_values("loss", &[3.0, 2.0, 1.5])],
//!     ..LineChart::default()
//! });
//! let mut table = Table::new(["stage", "loss [nats a token]"]);
//! table.row(["sft".into(), 1.5.into()]);
//! page.add(&table);
//! assert!(page.render().starts_with("<!DOCTYPE html>"));
//! ```

#![forbid(unsafe_code)]

mod cards;
mod chart;
mod number;
mod page;
mod picture;
mod table;
mod text;

pub use cards::{Answer, Card, Cards};
pub use chart::{
    Axis, BarChart, BarSeries, BarValue, Histogram, LineChart, Marker, Point, Scale, Scatter,
    Series,
};
pub use number::significant;
pub use page::Page;
pub use picture::{Pictures, Prepared, Thumbnail};
pub use table::{Cell, Table};
