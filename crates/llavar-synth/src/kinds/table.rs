//! Tables of numbers with a heading, column heads and row names.

use super::{Content, common_px};
use crate::colour::mix;
use crate::font::Class;
use crate::page::{Align, Page, Space};
use crate::rng::Rng;
use crate::words::{self, Speaker};

#[derive(Debug)]
pub(super) struct Table {
    title: String,
    columns: Vec<String>,
    rows: Vec<(String, Vec<i64>)>,
    /// Cells are amounts of money.
    money: bool,
}

impl Table {
    pub(super) fn sample(rng: &mut Rng, speaker: &Speaker<'_>, space: &Space) -> Self {
        let few = space.few();
        let (n_rows, n_columns) = if few {
            (2, 1)
        } else {
            let columns = ((space.w / (space.px[0] * 9.0)) as usize).clamp(2, 5) - 1;
            (
                2 + rng.below(space.lines(0.55, 3, 9) - 1),
                1 + rng.below(columns),
            )
        };
        let names = match rng.below(2) {
            _ if few => speaker.distinct(&words::GOODS, n_rows, rng),
            0 => speaker.distinct(&words::GOODS, n_rows, rng),
            _ => speaker.distinct(&words::TOWNS, n_rows, rng),
        };
        let start = rng.int(1995, 2024);
        let by_year = rng.chance(0.5);
        // A simple table has no heads: nothing may be in the content that is not printed.
        let columns: Vec<String> = match by_year {
            _ if few => vec![String::new()],
            true => (0..n_columns as i64)
                .map(|i| (start + i).to_string())
                .collect(),
            false => {
                let first = rng.below(7);
                (first..first + n_columns).map(|i| speaker.day(i)).collect()
            }
        };
        let money = !few && rng.chance(0.3);
        let mut rows = Vec::new();
        for name in names {
            let cells = columns
                .iter()
                .map(|_: &String| speaker.number(rng))
                .collect();
            rows.push((name, cells));
        }
        let title = if few {
            String::new()
        } else {
            speaker.word(&words::TOPICS, rng)
        };
        let title = if !few && rng.chance(0.5) {
            format!("{title} {}", speaker.name(&words::TOWNS, rng))
        } else {
            title
        };
        Self {
            title,
            columns,
            rows,
            money,
        }
    }

    fn cell(&self, page: &Page<'_>, value: i64) -> String {
        if self.money {
            page.speaker.money(value * 100)
        } else {
            value.to_string()
        }
    }
}

