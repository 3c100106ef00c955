//! Words with known places, joined to the lines that an engine would find.

use crate::{Line, line::Quad, order::in_reading_order};

/// A gap wider than this multiple of the height of the line divides two lines: detectors divide columns, and
/// join the words of a sentence.
const WIDEST_GAP: f64 = 1.1;
/// Words overlap by so much at most, as a multiple of the height.
const OVERLAP: f64 = 0.5;
/// Detectors take ink with a margin, as a multiple of the height.
const MARGIN: f64 = 0.12;
/// Lines begun this many lines ago still take words, so that pages in columns may come row by row.
const OPEN_LINES: usize = 16;

type Point = [f64; 2];

fn dot(a: Point, b: Point) -> f64 {
    a[0] * b[0] + a[1] * b[1]
}

fn centre(quad: &Quad) -> Point {
    [0, 1].map(|axis| quad.iter().map(|corner| corner[axis]).sum::<f64>() / 4.0)
}

/// A box seen along a direction: `[start, end]` along and across it.
fn extent(quad: &Quad, along: Point) -> [Point; 2] {
    [along, [-along[1], along[0]]].map(|axis| {
        let places = quad.iter().map(|corner| dot(*corner, axis));
        let low = places.clone().fold(f64::INFINITY, f64::min);
        [low, places.fold(f64::NEG_INFINITY, f64::max)]
    })
}

/// The direction of reading of a word: that of its upper side; to the right where it has none.
fn direction(quad: &Quad) -> Point {
    let side = [quad[1][0] - quad[0][0], quad[1][1] - quad[0][1]];
    let length = side[0].hypot(side[1]);
    if length > 0.0 && length.is_finite() {
        side.map(|part| part / length)
    } else {
        [1.0, 0.0]
    }
}

/// A line that may still grow.
struct Open {
    along: Point,
    /// Along and across, px, in the line's own direction.
    extent: [Point; 2],
    text: String,
    characters: usize,
    score: f64,
}

impl Open {
    fn new(word: &Line, along: Point) -> Self {
        Self {
            along,
            extent: extent(&word.quad, along),
            text: word.text.clone(),
            characters: word.text.chars().count(),
            score: word.score,
        }
    }

    fn height(&self) -> f64 {
        self.extent[1][1] - self.extent[1][0]
    }

    /// How far behind the line's end a word begins, px, if it stands in the line.
    fn gap(&self, word: &Line) -> Option<f64> {
        let [[start, _], [top, bottom]] = extent(&word.quad, self.along);
        let height = self.height().max(bottom - top);
        let middle = dot(centre(&word.quad), [-self.along[1], self.along[0]]);
        let own = (self.extent[1][0] + self.extent[1][1]) / 2.0;
        // Marks such as a dash or a full stop are small; they stand in a line whose range holds them.
        let beside = (middle - own).abs() < 0.45 * height;
        let alike = self.characters == 1
            || word.text.chars().count() <= 2
            || (bottom - top) * 2.5 > self.height() && self.height() * 2.5 > bottom - top;
        let gap = start - self.extent[0][1];
        (beside && alike && gap < WIDEST_GAP * height && gap > -OVERLAP * height).then_some(gap)
    }

    fn push(&mut self, word: &Line) {
        let with = extent(&word.quad, self.along);
        for (own, new) in self.extent.iter_mut().zip(with) {
            *own = [own[0].min(new[0]), own[1].max(new[1])];
        }
        self.text.push(' ');
        self.text.push_str(&word.text);
        self.characters += word.text.chars().count() + 1;
        self.score = self.score.min(word.score);
    }

    fn finish(self) -> Line {
        let margin = MARGIN * self.height();
        let [[start, end], [top, bottom]] = self.extent.map(|[a, b]| [a - margin, b + margin]);
        let across = [-self.along[1], self.along[0]];
        let corner = |a: f64, b: f64| [0, 1].map(|i| (a * self.along[i] + b * across[i]).max(0.0));
        Line {
            quad: [
                corner(start, top),
                corner(end, top),
                corner(end, bottom),
                corner(start, bottom),
            ],
            text: self.text,
            score: self.score,
        }
    }
}

