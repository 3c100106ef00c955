//! Curves.

use maud::{Markup, Render, html};

use super::axis::{Axis, Range, Scale};
use super::frame::{Frame, Marker, round};
use super::{colour, figure, legend};
use crate::number::significant;
use crate::text::Text;

/// Points of a curve that are drawn; longer ones keep the lowest and the highest of each stretch.
const DRAWN: usize = 800;
/// Points of a curve that answer to the mouse.
const HOVER: usize = 100;

/// A curve.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Series {
    /// Its name.
    pub name: String,
    /// `(x, y)` in order of x. A y that is not finite breaks the curve and is counted.
    pub points: Vec<(f64, f64)>,
}

impl Series {
    /// Values at 1, 2, 3, ...: one a step.
    pub fn of_values(name: impl Into<String>, values: &[f32]) -> Self {
        let points = values.iter().enumerate();
        Self {
            name: name.into(),
            points: points
                .map(|(at, y)| ((at + 1) as f64, f64::from(*y)))
                .collect(),
        }
    }
}

/// Several curves over one axis.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LineChart {
    /// What is shown.
    pub title: String,
    /// Horizontal axis.
    pub x: Axis,
    /// Vertical axis, as shown at first: a box above the chart switches it between linear and
    /// logarithmic.
    pub y: Axis,
    /// The curves.
    pub series: Vec<Series>,
    /// Draw the mean of this many points in bold over the faint curve; 0 and 1 draw the curve alone.
    pub smooth: usize,
    /// Marked values of x: where a stage begins.
    pub at_x: Vec<Marker>,
}

impl LineChart {
    pub(super) fn drawn(&self, y: &Axis) -> Markup {
        let points = || self.series.iter().flat_map(|series| &series.points);
        let with_place =
            |p: &&(f64, f64)| p.1.is_finite() && (y.scale == Scale::Linear || p.1 > 0.0);
        let frame = Frame {
            x: Range::of(self.x.scale, points().map(|p| p.0)),
            y: Range::of(y.scale, points().filter(with_place).map(|p| p.1)).with_room(),
        };
        let plot = html! {
            @for (at, series) in self.series.iter().enumerate() {
                g class=(format!("line {}", colour(at))) {
                    @let smooth = self.smooth > 1;
                    (curve(&frame, &thinned(&series.points), if smooth { "faint" } else { "curve" }))
                    @if smooth { (curve(&frame, &thinned(&means(&series.points, self.smooth)), "curve")) }
                    @for (x, y) in sparse(&series.points) {
                        @if let Some((cx, cy)) = frame.at(*x, *y) {
                            circle.hover cx=(round(cx)) cy=(round(cy)) r="6" {
                                title { (Text(&series.name)) ": " (significant(*y, 4)) " at " (significant(*x, 4)) }
                            }
                        }
                    }
                }
            }
        };
        frame.svg(&self.title, (&self.x, y), (&self.at_x, &[]), &plot)
    }
}

impl Render for LineChart {
    fn render(&self) -> Markup {
        let positive = |p: &(f64, f64)| p.1 > 0.0;
        let count = |test: &dyn Fn(f64) -> bool| {
            let all = self.series.iter().flat_map(|series| &series.points);
            all.filter(|p| test(p.1)).count()
        };
        let (broken, low) = (count(&|y| !y.is_finite()), count(&|y| y <= 0.0));
        let mut remarks = Vec::new();
        if broken > 0 {
            remarks.push(format!("{broken} values are not finite and not drawn"));
        }
        if low > 0 && self.y.scale == Scale::Log {
            remarks.push(format!(
                "{low} values are not positive and not on the logarithmic axis"
            ));
        }
        let other = Axis {
            label: self.y.label.clone(),
            scale: match self.y.scale {
                Scale::Linear => Scale::Log,
                Scale::Log => Scale::Linear,
            },
        };
        let switch = self.series.iter().any(|s| s.points.iter().any(positive));
        let body = html! {
            (legend(self.series.iter().enumerate().map(|(at, s)| (at, s.name.as_str(), ends(s)))))
            @if switch {
                label.switch { input type="checkbox" checked[self.y.scale == Scale::Log]; " logarithmic" }
                div class=(class(self.y.scale)) { (self.drawn(&self.y)) }
                div class=(class(other.scale)) { (self.drawn(&other)) }
            } @else {
                (self.drawn(&self.y))
            }
        };
        figure(&self.title, &remarks, &body)
    }
}

