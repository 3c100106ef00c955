//! Horizontal bars.

use maud::{Markup, Render, html};

use super::frame::{WIDTH, round};
use super::{colour, figure, legend};
use crate::number::significant;
use crate::text::{Text, shown};

/// A bar.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct BarValue {
    /// Its length, at least 0.
    pub value: f64,
    /// Standard error, shown as a whisker to both sides.
    pub error: Option<f64>,
    /// What stands beside it; the value where empty.
    pub shown: String,
}

/// Bars of one colour, one a label.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct BarSeries {
    /// Its name.
    pub name: String,
    /// One entry a label of the chart; none where there is no value.
    pub values: Vec<Option<BarValue>>,
}

/// Bars in groups, a group a label.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct BarChart {
    /// What is shown, with the unit.
    pub title: String,
    /// Names of the groups.
    pub labels: Vec<String>,
    /// The series.
    pub series: Vec<BarSeries>,
    /// The value at the right end; the largest where none is given.
    pub full: Option<f64>,
}

const BAR: f64 = 13.0;
const GAP: f64 = 9.0;
/// Space for labels on the left and for values on the right, chart units.
const LABEL: f64 = 210.0;
const VALUE: f64 = 150.0;
/// Longest label, characters.
const LETTERS: usize = 32;

impl Render for BarChart {
    fn render(&self) -> Markup {
        let all = || {
            self.series
                .iter()
                .flat_map(|series| series.values.iter().flatten())
        };
        let finite = |value: f64| value.is_finite().then_some(value.max(0.0));
        let ends = all().filter_map(|bar| finite(bar.value + bar.error.unwrap_or(0.0)));
        let full = self.full.unwrap_or_else(|| ends.fold(0.0, f64::max));
        let full = if full > 0.0 && full.is_finite() {
            full
        } else {
            1.0
        };
        let length = |value: f64| {
            round(finite(value).unwrap_or(0.0).min(full) / full * (WIDTH - LABEL - VALUE))
        };
        let group = self.series.len().max(1) as f64 * BAR + GAP;
        let height = group * self.labels.len() as f64 + GAP;
        let body = html! {
            @if self.series.len() > 1 {
                (legend(self.series.iter().enumerate().map(|(at, s)| (at, s.name.as_str(), String::new()))))
            }
            svg viewBox=(format!("0 0 {WIDTH} {height}")) role="img" aria-label=(shown(&self.title)) {
                @for (row, label) in self.labels.iter().enumerate() {
                    @let top = GAP + group * row as f64;
                    text.label x=(LABEL - 8.0) y=(round(top + (group - GAP) / 2.0)) dy="0.35em" text-anchor="end" {
                        (Text(&short(label)))
                        @if label.chars().count() > LETTERS { title { (Text(label)) } }
                    }
                    @for (at, series) in self.series.iter().enumerate() {
                        @if let Some(Some(bar)) = series.values.get(row) {
                            @let y = top + BAR * at as f64;
                            g class=(format!("bar {}", colour(at))) {
                                rect.track x=(LABEL) y=(y) width=(WIDTH - LABEL - VALUE) height=(BAR - 2.0) rx="2" {}
                                rect x=(LABEL) y=(y) width=(length(bar.value)) height=(BAR - 2.0) rx="2" {
                                    title { (Text(&series.name)) " " (Text(label)) ": " (Text(&said(bar))) }
                                }
                                @if let Some(error) = bar.error.filter(|e| *e > 0.0) {
                                    line.whisker y1=(round(y + BAR / 2.0 - 1.0)) y2=(round(y + BAR / 2.0 - 1.0))
                                        x1=(LABEL + length(bar.value - error)) x2=(LABEL + length(bar.value + error)) {}
                                }
                                text x=(WIDTH - VALUE + 8.0) y=(round(y + BAR / 2.0 - 1.0)) dy="0.35em" { (Text(&said(bar))) }
                            }
                        }
                    }
                }
            }
        };
        figure(&self.title, &[], &body)
    }
}

fn said(bar: &BarValue) -> String {
    if bar.shown.is_empty() {
        significant(bar.value, 3)
    } else {
        bar.shown.clone()
    }
}

fn short(label: &str) -> String {
    match label.char_indices().nth(LETTERS) {
        Some((at, _)) => format!("{}\u{2026}", &label[..at]),
        None => label.to_owned(),
    }
}
