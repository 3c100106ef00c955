//! Rows of text under each other, sized together so that they fill a box and nothing is clipped.

use crate::colour::Colour;
use crate::page::{Align, ItemId, LEADING, Page, Type};

/// One row; sizes are relative to the unit of the column.
pub(crate) enum Row<'f> {
    /// One text.
    Text(Type<'f>, f32, Align, String),
    /// A text at the left edge and one at the right.
    Pair(Type<'f>, f32, String, String),
    /// A text at the left edge and one that starts at a share of the width.
    Entry(Type<'f>, Type<'f>, f32, f32, String, String),
    /// A line across, dashed or full.
    Rule(Colour, bool),
    /// Empty space.
    Gap(f32),
}

/// Rows to be set together.
#[derive(Default)]
pub(crate) struct Column<'f> {
    pub(crate) rows: Vec<Row<'f>>,
}

impl<'f> Column<'f> {
    pub(crate) fn push(&mut self, row: Row<'f>) -> usize {
        self.rows.push(row);
        self.rows.len() - 1
    }

    /// Height of a row in units.
    fn height(row: &Row<'_>) -> f32 {
        match row {
            Row::Text(_, rel, ..) | Row::Pair(_, rel, ..) | Row::Entry(_, _, rel, ..) => {
                rel * LEADING
            }
            Row::Rule(..) => 0.7,
            Row::Gap(rel) => *rel,
        }
    }

    /// Largest em, in px, at which a row is at most `w` px wide.
    fn widest(row: &Row<'_>, w: f32) -> f32 {
        let limit = |em: f32, w: f32| w / em.max(1e-3);
        match row {
            Row::Text(t, _, _, text) => limit(t.em_width(text), w),
            Row::Pair(t, _, left, right) => limit(t.em_width(left) + t.em_width(right) + 1.0, w),
            Row::Entry(l, r, _, at, left, right) => limit(l.em_width(left) + 0.7, w * at)
                .min(limit(r.em_width(right) + 0.4, w * (1.0 - at))),
            _ => f32::MAX,
        }
    }

    fn rel(row: &Row<'_>) -> f32 {
        match row {
            Row::Text(_, rel, ..) | Row::Pair(_, rel, ..) | Row::Entry(_, _, rel, ..) => *rel,
            _ => 0.0,
        }
    }

    /// The unit, in px, at which everything fits into `w` x `h` px; at most `most`. In fixed layouts
    /// it depends on the rows alone and not on their texts, and wide rows shrink by themselves.
    pub(crate) fn unit(&self, w: f32, h: f32, most: f32, fixed: bool) -> f32 {
        let total: f32 = self.rows.iter().map(Self::height).sum();
        let mut unit = most.min(h / total.max(1e-3));
        for row in &self.rows {
            if Self::rel(row) > 0.0 && !fixed {
                // Headings may shrink alone to 60 % before they make everything smaller; rows with
                // two sides keep one size.
                let alone = if matches!(row, Row::Text(..)) {
                    0.6
                } else {
                    1.0
                };
                unit = unit.min(Self::widest(row, w) / Self::rel(row) / alone);
            }
        }
        unit
    }

    /// Height of all rows at a unit.
    pub(crate) fn total(&self, unit: f32) -> f32 {
        self.rows.iter().map(Self::height).sum::<f32>() * unit
    }

    /// Draws from `y` downwards; returns the items of each row.
    pub(crate) fn draw(
        &self,
        page: &mut Page<'_>,
        [x, mut y, w]: [f32; 3],
        unit: f32,
    ) -> Vec<[Option<ItemId>; 2]> {
        let mut items = Vec::with_capacity(self.rows.len());
        for row in &self.rows {
            let px = (Self::rel(row) * unit).min(Self::widest(row, w));
            let height = Self::height(row) * unit;
            // The baseline leaves room for accents above and descenders below.
            let base = y + height / 2.0 + px * 0.36;
            items.push(match row {
                Row::Text(t, _, align, text) => {
                    let at = match align {
                        Align::Left => x,
                        Align::Centre => x + w / 2.0,
                        Align::Right => x + w,
                    };
                    [Some(page.line(&t.px(px), at, base, *align, text)), None]
                }
                Row::Pair(t, _, left, right) => [
                    Some(page.line(&t.px(px), x, base, Align::Left, left)),
                    Some(page.line(&t.px(px), x + w, base, Align::Right, right)),
                ],
                Row::Entry(l, r, _, at, left, right) => [
                    Some(page.line(&l.px(px), x, base, Align::Left, left)),
                    Some(page.line(&r.px(px), x + w * at, base, Align::Left, right)),
                ],
                Row::Rule(colour, dashed) => {
                    let (thick, mid) = ((unit * 0.07).max(1.0), y + height / 2.0);
                    if *dashed {
                        let step = (unit * 0.6).max(6.0);
                        let mut at = x;
                        while at + step * 0.5 <= x + w {
                            page.canvas.rect(at, mid, step * 0.5, thick, colour.rgb);
                            at += step;
                        }
                    } else {
                        page.canvas.rect(x, mid, w, thick, colour.rgb);
                    }
                    [None, None]
                }
                Row::Gap(_) => [None, None],
            });
            y += height;
        }
        items
    }
}