/// Joins words to lines as a detector finds them: what stands close together on one base line, at any angle.
/// Words of a line come from its beginning to its end; lines may take turns. The lines come in the order of
/// an engine: from top to bottom, neighbours from left to right.
pub fn join_words(words: &[Line]) -> Vec<Line> {
    let mut lines: Vec<Open> = Vec::new();
    for word in words.iter().filter(|word| !word.text.is_empty()) {
        let first = lines.len().saturating_sub(OPEN_LINES);
        let fits = lines[first..]
            .iter()
            .enumerate()
            .filter_map(|(at, line)| Some((first + at, line.gap(word)?.abs())));
        match fits.min_by(|a, b| a.1.total_cmp(&b.1)) {
            Some((at, _)) => lines[at].push(word),
            None => {
                let along = direction(&word.quad);
                lines.push(Open::new(word, along));
            }
        }
    }
    let mut lines: Vec<Line> = lines.into_iter().map(Open::finish).collect();
    in_reading_order(&mut lines, |line| line.quad[0]);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(x: f64, y: f64, text: &str) -> Line {
        let wide = 10.0 * text.chars().count() as f64;
        Line::in_box([x, y, x + wide, y + 16.0], text, 1.0)
    }

    fn texts(lines: &[Line]) -> Vec<&str> {
        lines.iter().map(|line| line.text.as_str()).collect()
    }

    #[test]
    fn columns_are_lines_of_their_own() {
        let words = [
            word(300.0, 42.0, "9.90"),
            word(10.0, 10.0, "Green"),
            word(68.0, 11.0, "tea"),
            word(10.0, 40.0, "TOTAL"),
            word(10.0, 70.0, "Thank"),
            // A dash is low and stands in the middle of the line.
            Line::in_box([64.0, 77.0, 72.0, 79.0], "-", 1.0),
            word(80.0, 70.0, "you"),
        ];
        let lines = join_words(&words);
        assert_eq!(texts(&lines), ["Green tea", "TOTAL", "9.90", "Thank - you"]);
        let [x1, y1, x2, y2] = lines[0].bounds();
        assert!(
            x1 < 10.0 && y1 < 10.0 && x2 > 98.0 && y2 > 27.0,
            "{lines:?}"
        );
    }

    #[test]
    fn lines_at_an_angle_stay_together() {
        let (sine, cosine) = 0.25_f64.sin_cos();
        let turn = |line: Line| Line {
            quad: line
                .quad
                .map(|[x, y]| [200.0 + x * cosine - y * sine, 200.0 + x * sine + y * cosine]),
            ..line
        };
        let words: Vec<Line> = ["one", "two", "three", "four", "five"]
            .iter()
            .scan(0.0, |next, text| {
                let x = *next;
                *next += 10.0 * text.len() as f64 + 8.0;
                Some(turn(word(x, 0.0, text)))
            })
            .chain([turn(word(0.0, 22.0, "below"))])
            .collect();
        let lines = join_words(&words);
        assert_eq!(texts(&lines), ["one two three four five", "below"]);
        // The quad has the line's angle.
        let [a, b, ..] = lines[0].quad;
        assert!(((b[1] - a[1]) / (b[0] - a[0]) - 0.25_f64.tan()).abs() < 1e-6);
    }

    #[test]
    fn odd_boxes_are_no_trouble() {
        let nan = Line::in_box([f64::NAN; 4], "nan", 1.0);
        let flat = Line::in_box([5.0, 5.0, 5.0, 5.0], "flat", 1.0);
        let none = Line::in_box([0.0, 0.0, 9.0, 9.0], "", 1.0);
        assert_eq!(join_words(&[nan, flat, none]).len(), 2);
        assert!(join_words(&[]).is_empty());
    }
}
