//! Axes, grid and marked values around a plot.

use maud::{Markup, html};

use super::axis::{Axis, Range, Scale, Tick};
use crate::text::Text;

/// Size of a chart in its own units; the page scales it.
pub(super) const WIDTH: f64 = 720.0;
pub(super) const HEIGHT: f64 = 280.0;
/// Width and height.
pub(super) const SIZE: (f64, f64) = (WIDTH, HEIGHT);
const LEFT: f64 = 64.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 44.0;

/// A value that is marked by a line across the plot: a threshold, a median.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Marker {
    /// Where.
    pub value: f64,
    /// What it is.
    pub label: String,
}

/// The plot between two axes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame {
    pub(super) x: Range,
    pub(super) y: Range,
}

impl Frame {
    /// Place of a value along x, chart units.
    pub(super) fn at_x(&self, value: f64) -> Option<f64> {
        Some(LEFT + self.x.at(value)? * (WIDTH - LEFT - RIGHT))
    }

    /// Place of a value along y, chart units from the top.
    pub(super) fn at_y(&self, value: f64) -> Option<f64> {
        Some(HEIGHT - BOTTOM - self.y.at(value)? * (HEIGHT - TOP - BOTTOM))
    }

    /// Place of a point.
    pub(super) fn at(&self, x: f64, y: f64) -> Option<(f64, f64)> {
        Some((self.at_x(x)?, self.at_y(y)?))
    }

    /// The chart: grid, axes and the plot inside. Charts are read aloud by `title`.
    pub(super) fn svg(
        &self,
        title: &str,
        labels: (&Axis, &Axis),
        markers: (&[Marker], &[Marker]),
        plot: &Markup,
    ) -> Markup {
        let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
        html! {
            svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img" aria-label=(crate::text::shown(title)) {
                g.axis {
                    @for (y, tick) in places(&self.y, 5, |v| self.at_y(v)) {
                        line.grid x1=(LEFT) x2=(right) y1=(y) y2=(y) {}
                        text x=(LEFT - 6.0) y=(y) dy="0.35em" text-anchor="end" { (tick.label) }
                    }
                    @for (x, tick) in places(&self.x, 7, |v| self.at_x(v)) {
                        line.grid x1=(x) x2=(x) y1=(TOP) y2=(bottom) {}
                        text x=(x) y=(bottom + 16.0) text-anchor="middle" { (tick.label) }
                    }
                    line.base x1=(LEFT) x2=(right) y1=(bottom) y2=(bottom) {}
                    text.name x=((LEFT + right) / 2.0) y=(HEIGHT - 8.0) text-anchor="middle" { (named(labels.0)) }
                    text.name transform=(format!("translate(13 {}) rotate(-90)", (TOP + bottom) / 2.0)) text-anchor="middle" { (named(labels.1)) }
                }
                (plot)
                g.marker {
                    @for (x, marker) in markers.0.iter().filter_map(|m| Some((inside(&self.x, m).and_then(|v| self.at_x(v))?, m))) {
                        line x1=(round(x)) x2=(round(x)) y1=(TOP) y2=(bottom) {}
                        text x=(round(x + 4.0)) y=(TOP + 9.0) { (Text(&marker.label)) }
                    }
                    @for (y, marker) in markers.1.iter().filter_map(|m| Some((inside(&self.y, m).and_then(|v| self.at_y(v))?, m))) {
                        line x1=(LEFT) x2=(right) y1=(round(y)) y2=(round(y)) {}
                        text x=(right - 4.0) y=(round(y - 4.0)) text-anchor="end" { (Text(&marker.label)) }
                    }
                }
            }
        }
    }
}

fn named(axis: &Axis) -> Markup {
    html! { (Text(&axis.label)) @if axis.scale == Scale::Log { " (log)" } }
}

fn places(range: &Range, wanted: usize, at: impl Fn(f64) -> Option<f64>) -> Vec<(f64, Tick)> {
    let ticks = range.ticks(wanted).into_iter();
    ticks
        .filter_map(|tick| Some((round(at(tick.value)?), tick)))
        .collect()
}

fn inside(range: &Range, marker: &Marker) -> Option<f64> {
    (range.low..=range.high)
        .contains(&marker.value)
        .then_some(marker.value)
}

/// A tenth of a unit is finer than a screen shows.
pub(super) fn round(place: f64) -> f64 {
    (place * 10.0).round() / 10.0
}
