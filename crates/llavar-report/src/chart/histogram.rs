//! How values are distributed.

use maud::{Markup, Render, html};

use super::axis::{Axis, Range, Scale};
use super::frame::{Frame, Marker, round};
use super::{colour, figure};
use crate::number::significant;
use crate::text::Text;

/// Counts of values in bins of equal width on the axis.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Histogram {
    /// What is shown.
    pub title: String,
    /// The values' axis.
    pub x: Axis,
    /// What is counted, in the plural.
    pub unit: String,
    /// The values, in any order.
    pub values: Vec<f64>,
    /// Bins; 40 where 0.
    pub bins: usize,
    /// Marked values: thresholds, a median.
    pub markers: Vec<Marker>,
}

impl Render for Histogram {
    fn render(&self) -> Markup {
        let range = Range::of(self.x.scale, self.values.iter().copied());
        let bins = if self.bins == 0 {
            40
        } else {
            self.bins.min(400)
        };
        let mut counts = vec![0usize; bins];
        let mut outside = 0usize;
        for value in &self.values {
            match range.at(*value) {
                // The highest value belongs to the last bin.
                Some(at) => counts[((at * bins as f64) as usize).min(bins - 1)] += 1,
                None => outside += 1,
            }
        }
        let most = counts.iter().copied().max().unwrap_or(0).max(1);
        let y = Range {
            scale: Scale::Linear,
            low: 0.0,
            high: most as f64 * 1.08,
        };
        let frame = Frame { x: range, y };
        let edge = |at: usize| range.value(at as f64 / bins as f64);
        let plot = html! {
            g class=(format!("bar {}", colour(0))) {
                @for (at, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
                    @if let (Some((left, top)), Some((right, bottom))) = (frame.at(edge(at), *count as f64), frame.at(edge(at + 1), 0.0)) {
                        rect x=(round(left)) y=(round(top)) width=(round((right - left - 1.0).max(0.5))) height=(round(bottom - top)) {
                            title { (significant(edge(at), 3)) " to " (significant(edge(at + 1), 3)) ": " (count) " " (Text(&self.unit)) }
                        }
                    }
                }
            }
        };
        let mut remarks = Vec::new();
        if outside > 0 {
            remarks.push(format!(
                "{outside} of {} {} have no place on this axis (not finite{})",
                self.values.len(),
                self.unit,
                if self.x.scale == Scale::Log {
                    ", or not positive"
                } else {
                    ""
                }
            ));
        }
        let counted = Axis::linear(&self.unit);
        let svg = frame.svg(
            &self.title,
            (&self.x, &counted),
            (&self.markers, &[]),
            &plot,
        );
        figure(&self.title, &remarks, &svg)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_in_a_bin_or_counted() {
        let histogram = Histogram {
            x: Axis::log("ratio"),
            unit: "pairs".into(),
            values: vec![0.1, 0.1, 10.0, 1.0, 0.0, -1.0, f64::NAN],
            bins: 4,
            ..Histogram::default()
        };
        let html = histogram.render().0;
        for shown in [
            "0.100 to 0.316: 2 pairs",
            "0.316 to 1: 1 pairs",
            "3.16 to 10",
            "3 of 7 pairs have no place",
        ] {
            assert!(html.contains(shown), "{shown}: {html}");
        }
    }
}
