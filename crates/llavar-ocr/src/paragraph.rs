//! Lines gathered to paragraphs.

use crate::Line;

/// Lines that belong together, in reading order.
#[derive(Debug, Clone, PartialEq)]
pub struct Paragraph {
    /// The upright rectangle around them: `[x1, y1, x2, y2]`, whole px.
    pub bounds: [f64; 4],
    /// Their texts, joined by single spaces.
    pub text: String,
}

/// How far a paragraph reaches beyond its lines, as a multiple of their mean height.
const REACH: [f64; 2] = [1.0, 0.5];
/// Centres within this part of the mean height from the highest count as one row.
const ROW: f64 = 0.4;

/// A line as the rules see it: whole px.
struct Item<'a> {
    text: &'a str,
    /// `[x1, y1, x2, y2]`.
    bounds: [f64; 4],
}

impl Item<'_> {
    fn height(&self) -> f64 {
        self.bounds[3] - self.bounds[1]
    }

    fn centre(&self) -> f64 {
        0.5 * (self.bounds[1] + self.bounds[3])
    }
}

/// Groups lines to paragraphs.
///
/// # Source
/// Spec 9.2 with EasyOCR's `get_paragraph(x_ths=1, y_ths=0.5)`, which cuts coordinates to whole px: a group
/// begins with the first free line and takes, again and again, the first free line of which a side lies
/// within its reach in both directions. Where lines have no height the highest come first (the original
/// fails).
pub fn paragraphs(lines: &[Line]) -> Vec<Paragraph> {
    let items: Vec<Item> = lines
        .iter()
        .map(|line| Item {
            text: &line.text,
            bounds: line.bounds().map(f64::trunc),
        })
        .collect();
    let mut free: Vec<usize> = (0..items.len()).collect();
    let mut found = Vec::new();
    while !free.is_empty() {
        let mut group = vec![free.remove(0)];
        while let Some(next) = next_member(&items, &free, &group) {
            group.push(free.remove(next));
        }
        // Equals are told apart by the order of the lines, not by that of joining.
        group.sort_unstable();
        found.push(Paragraph {
            bounds: union(&items, &group),
            text: reading_order(&items, group).join(" "),
        });
    }
    found
}

fn mean_height(items: &[Item], group: &[usize]) -> f64 {
    group.iter().map(|&at| items[at].height()).sum::<f64>() / group.len() as f64
}

fn union(items: &[Item], group: &[usize]) -> [f64; 4] {
    let mut all = [
        f64::INFINITY,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::NEG_INFINITY,
    ];
    for &at in group {
        let bounds = items[at].bounds;
        for side in 0..2 {
            all[side] = all[side].min(bounds[side]);
            all[side + 2] = all[side + 2].max(bounds[side + 2]);
        }
    }
    all
}

/// The place in `free` of the first line within reach of the group.
fn next_member(items: &[Item], free: &[usize], group: &[usize]) -> Option<usize> {
    let height = mean_height(items, group);
    let all = union(items, group);
    free.iter().position(|&at| {
        (0..2).all(|axis| {
            let reach = REACH[axis] * height;
            let range = all[axis] - reach..=all[axis + 2] + reach;
            let bounds = items[at].bounds;
            range.contains(&bounds[axis]) || range.contains(&bounds[axis + 2])
        })
    })
}

/// Takes the left-most of the highest row (the last of equals), again and again.
fn reading_order<'a>(items: &[Item<'a>], mut group: Vec<usize>) -> Vec<&'a str> {
    let height = mean_height(items, &group);
    let left = |at: usize| items[at].bounds[0];
    let mut texts = Vec::with_capacity(group.len());
    while !group.is_empty() {
        let centres = group.iter().map(|&at| items[at].centre());
        let highest = centres.fold(f64::INFINITY, f64::min);
        let mut best = None;
        for (place, &at) in group.iter().enumerate() {
            let centre = items[at].centre();
            let in_row = centre < highest + ROW * height || centre == highest;
            if in_row && best.is_none_or(|best: usize| left(at) <= left(group[best])) {
                best = Some(place);
            }
        }
        // The highest is always in its own row.
        let Some(best) = best else { break };
        texts.push(items[group.remove(best)].text);
    }
    texts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_columns_are_two_paragraphs() {
        let lines = [
            Line::in_box([0.0, 0.0, 50.0, 10.0], "one", 1.0),
            Line::in_box([200.0, 0.0, 250.0, 10.0], "three", 1.0),
            Line::in_box([0.0, 12.0, 50.0, 22.0], "two", 1.0),
            Line::in_box([200.0, 12.0, 250.0, 22.0], "four", 1.0),
        ];
        let texts: Vec<String> = paragraphs(&lines).into_iter().map(|p| p.text).collect();
        assert_eq!(texts, ["one two", "three four"]);
    }

    #[test]
    fn lines_without_height_are_kept() {
        let flat = Line::in_box([0.0, 5.0, 9.0, 5.0], "flat", 1.0);
        let again = Line::in_box([9.0, 5.0, 20.0, 5.0], "again", 1.0);
        let found = paragraphs(&[flat, again]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].text, "flat again");
        assert_eq!(found[0].bounds, [0.0, 5.0, 20.0, 5.0]);
    }
}
