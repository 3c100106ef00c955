//! Charts as inline SVG. Colours are classes, so that a chart follows the page into the dark.

mod axis;
mod bars;
mod frame;
mod histogram;
mod line;
mod scatter;
mod standalone;

pub use axis::{Axis, Scale};
pub use bars::{BarChart, BarSeries, BarValue};
pub use frame::Marker;
pub use histogram::Histogram;
pub use line::{LineChart, Series};
pub use scatter::{Point, Scatter};

use crate::text::Text;
use maud::{Markup, html};

/// Colours before they repeat.
const COLOURS: usize = 8;

/// The class of the colour of series `at`.
fn colour(at: usize) -> String {
    format!("c{}", at % COLOURS)
}

/// Names with their colours, and what is to be said beside each.
fn legend<'a>(entries: impl Iterator<Item = (usize, &'a str, String)>) -> Markup {
    html! {
        ul.legend { @for (at, name, note) in entries {
            li {
                svg viewBox="0 0 12 12" width="12" height="12" aria-hidden="true" {
                    rect class=(colour(at)) width="12" height="12" rx="2" {}
                }
                (Text(name))
                @if !note.is_empty() { " " small { (Text(&note)) } }
            }
        } }
    }
}

/// A chart with its title above and remarks below.
fn figure(title: &str, remarks: &[String], body: &Markup) -> Markup {
    html! {
        figure.chart {
            @if !title.is_empty() { figcaption { (Text(title)) } }
            (body)
            @for remark in remarks { p.remark { (Text(remark)) } }
        }
    }
}
