//! The page as text: words stand where they stand on the page.

use crate::Line;

/// No gap is wider, spaces. Only boxes that cannot come from a page reach it.
const WIDEST_GAP: f64 = 100_000.0;

/// A line seen by its first and third corner: `x1, y1, x2, y2`.
type Corners = [f64; 4];

fn corners(line: &Line) -> Corners {
    let [[x1, y1], _, [x2, y2], _] = line.quad;
    [x1, y1, x2, y2]
}

/// Whether the middle of each lies strictly between top and bottom of the other.
fn side_by_side(a: &Corners, b: &Corners) -> bool {
    let middle = |c: &Corners| (c[1] + c[3]) / 2.0;
    let inside = |y: f64, c: &Corners| c[1] < y && y < c[3];
    inside(middle(a), b) && inside(middle(b), a)
}

/// The layout string: one row of text for every run of neighbouring lines that stand side by side, with
/// gaps in proportion to those on the page. Lines are taken in the order in which they come.
///
/// # Source
/// Spec 9.2: the width of a character is that of the row with the most characters (the last of equals). A
/// line is led by one space and by 0.4 of the distance in characters between its place and the end of the
/// row so far. A page without a character has a character width of 1 px.
pub fn page_layout(lines: &[Line]) -> String {
    let boxes: Vec<Corners> = lines.iter().map(corners).collect();
    let rows = rows(&boxes);
    let width = character_width(lines, &boxes, &rows);
    let mut page = String::new();
    for row in rows {
        if row.start > 0 {
            page.push('\n');
        }
        let mut written = 0_usize;
        for at in row {
            let place = (boxes[at][0] / width).trunc();
            let gap = ((place - written as f64) * 0.4).trunc();
            // `as` takes a negative gap as none.
            let gap = 1 + gap.min(WIDEST_GAP) as usize;
            page.extend(std::iter::repeat_n(' ', gap));
            page.push_str(&lines[at].text);
            written += gap + lines[at].text.chars().count();
        }
    }
    page
}

/// Runs of boxes of which each stands beside the one before it.
fn rows(boxes: &[Corners]) -> Vec<std::ops::Range<usize>> {
    let mut rows = Vec::new();
    let mut start = 0;
    for end in 1..=boxes.len() {
        if end == boxes.len() || !side_by_side(&boxes[end - 1], &boxes[end]) {
            rows.push(start..end);
            start = end;
        }
    }
    rows
}

fn character_width(lines: &[Line], boxes: &[Corners], rows: &[std::ops::Range<usize>]) -> f64 {
    let (mut most, mut span) = (0, 0.0);
    for row in rows {
        let characters = lines[row.clone()]
            .iter()
            .map(|line| line.text.chars().count())
            .sum();
        if characters >= most {
            let left = boxes[row.clone()].iter().map(|b| b[0]);
            let right = boxes[row.clone()].iter().map(|b| b[2]);
            most = characters;
            span = right.fold(f64::NEG_INFINITY, f64::max) - left.fold(f64::INFINITY, f64::min);
        }
    }
    match most {
        0 => 1.0,
        _ if span == 0.0 => 1.0,
        _ => span / most as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(x1: f64, y1: f64, x2: f64, y2: f64, text: &str) -> Line {
        Line::in_box([x1, y1, x2, y2], text, 1.0)
    }

    #[test]
    fn rows_and_gaps() {
        let lines = [
            line(0.0, 0.0, 100.0, 10.0, "ten chars!"),
            line(0.0, 20.0, 40.0, 30.0, "left"),
            line(200.0, 21.0, 250.0, 31.0, "right"),
        ];
        // 9 characters in 250 px are less than 10 in 100, so a character is 10 px: `right` begins at 20,
        // the row is 5 long, int(15 * 0.4) = 6 spaces more than one.
        assert_eq!(page_layout(&lines), " ten chars!\n left       right");
    }

    #[test]
    fn degenerate_pages() {
        assert_eq!(page_layout(&[]), "");
        let empty = line(5.0, 0.0, 5.0, 0.0, "");
        assert_eq!(page_layout(&[empty.clone(), empty]), "   \n   ");
        let point = line(7.0, 3.0, 7.0, 9.0, "x");
        assert_eq!(page_layout(&[point]), "   x");
        let far = [
            line(1e300, 0.0, 1e300, 4.0, "x"),
            line(0.0, 9.0, 1e-300, 12.0, "y"),
        ];
        assert!(page_layout(&far).len() < 200_100);
        let backward = line(90.0, 0.0, 10.0, 9.0, "ab");
        assert_eq!(page_layout(&[backward]), " ab");
    }
}
