//! Tables.

use maud::{Markup, Render, html};

use crate::number::significant;
use crate::text::Text;

/// One cell.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Cell {
    text: String,
    /// Sorts the column; a number is set to the right.
    number: Option<f64>,
    note: Option<String>,
    best: bool,
    quiet: bool,
}

impl Cell {
    /// A number as it is to be shown; `value` is what the column sorts by.
    pub fn number(value: f64, shown: impl Into<String>) -> Self {
        Self {
            text: shown.into(),
            number: Some(value),
            ..Self::default()
        }
    }

    /// A small line under the value: a standard error, a count.
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.note = Some(note.into());
        self
    }

    /// [`Cell::note`] where there is something to say.
    pub fn maybe_note(self, note: impl Into<String>) -> Self {
        let note = note.into();
        if note.is_empty() {
            self
        } else {
            self.note(note)
        }
    }

    /// Marks the best of its column.
    pub fn best(mut self, best: bool) -> Self {
        self.best = best;
        self
    }

    /// A value that was not measured here, in a quieter colour.
    pub fn quiet(mut self) -> Self {
        self.quiet = true;
        self
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self {
            text,
            ..Self::default()
        }
    }
}

impl From<f64> for Cell {
    fn from(value: f64) -> Self {
        Self::number(value, significant(value, 3))
    }
}

impl From<usize> for Cell {
    fn from(value: usize) -> Self {
        Self::number(value as f64, significant(value as f64, 1))
    }
}

/// A table; a click on a heading sorts by its column.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Table {
    columns: Vec<String>,
    rows: Vec<Vec<Cell>>,
    caption: Option<String>,
}

impl Table {
    /// A table without rows. Column names carry the unit.
    pub fn new<T: Into<String>>(columns: impl IntoIterator<Item = T>) -> Self {
        Self {
            columns: columns.into_iter().map(Into::into).collect(),
            ..Self::default()
        }
    }

    /// Adds a row; cells that lack are left empty.
    pub fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// What stands under the table.
    pub fn caption(&mut self, text: impl Into<String>) {
        self.caption = Some(text.into());
    }
}

impl Render for Table {
    fn render(&self) -> Markup {
        let width = self.columns.len();
        let numeric: Vec<bool> = (0..width)
            .map(|at| {
                self.rows
                    .iter()
                    .any(|row| row.get(at).is_some_and(|c| c.number.is_some()))
            })
            .collect();
        let empty = Cell::default();
        html! {
            div.scroll {
                table.data {
                    @if let Some(caption) = &self.caption { caption { (Text(caption)) } }
                    thead { tr { @for (name, numeric) in self.columns.iter().zip(&numeric) {
                        th scope="col" .n[*numeric] { (Text(name)) }
                    } } }
                    tbody { @for row in &self.rows {
                        tr { @for (at, numeric) in numeric.iter().enumerate() {
                            (cell(row.get(at).unwrap_or(&empty), *numeric))
                        } }
                    } }
                }
            }
        }
    }
}

/// Texts up to this are not broken, bytes.
const SHORT: usize = 24;

fn cell(cell: &Cell, numeric: bool) -> Markup {
    html! {
        td .n[numeric] .short[cell.text.len() <= SHORT] .best[cell.best] .quiet[cell.quiet] data-v=[cell.number] {
            (Text(&cell.text))
            @if let Some(note) = &cell.note { small { (Text(note)) } }
        }
    }
}
