//! Rectangles around points.

/// A point, px.
pub(crate) type Point = [f32; 2];

/// A rectangle at any angle.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Rect {
    /// Its middle.
    pub(crate) centre: Point,
    /// Direction of its first side, of length 1.
    pub(crate) along: Point,
    /// Half of its sides: along that direction, and across it.
    pub(crate) half: [f32; 2],
}

fn dot(a: Point, b: Point) -> f32 {
    a[0] * b[0] + a[1] * b[1]
}

impl Rect {
    /// The direction across.
    pub(crate) fn across(&self) -> Point {
        [-self.along[1], self.along[0]]
    }

    /// The shorter side.
    pub(crate) fn short(&self) -> f32 {
        2.0 * self.half[0].min(self.half[1])
    }

    /// Grown on every side by what makes its area `ratio` times larger for each of its circumference: the
    /// distance is area * ratio / circumference.
    pub(crate) fn unclipped(mut self, ratio: f32) -> Self {
        let [a, b] = self.half;
        let distance = a * b * ratio / (a + b).max(f32::MIN_POSITIVE);
        self.half = [a + distance, b + distance];
        self
    }

    /// Corners: left ones and right ones by their x, the higher one of each first; then clockwise from
    /// the top left.
    pub(crate) fn corners(&self) -> [Point; 4] {
        let across = self.across();
        let corner = |a: f32, b: f32| -> Point {
            let (a, b) = (a * self.half[0], b * self.half[1]);
            [0, 1].map(|i| self.centre[i] + a * self.along[i] + b * across[i])
        };
        let mut all = [
            corner(-1.0, -1.0),
            corner(1.0, -1.0),
            corner(1.0, 1.0),
            corner(-1.0, 1.0),
        ];
        all.sort_by(|p, q| p[0].total_cmp(&q[0]));
        let [
            mut top_left,
            mut bottom_left,
            mut top_right,
            mut bottom_right,
        ] = all;
        if top_left[1] > bottom_left[1] {
            std::mem::swap(&mut top_left, &mut bottom_left);
        }
        if top_right[1] > bottom_right[1] {
            std::mem::swap(&mut top_right, &mut bottom_right);
        }
        [top_left, top_right, bottom_right, bottom_left]
    }
}

/// The convex hull, counter-clockwise, without points on its sides.
fn hull(points: &mut Vec<Point>) -> Vec<Point> {
    points.sort_by(|a, b| a[0].total_cmp(&b[0]).then(a[1].total_cmp(&b[1])));
    points.dedup();
    if points.len() < 3 {
        return points.clone();
    }
    let turns_left = |a: Point, b: Point, c: Point| {
        (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]) > 0.0
    };
    let half = |points: &mut dyn Iterator<Item = &Point>| {
        let mut chain: Vec<Point> = Vec::new();
        for point in points {
            while let [.., a, b] = chain[..]
                && !turns_left(a, b, *point)
            {
                chain.pop();
            }
            chain.push(*point);
        }
        chain.pop();
        chain
    };
    let mut all = half(&mut points.iter());
    all.extend(half(&mut points.iter().rev()));
    all
}

/// The rectangle of least area around points; `None` without points.
pub(crate) fn least_rect(points: &mut Vec<Point>) -> Option<Rect> {
    let hull = hull(points);
    let first = *hull.first()?;
    let mut best: Option<(f32, Rect)> = None;
    for (at, a) in hull.iter().enumerate() {
        let b = hull[(at + 1) % hull.len()];
        let side = [b[0] - a[0], b[1] - a[1]];
        let length = dot(side, side).sqrt();
        // A single point has no side: any direction will do.
        let along = if length > 0.0 {
            side.map(|x| x / length)
        } else {
            [1.0, 0.0]
        };
        let across = [-along[1], along[0]];
        let mut reach = [[f32::INFINITY, f32::NEG_INFINITY]; 2];
        for point in &hull {
            let from = [point[0] - first[0], point[1] - first[1]];
            for (reach, axis) in reach.iter_mut().zip([along, across]) {
                let place = dot(from, axis);
                *reach = [reach[0].min(place), reach[1].max(place)];
            }
        }
        let half = reach.map(|[low, high]| (high - low) / 2.0);
        let area = half[0] * half[1];
        if best.is_none_or(|(least, _)| area < least) {
            let middle = reach.map(|[low, high]| (high + low) / 2.0);
            let centre = [0, 1].map(|i| first[i] + middle[0] * along[i] + middle[1] * across[i]);
            best = Some((
                area,
                Rect {
                    centre,
                    along,
                    half,
                },
            ));
        }
    }
    best.map(|(_, rect)| rect)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turned_rectangle_is_found() {
        let (sin, cos) = 0.3_f32.sin_cos();
        let mut points = Vec::new();
        for a in -20..=20 {
            for b in -4..=4 {
                let (a, b) = (a as f32, b as f32);
                points.push([50.0 + a * cos - b * sin, 40.0 + a * sin + b * cos]);
            }
        }
        let rect = least_rect(&mut points).unwrap();
        let mut sides = rect.half;
        sides.sort_by(f32::total_cmp);
        assert!(
            (sides[0] - 4.0).abs() < 1e-3 && (sides[1] - 20.0).abs() < 1e-3,
            "{rect:?}"
        );
        assert!((rect.centre[0] - 50.0).abs() < 1e-3 && (rect.centre[1] - 40.0).abs() < 1e-3);
        let [tl, tr, br, bl] = rect.corners();
        assert!(tl[0] < tr[0] && bl[0] < br[0] && tl[1] < bl[1] && tr[1] < br[1]);
        let grown = rect.unclipped(1.5);
        // Area 320 px, circumference 96 px: 5 px on every side.
        assert!((grown.short() - 18.0).abs() < 1e-2, "{grown:?}");
    }

    #[test]
    fn points_and_lines_have_rectangles() {
        assert_eq!(least_rect(&mut Vec::new()), None);
        let point = least_rect(&mut vec![[3.0, 4.0]; 2]).unwrap();
        assert_eq!((point.centre, point.short()), ([3.0, 4.0], 0.0));
        let line = least_rect(&mut vec![[0.0, 0.0], [2.0, 2.0], [1.0, 1.0]]).unwrap();
        assert!(line.short() < 1e-6 && (line.centre[0] - 1.0).abs() < 1e-6);
    }
}