impl Content for Table {
    fn draw(&self, page: &mut Page<'_>) {
        let (w, h, side) = (page.w(), page.h(), page.side());
        page.sheet([0.0, 0.0, w, h], page.scheme.paper.rgb);
        let head = page.typ(&[Class::Bold, Class::SerifBold]);
        let text = page.typ(&[Class::Sans, Class::Serif, Class::Mono]);
        let margin = side * page.vary(0.06, 0.05, 0.09);
        let width = w - 2.0 * margin;
        let most = page.space.px[1];
        let mut top = margin;
        let mut title = None;
        if !self.title.is_empty() {
            let size = (side * page.vary(0.06, 0.05, 0.07)).min(most);
            let align = if page.maybe(0.5) {
                Align::Left
            } else {
                Align::Centre
            };
            let (id, below) = page.block(
                &head.px(size),
                [margin, top * 0.8, width, h * 0.18],
                align,
                &self.title,
            );
            title = Some(id);
            top = below + margin * 0.3;
        }
        let few = page.space.few();
        let (lines, columns) = (self.rows.len() + usize::from(!few), self.columns.len());
        let pitch = ((h - top - margin) / lines as f32)
            .min(most * 2.4)
            .min(side * if few { 0.35 } else { 0.14 });
        let first = width
            * if few {
                0.66
            } else if columns > 3 {
                0.28
            } else {
                0.4
            };
        let each = (width - first) / columns as f32;
        // One size for the whole table.
        let mut px = most.min(pitch * 0.58);
        for (name, cells) in &self.rows {
            px = px.min(text.fit(name, first - pitch * 0.3).px);
            for &value in cells {
                px = px.min(text.fit(&self.cell(page, value), each * 0.86).px);
            }
        }
        if page.fixed() {
            px = px.min(common_px(
                &text,
                page.speaker.list(&words::GOODS),
                first - pitch * 0.3,
            ));
        }
        // The heads shrink by themselves.
        let heads = self
            .columns
            .iter()
            .fold(px * 1.05, |px, c| px.min(head.fit(c, each * 0.86).px));
        let (ink, paper, accent) = (
            page.scheme.ink.rgb,
            page.scheme.paper.rgb,
            page.scheme.accent,
        );
        let thin = (side * 0.0022).max(1.0);
        let (banded, grid, filled) = (page.maybe(0.4), page.maybe(0.5), page.maybe(0.6));
        let height = pitch * lines as f32;
        let mut head_ids = Vec::new();
        if !few {
            if filled {
                page.canvas.rect(margin, top, width, pitch, accent.rgb);
            }
            let typ = head.px(heads).colour(if filled {
                page.scheme.on_accent
            } else {
                page.scheme.ink
            });
            for (i, column) in self.columns.iter().enumerate() {
                let x = margin + first + each * (i as f32 + 0.93);
                head_ids.push(page.line(
                    &typ,
                    x,
                    top + pitch / 2.0 + px * 0.36,
                    Align::Right,
                    column,
                ));
            }
        }
        for (r, (name, cells)) in self.rows.iter().enumerate() {
            let y = top + pitch * (r + usize::from(!few)) as f32;
            if banded && r % 2 == 0 {
                page.canvas
                    .rect(margin, y, width, pitch, mix(paper, ink, 0.07));
            }
            let base = y + pitch / 2.0 + px * 0.36;
            let label = page.line(&text.px(px), margin + pitch * 0.15, base, Align::Left, name);
            for (c, &value) in cells.iter().enumerate() {
                let shown = self.cell(page, value);
                let x = margin + first + each * (c as f32 + 0.93);
                let id = page.line(&text.px(px), x, base, Align::Right, &shown);
                let subject = if few {
                    name.clone()
                } else {
                    format!("{name} in the column {}", self.columns[c])
                };
                page.fact("cell", &subject, &shown, Some(label), id);
            }
        }
        for i in 0..=lines {
            if grid || i < 2 || i == lines {
                page.canvas.rect(
                    margin,
                    top + pitch * i as f32 - thin / 2.0,
                    width,
                    thin,
                    ink,
                );
            }
        }
        if grid {
            for x in (0..=columns)
                .map(|c| margin + first + each * c as f32)
                .chain([margin])
            {
                page.canvas.rect(x - thin / 2.0, top, thin, height, ink);
            }
        }
        if let Some(id) = title {
            page.fact("table_title", "", &self.title, None, id);
        }
        self.describe(page, grid, filled);
    }
}

impl Table {
    fn describe(&self, page: &mut Page<'_>, grid: bool, filled: bool) {
        let mut rows: Vec<String> = Vec::new();
        for (name, cells) in &self.rows {
            let cells: Vec<String> = cells.iter().map(|&v| self.cell(page, v)).collect();
            rows.push(format!("{name} with {}", cells.join(" and ")));
        }
        if page.space.few() {
            page.say(format!("A table. It lists {}.", rows.join(" and ")));
            return;
        }
        let (paper, accent) = (page.scheme.paper.name, page.scheme.accent.name);
        let lines = if grid {
            "full grid lines"
        } else {
            "horizontal rules only"
        };
        let band = if filled {
            format!("a {accent} band")
        } else {
            "bold letters".to_owned()
        };
        page.say(format!(
            "A table titled \"{}\" at the top of a {paper} page, drawn with {lines}. Its column heads, set in {band}, read \"{}\". \
             The {} rows are named on the left, with numbers aligned on the right.",
            self.title,
            self.columns.join("\", \""),
            self.rows.len()
        ));
        page.caption_extra.insert(
            0,
            format!(
                "The first rows are {}.",
                rows[..rows.len().min(3)].join(", ")
            ),
        );
    }
}
