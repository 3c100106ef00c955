//! Boxes out of the map that a detection network draws: differentiable binarisation, second half.

use super::geometry::{Point, Rect, least_rect};

/// How a map is read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Reading {
    /// Places above this belong to text.
    pub(crate) threshold: f32,
    /// Boxes of a lower mean are left out.
    pub(crate) box_threshold: f32,
    /// How far a box grows beyond what the map marks, which is the core of the line.
    pub(crate) unclip: f32,
}

impl Default for Reading {
    fn default() -> Self {
        Self {
            threshold: 0.3,
            box_threshold: 0.5,
            unclip: 1.6,
        }
    }
}

/// Cores whose shorter side is below this are noise, px.
const LEAST_SIDE: f32 = 3.0;
/// More boxes than this are no page.
const MOST: usize = 3000;

/// Boxes of a map of `width`, from top to bottom as they begin.
pub(crate) fn boxes(map: &[f32], width: usize, reading: &Reading) -> Vec<Rect> {
    let mut found = Vec::new();
    for mut points in components(map, width, reading.threshold) {
        let Some(core) = least_rect(&mut points) else {
            continue;
        };
        if core.short() < LEAST_SIDE || mean(map, width, &core) < reading.box_threshold {
            continue;
        }
        let grown = core.unclipped(reading.unclip);
        if grown.short() < LEAST_SIDE + 2.0 {
            continue;
        }
        found.push(grown);
        if found.len() == MOST {
            break;
        }
    }
    found
}

/// A stretch of a row that belongs to text.
struct Run {
    start: usize,
    end: usize,
    component: usize,
}

/// Outermost points of every connected component, neighbours at corners included. A place is text where it
/// or one of its upper left neighbours is above the threshold, which closes cracks of one place.
fn components(map: &[f32], width: usize, threshold: f32) -> Vec<Vec<Point>> {
    let mut parents: Vec<usize> = Vec::new();
    let mut points: Vec<(usize, [Point; 2])> = Vec::new();
    let mut above: Vec<Run> = Vec::new();
    let mut row_above: Option<&[f32]> = None;
    for (y, row) in map.chunks_exact(width.max(1)).enumerate() {
        let mut runs: Vec<Run> = Vec::new();
        let is_text = |x: usize| {
            let from = x.saturating_sub(1);
            let hit = |row: &[f32]| row[from..=x].iter().any(|p| *p > threshold);
            hit(row) || row_above.is_some_and(hit)
        };
        let mut x = 0;
        while x < width {
            if !is_text(x) {
                x += 1;
                continue;
            }
            let start = x;
            while x < width && is_text(x) {
                x += 1;
            }
            let mut component = None;
            for run in &above {
                if run.start > x || run.end < start {
                    continue;
                }
                let own = root(&mut parents, run.component);
                match component {
                    None => component = Some(own),
                    Some(other) => {
                        let (low, high) = (own.min(other), own.max(other));
                        parents[high] = low;
                        component = Some(low);
                    }
                }
            }
            let component = component.unwrap_or_else(|| {
                parents.push(parents.len());
                parents.len() - 1
            });
            let ends = [start, x - 1].map(|x| [x as f32, y as f32]);
            points.push((component, ends));
            runs.push(Run {
                start,
                end: x,
                component,
            });
        }
        above = runs;
        row_above = Some(row);
    }
    let mut groups: Vec<Vec<Point>> = vec![Vec::new(); parents.len()];
    for (component, ends) in points {
        groups[root(&mut parents, component)].extend(ends);
    }
    groups.retain(|group| !group.is_empty());
    groups
}

fn root(parents: &mut [usize], mut at: usize) -> usize {
    while parents[at] != at {
        parents[at] = parents[parents[at]];
        at = parents[at];
    }
    at
}

/// The mean of the map inside a rectangle.
fn mean(map: &[f32], width: usize, rect: &Rect) -> f32 {
    let height = map.len() / width.max(1);
    let corners = rect.corners();
    let range = |axis: usize, size: usize| {
        let places = corners.iter().map(|corner| corner[axis]);
        let low = places
            .clone()
            .fold(f32::INFINITY, f32::min)
            .floor()
            .max(0.0);
        let high = places.fold(0.0, f32::max).ceil() as usize;
        low as usize..(high + 1).min(size)
    };
    let across = rect.across();
    let (mut sum, mut count) = (0.0_f64, 0_usize);
    for y in range(1, height) {
        for x in range(0, width) {
            let from = [x as f32 - rect.centre[0], y as f32 - rect.centre[1]];
            let along = from[0] * rect.along[0] + from[1] * rect.along[1];
            let beside = from[0] * across[0] + from[1] * across[1];
            if along.abs() <= rect.half[0] + 0.5 && beside.abs() <= rect.half[1] + 0.5 {
                sum += f64::from(map[y * width + x]);
                count += 1;
            }
        }
    }
    (sum / count.max(1) as f64) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A map of `width` x 60 with filled boxes.
    fn map(width: usize, boxes: &[([usize; 4], f32)]) -> Vec<f32> {
        let mut map = vec![0.01; width * 60];
        for ([x1, y1, x2, y2], value) in boxes {
            for y in *y1..=*y2 {
                map[y * width + x1..=y * width + x2].fill(*value);
            }
        }
        map
    }

    #[test]
    fn boxes_are_found_and_grown() {
        let drawn = [
            ([10, 5, 69, 12], 0.9),
            ([10, 30, 40, 37], 0.8),
            ([60, 30, 90, 37], 0.4),
        ];
        let found = boxes(&map(100, &drawn), 100, &Reading::default());
        // The third is text, but not sure enough.
        assert_eq!(found.len(), 2);
        let [tl, _, br, _] = found[0].corners();
        // Dilated by one to the right and down: 60 x 8 places, so 1.6 * 480 / 136 = 5.65 px more.
        let want = [10.0 - 5.65, 5.0 - 5.65, 70.0 + 5.65, 13.0 + 5.65];
        for (got, want) in [tl[0], tl[1], br[0], br[1]].into_iter().zip(want) {
            assert!((got - want).abs() < 0.1, "{tl:?} {br:?}");
        }
    }

    #[test]
    fn shapes_that_join_below_are_one() {
        let drawn = [
            ([10, 5, 14, 40], 0.9),
            ([30, 5, 34, 40], 0.9),
            ([10, 38, 34, 44], 0.9),
        ];
        assert_eq!(components(&map(60, &drawn), 60, 0.3).len(), 1);
        let apart = [([10, 5, 14, 40], 0.9), ([30, 5, 34, 40], 0.9)];
        assert_eq!(components(&map(60, &apart), 60, 0.3).len(), 2);
    }

    #[test]
    fn noise_and_empty_maps_have_no_boxes() {
        let reading = Reading::default();
        assert!(boxes(&[], 0, &reading).is_empty());
        assert!(boxes(&map(50, &[]), 50, &reading).is_empty());
        assert!(boxes(&map(50, &[([7, 7, 8, 7], 0.9)]), 50, &reading).is_empty());
        let all = map(50, &[([0, 0, 49, 59], 0.9)]);
        assert_eq!(boxes(&all, 50, &reading).len(), 1);
        assert!(boxes(&[f32::NAN; 100], 10, &reading).is_empty());
    }
}
