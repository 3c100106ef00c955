//! What an engine finds: lines of text with their places.

use serde::{Deserialize, Serialize};

/// Corners of a line in px of the picture, clockwise from the top left: `[x, y]` each.
pub type Quad = [[f64; 2]; 4];

/// One line of text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Its corners, px.
    pub quad: Quad,
    /// Its text.
    pub text: String,
    /// How sure the engine is, 0 to 1.
    pub score: f64,
}

impl Line {
    /// A line in an upright rectangle.
    pub fn in_box([x1, y1, x2, y2]: [f64; 4], text: impl Into<String>, score: f64) -> Self {
        Self {
            quad: [[x1, y1], [x2, y1], [x2, y2], [x1, y2]],
            text: text.into(),
            score,
        }
    }

    /// The upright rectangle around the corners: `[x1, y1, x2, y2]`, px.
    pub fn bounds(&self) -> [f64; 4] {
        let side = |axis: usize, pick: fn(f64, f64) -> f64| {
            let corners = self.quad.iter().map(|corner| corner[axis]);
            corners.reduce(pick).unwrap_or_default()
        };
        [
            side(0, f64::min),
            side(1, f64::min),
            side(0, f64::max),
            side(1, f64::max),
        ]
    }
}
