//! Curves out of characters: braille dots for one, a letter each for several.

use llavar_report::{Series, significant};

/// Dots of a braille character, by column and row from the top.
const DOTS: [[u32; 4]; 2] = [[0x01, 0x02, 0x04, 0x40], [0x08, 0x10, 0x20, 0x80]];
/// Characters that the labels of the vertical axis take at least.
const LABEL: usize = 10;

/// A chart of `width` x `height` characters without title and legend.
pub(super) fn chart(
    title: &str,
    series: &[Series],
    width: usize,
    height: usize,
    logarithmic: bool,
) -> String {
    let place = |y: f64| if logarithmic { y.log10() } else { y };
    let points = || {
        let all = series.iter().flat_map(|s| &s.points);
        all.filter(|(x, y)| x.is_finite() && place(*y).is_finite())
    };
    let range = |values: &mut dyn Iterator<Item = f64>| {
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| {
            (l.min(v), h.max(v))
        });
        // A single value lies in the middle.
        if low < high {
            (low, high)
        } else {
            (low - 0.5, high + 0.5)
        }
    };
    let mut text = format!("{title}\n");
    if points().next().is_none() {
        return text + "no value can be drawn\n";
    }
    let (x_low, x_high) = range(&mut points().map(|p| p.0));
    let (y_low, y_high) = range(&mut points().map(|p| place(p.1)));
    let label = |row: usize| {
        if !row.is_multiple_of(5) && row + 1 != height {
            return String::new();
        }
        let share = 1.0 - row as f64 / (height - 1) as f64;
        let value = y_low + share * (y_high - y_low);
        significant(
            if logarithmic {
                10f64.powf(value)
            } else {
                value
            },
            4,
        )
    };
    let labels: Vec<String> = (0..height).map(label).collect();
    // All rows give way to the longest label, so that they stay below each other.
    let longest = labels.iter().map(|label| label.chars().count());
    let pad = longest.fold(LABEL, usize::max);
    let columns = width.saturating_sub(pad + 2).max(10);
    let mut grid = Grid::new(columns, height, series.len() > 1);
    for (number, curve) in series.iter().enumerate() {
        let at = |(x, y): &(f64, f64)| {
            let (x, y) = (
                (x - x_low) / (x_high - x_low),
                (place(*y) - y_low) / (y_high - y_low),
            );
            (x.is_finite() && y.is_finite()).then_some((x, y))
        };
        let mut last = None;
        for point in &curve.points {
            let here = at(point);
            if let Some(here) = here {
                grid.line(last.unwrap_or(here), here, number);
            }
            last = here;
        }
    }
    for (label, line) in labels.iter().zip(grid.lines()) {
        text.push_str(&format!("{label:>pad$} \u{2502}{}\n", line.trim_end()));
    }
    let rule = "\u{2500}".repeat(columns);
    text.push_str(&format!("{:>pad$} \u{2514}{rule}\n", ""));
    let (first, last) = (significant(x_low, 6), significant(x_high, 6));
    let gap = columns.saturating_sub(first.chars().count() + last.chars().count());
    text.push_str(&format!("{:pad$}  {first}{:gap$}{last}\n", "", ""));
    for (number, curve) in series.iter().enumerate() {
        let key = if series.len() > 1 {
            format!("{} ", letter(number))
        } else {
            String::new()
        };
        let ends = (curve.points.first(), curve.points.last());
        if let (Some(first), Some(last)) = ends {
            let (from, to) = (significant(first.1, 4), significant(last.1, 4));
            text.push_str(&format!("{key}{}: {from} -> {to}\n", curve.name));
        }
    }
    text
}

fn letter(number: usize) -> char {
    let letters = "abcdefghijklmnopqrstuvwxyz";
    letters.chars().nth(number % 26).unwrap_or('*')
}

struct Grid {
    columns: usize,
    rows: usize,
    letters: bool,
    cells: Vec<u32>,
}

impl Grid {
    fn new(columns: usize, rows: usize, letters: bool) -> Self {
        Self {
            columns,
            rows,
            letters,
            cells: vec![0; columns * rows],
        }
    }

    /// Dots of a cell across and down.
    fn dots(&self) -> (usize, usize) {
        if self.letters { (1, 1) } else { (2, 4) }
    }

