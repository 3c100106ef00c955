//! A labelled picture as importers see it: facts, and lines of text with their places.

/// A line of text and the upright box around it.
#[derive(Debug, Clone, PartialEq)]
pub struct TextLine {
    /// `[x1, y1, x2, y2]`, px.
    pub bounds: [f64; 4],
    /// What is written.
    pub text: String,
}

impl TextLine {
    pub(super) fn x(&self) -> f64 {
        (self.bounds[0] + self.bounds[2]) / 2.0
    }

    pub(super) fn y(&self) -> f64 {
        (self.bounds[1] + self.bounds[3]) / 2.0
    }

    fn height(&self) -> f64 {
        self.bounds[3] - self.bounds[1]
    }
}

/// Something that may be asked about a picture.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Fact {
    /// The published question.
    pub(super) question: String,
    /// The same in other words.
    pub(super) wordings: Vec<String>,
    /// The label, as it is in the label file.
    pub(super) answer: String,
    /// A whole sentence with the answer in it.
    pub(super) sentence: String,
    /// A question for what in the picture supports the answer, and a sentence that quotes it; where the answer
    /// has a place.
    pub(super) evidence: Option<[String; 2]>,
}

/// A picture with all that its labels say.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Page {
    pub(super) name: String,
    /// Path below the root.
    pub(super) image: String,
    pub(super) facts: Vec<Fact>,
    pub(super) lines: Vec<TextLine>,
}

/// Lines by rows, from top to bottom, and from left to right within a row.
pub(super) fn rows(lines: &[TextLine]) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lines.len()).collect();
    order.sort_by(|&a, &b| lines[a].y().total_cmp(&lines[b].y()));
    let mut rows: Vec<Vec<usize>> = Vec::new();
    for at in order {
        let line = &lines[at];
        let in_row = |row: &Vec<usize>| {
            let last = &lines[row[row.len() - 1]];
            (line.y() - last.y()).abs() < 0.5 * line.height().min(last.height())
        };
        match rows.last_mut().filter(|row| in_row(row)) {
            Some(row) => row.push(at),
            None => rows.push(vec![at]),
        }
    }
    for row in &mut rows {
        row.sort_by(|&a, &b| lines[a].x().total_cmp(&lines[b].x()));
    }
    rows
}

/// All text in reading order, a row a line.
pub(super) fn transcript(lines: &[TextLine]) -> String {
    let rows = rows(lines);
    let texts = rows.iter().map(|row| {
        let texts: Vec<&str> = row.iter().map(|&at| lines[at].text.as_str()).collect();
        texts.join(" ")
    });
    texts.collect::<Vec<_>>().join("\n")
}

/// Neighbours of a line: the next one to the right in its row, and the nearest below it of which at least half
/// lies under it or it lies over at least half of.
pub(super) fn neighbours(lines: &[TextLine], of: usize) -> [Option<usize>; 2] {
    let line = &lines[of];
    let others = || (0..lines.len()).filter(|&at| at != of);
    let same_row = |at: &usize| (lines[*at].y() - line.y()).abs() < 0.5 * line.height();
    let right = others()
        .filter(|at| same_row(at) && lines[*at].bounds[0] >= line.bounds[2] - 0.3 * line.height())
        .min_by(|&a, &b| lines[a].bounds[0].total_cmp(&lines[b].bounds[0]));
    let under = |at: &usize| {
        let other = &lines[*at];
        let shared = other.bounds[2].min(line.bounds[2]) - other.bounds[0].max(line.bounds[0]);
        let narrow = (other.bounds[2] - other.bounds[0]).min(line.bounds[2] - line.bounds[0]);
        let gap = other.y() - line.y();
        shared * 2.0 >= narrow && gap > 0.6 * line.height() && gap < 3.0 * line.height()
    };
    let below = others()
        .filter(under)
        .min_by(|&a, &b| lines[a].y().total_cmp(&lines[b].y()));
    [right, below]
}

/// Where the chosen lines lie within all text, in thirds.
pub(super) fn place(chosen: &[usize], lines: &[TextLine]) -> Option<String> {
    if chosen.is_empty() {
        return None;
    }
    let third = |coordinate: fn(&TextLine) -> f64, names: [&'static str; 3]| {
        let all = lines.iter().map(coordinate);
        let low = all.clone().fold(f64::INFINITY, f64::min);
        let high = all.fold(f64::NEG_INFINITY, f64::max);
        let mean = chosen.iter().map(|&i| coordinate(&lines[i])).sum::<f64>() / chosen.len() as f64;
        let share = if high > low {
            (mean - low) / (high - low)
        } else {
            0.5
        };
        if share < 1.0 / 3.0 {
            names[0]
        } else if share < 2.0 / 3.0 {
            names[1]
        } else {
            names[2]
        }
    };
    let row = third(
        TextLine::y,
        ["at the top", "in the middle", "at the bottom"],
    );
    let column = third(TextLine::x, ["left", "centre", "right"]);
    Some(format!("{row} {column}"))
}

/// The sentence that quotes lines and tells their place on a kind of document.
pub(super) fn evidence(chosen: &[usize], lines: &[TextLine], document: &str) -> Option<String> {
    let quotes: Vec<&str> = chosen.iter().map(|&i| lines[i].text.as_str()).collect();
    let place = place(chosen, lines)?;
    let (noun, verb) = match quotes.len() {
        1 => ("text", "stands"),
        _ => ("lines", "stand"),
    };
    let quoted = quotes.join("\", \"");
    Some(format!(
        "The {noun} \"{quoted}\" {verb} {place} of the {document}."
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(x: f64, y: f64, text: &str) -> TextLine {
        let wide = 10.0 * text.len() as f64;
        TextLine {
            bounds: [x, y, x + wide, y + 20.0],
            text: text.to_owned(),
        }
    }

    fn receipt() -> Vec<TextLine> {
        vec![
            line(300.0, 203.0, "9.00"),
            line(10.0, 0.0, "SHOP"),
            line(10.0, 30.0, "1 ROAD"),
            line(10.0, 200.0, "TOTAL:"),
        ]
    }

    #[test]
    fn rows_are_read_from_left_to_right() {
        assert_eq!(transcript(&receipt()), "SHOP\n1 ROAD\nTOTAL: 9.00");
        assert_eq!(transcript(&[]), "");
    }

    #[test]
    fn neighbours_stand_beside_and_below() {
        let lines = receipt();
        assert_eq!(neighbours(&lines, 1), [None, Some(2)]);
        assert_eq!(neighbours(&lines, 3), [Some(0), None]);
        // Too far below to belong to it.
        assert_eq!(neighbours(&lines, 2), [None, None]);
    }

    #[test]
    fn evidence_quotes_and_places() {
        let lines = receipt();
        let told = evidence(&[0], &lines, "receipt");
        assert_eq!(
            told.as_deref(),
            Some("The text \"9.00\" stands at the bottom right of the receipt.")
        );
        let told = evidence(&[1, 2], &lines, "form").unwrap();
        assert_eq!(
            told,
            "The lines \"SHOP\", \"1 ROAD\" stand at the top left of the form."
        );
        assert_eq!(evidence(&[], &lines, "form"), None);
    }
}
