//! Points with words on them.

use maud::{Markup, Render, html};

use super::axis::{Axis, Range};
use super::frame::{Frame, Marker, round};
use super::{colour, figure, legend};
use crate::number::significant;
use crate::text::Text;

/// Most points that are drawn: a browser stays quick.
const DRAWN: usize = 4000;

/// A point.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Point {
    /// Along the horizontal axis.
    pub x: f64,
    /// Along the vertical axis.
    pub y: f64,
    /// Its group: a position in [`Scatter::groups`].
    pub group: usize,
    /// What is shown when the mouse rests on it.
    pub text: String,
}

/// Two values of many things against each other.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Scatter {
    /// What is shown.
    pub title: String,
    /// Horizontal axis.
    pub x: Axis,
    /// Vertical axis.
    pub y: Axis,
    /// Names of the groups.
    pub groups: Vec<String>,
    /// The points. Of very many an even part is drawn, and that is said.
    pub points: Vec<Point>,
    /// Marked values of x.
    pub at_x: Vec<Marker>,
    /// Marked values of y.
    pub at_y: Vec<Marker>,
}

impl Render for Scatter {
    fn render(&self) -> Markup {
        let frame = Frame {
            x: Range::of(self.x.scale, self.points.iter().map(|p| p.x)).with_room(),
            y: Range::of(self.y.scale, self.points.iter().map(|p| p.y)).with_room(),
        };
        let placed: Vec<(f64, f64, &Point)> = self
            .points
            .iter()
            .filter_map(|p| frame.at(p.x, p.y).map(|(x, y)| (x, y, p)))
            .collect();
        let every = placed.len().div_ceil(DRAWN).max(1);
        let plot = html! {
            g.points { @for (x, y, point) in placed.iter().step_by(every) {
                circle class=(colour(point.group)) cx=(round(*x)) cy=(round(*y)) r="3" {
                    title { (Text(&point.text)) "\n" (significant(point.x, 3)) ", " (significant(point.y, 3)) }
                }
            } }
        };
        let mut remarks = Vec::new();
        let outside = self.points.len() - placed.len();
        if outside > 0 {
            remarks.push(format!(
                "{outside} of {} points have no place on these axes",
                self.points.len()
            ));
        }
        if every > 1 {
            remarks.push(format!(
                "one of every {every} of {} points is drawn",
                placed.len()
            ));
        }
        let count = |group: usize| self.points.iter().filter(|p| p.group == group).count();
        let body = html! {
            @if self.groups.len() > 1 {
                (legend(self.groups.iter().enumerate().map(|(at, name)| (at, name.as_str(), count(at).to_string()))))
            }
            (frame.svg(&self.title, (&self.x, &self.y), (&self.at_x, &self.at_y), &plot))
        };
        figure(&self.title, &remarks, &body)
    }
}