    fn line(&mut self, from: (f64, f64), to: (f64, f64), curve: usize) {
        let (across, down) = self.dots();
        let (w, h) = (
            (self.columns * across - 1) as f64,
            (self.rows * down - 1) as f64,
        );
        let steps = ((to.0 - from.0).abs() * w)
            .max((to.1 - from.1).abs() * h)
            .ceil()
            .max(1.0);
        for step in 0..=steps as usize {
            let t = step as f64 / steps;
            let x = ((from.0 + t * (to.0 - from.0)) * w).round() as usize;
            let y = ((1.0 - from.1 - t * (to.1 - from.1)) * h).round() as usize;
            let cell = y / down * self.columns + x / across;
            let Some(cell) = self.cells.get_mut(cell) else {
                continue;
            };
            *cell = match self.letters {
                true => u32::from(letter(curve)),
                false => *cell | DOTS[x % 2][y % 4],
            };
        }
    }

    fn lines(&self) -> Vec<String> {
        let shown = |cell: &u32| match (cell, self.letters) {
            (0, _) => ' ',
            (cell, true) => char::from_u32(*cell).unwrap_or(' '),
            (cell, false) => char::from_u32(0x2800 + cell).unwrap_or(' '),
        };
        let rows = self.cells.chunks(self.columns);
        rows.map(|row| row.iter().map(shown).collect()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(series: &[Series], log: bool) -> Vec<String> {
        let text = chart("t", series, 60, 11, log);
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_falling_line_goes_from_the_upper_left_to_the_lower_right() {
        let points = (1..=100)
            .map(|x| (f64::from(x), f64::from(200 - x)))
            .collect();
        let one = Series {
            name: "run".into(),
            points,
        };
        let lines = lines(&[one], false);
        let first = lines[1]
            .chars()
            .position(|c| ('\u{2801}'..='\u{28ff}').contains(&c));
        let last = lines[11]
            .chars()
            .rev()
            .position(|c| ('\u{2801}'..='\u{28ff}').contains(&c));
        assert_eq!((first, last), (Some(12), Some(0)), "{lines:#?}");
        assert!(lines[11].starts_with("       100"), "{lines:#?}");
        assert!(lines[13].trim_start().starts_with('1') && lines[13].ends_with("100"));
        assert_eq!(lines[14], "run: 199 -> 100");
    }

    #[test]
    fn long_labels_push_all_rows_alike() {
        let points = (0..100)
            .map(|x| (f64::from(x), 5_001_005_000.0 + 1e4 * f64::from(x)))
            .collect();
        let one = Series {
            name: "run".into(),
            points,
        };
        let lines = lines(&[one], false);
        assert!(lines[1].starts_with("5,001,995,000 \u{2502}"), "{lines:#?}");
        let axis = |line: &String| line.chars().position(|c| "\u{2502}\u{2514}".contains(c));
        let axes: Vec<_> = lines[1..13].iter().map(axis).collect();
        assert_eq!(axes, [Some(14); 12], "{lines:#?}");
        assert!(lines.iter().all(|l| l.chars().count() <= 60), "{lines:#?}");
    }

    #[test]
    fn several_curves_have_letters_and_gaps_and_odd_values_are_survived() {
        let series = [
            Series {
                name: "one".into(),
                points: vec![(1.0, 1.0), (2.0, f64::NAN), (3.0, 100.0)],
            },
            Series {
                name: "two".into(),
                points: vec![(1.0, 10.0), (3.0, 10.0)],
            },
        ];
        let text = lines(&series, true).join("\n");
        assert!(
            text.contains('a') && text.contains('b') && text.contains("b two: 10 -> 10"),
            "{text}"
        );
        let middle = text.lines().nth(6).unwrap();
        assert!(middle.contains("bbbb"), "{text}");
        let none = Series {
            name: "none".into(),
            points: vec![(1.0, f64::NAN)],
        };
        assert!(lines(&[none], false)[1].contains("no value"));
        let flat = Series {
            name: "flat".into(),
            points: vec![(5.0, 2.0)],
        };
        assert!(lines(&[flat], false).len() > 10);
    }
}