fn class(scale: Scale) -> &'static str {
    match scale {
        Scale::Linear => "linear",
        Scale::Log => "log",
    }
}

/// First and last value in words.
fn ends(series: &Series) -> String {
    let finite = || series.points.iter().map(|p| p.1).filter(|y| y.is_finite());
    match (finite().next(), finite().next_back()) {
        (Some(first), Some(last)) => {
            format!(
                "{} \u{2192} {}",
                significant(first, 3),
                significant(last, 3)
            )
        }
        _ => "no finite value".into(),
    }
}

fn curve(frame: &Frame, points: &[(f64, f64)], class: &str) -> Markup {
    let mut path = String::new();
    let mut pen_down = false;
    for (x, y) in points {
        match frame.at(*x, *y) {
            Some((x, y)) => {
                path.push_str(&format!(
                    "{}{:.1} {:.1}",
                    if pen_down { "L" } else { "M" },
                    x,
                    y
                ));
                if !pen_down {
                    // A single point between two gaps is still seen.
                    path.push_str("h0");
                }
                pen_down = true;
            }
            None => pen_down = false,
        }
    }
    html! { @if !path.is_empty() { path class=(class) d=(path) {} } }
}

/// At most about [`DRAWN`] points with every peak kept.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if points.len() <= DRAWN {
        return points.to_vec();
    }
    let stretch = points.len().div_ceil(DRAWN / 2);
    let mut kept = Vec::with_capacity(DRAWN + 2);
    for part in points.chunks(stretch) {
        let by = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
        let finite = || part.iter().filter(|p| p.1.is_finite());
        match (finite().min_by(by), finite().max_by(by)) {
            (Some(low), Some(high)) if low.0 <= high.0 => kept.extend([*low, *high]),
            (Some(low), Some(high)) => kept.extend([*high, *low]),
            _ => kept.extend(part.first()),
        }
    }
    kept
}

/// The mean of each run of `window` points that are finite.
fn means(points: &[(f64, f64)], window: usize) -> Vec<(f64, f64)> {
    let part = |part: &[(f64, f64)]| {
        let finite: Vec<&(f64, f64)> = part.iter().filter(|p| p.1.is_finite()).collect();
        let count = finite.len() as f64;
        let sum = |of: fn(&(f64, f64)) -> f64| finite.iter().map(|p| of(p)).sum::<f64>();
        (!finite.is_empty()).then(|| (sum(|p| p.0) / count, sum(|p| p.1) / count))
    };
    points.chunks(window).filter_map(part).collect()
}

fn sparse(points: &[(f64, f64)]) -> impl Iterator<Item = &(f64, f64)> {
    points.iter().step_by(points.len().div_ceil(HOVER).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_curves_are_thinned_and_keep_their_peaks() {
        let mut points: Vec<(f64, f64)> = (0..100_000).map(|i| (f64::from(i), 1.0)).collect();
        points[77_123].1 = 50.0;
        points[12].1 = f64::NAN;
        let thin = thinned(&points);
        assert!(thin.len() <= DRAWN + 2, "{}", thin.len());
        assert!(thin.contains(&(77_123.0, 50.0)));
        assert!(thin.windows(2).all(|w| w[0].0 <= w[1].0));
    }

    #[test]
    fn values_without_a_place_break_the_curve_and_are_counted() {
        let chart = LineChart {
            title: "loss".into(),
            y: Axis::log("nats"),
            series: vec![Series::of_values("sft", &[3.0, f32::NAN, 2.0, 0.0, 1.0])],
            ..LineChart::default()
        };
        let html = chart.render().0;
        assert!(html.contains("1 values are not finite"), "{html}");
        assert!(html.contains("1 values are not positive"), "{html}");
        assert!(html.contains("3 \u{2192} 1"), "{html}");
        let path = html
            .split(" d=\"")
            .nth(1)
            .and_then(|rest| rest.split('"').next())
            .unwrap();
        assert_eq!(path.matches('M').count(), 3, "{path}");
    }
}
