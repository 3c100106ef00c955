//! Filled-in forms: printed labels, values typed or written by hand.

use super::{Content, article, common_px};
use crate::column::{Column, Row};
use crate::font::Class;
use crate::page::{Align, Page, Space};
use crate::rng::Rng;
use crate::words::{self, Speaker, capital};

#[derive(Debug)]
pub(super) struct Form {
    title: &'static str,
    /// Field, printed label, value.
    entries: Vec<(&'static str, &'static str, String)>,
}

impl Form {
    pub(super) fn sample(rng: &mut Rng, speaker: &Speaker<'_>, space: &Space) -> Self {
        let title = *rng.pick(&[
            "Registration Form",
            "Membership Form",
            "Patient Record",
            "Order Form",
        ]);
        if space.few() {
            let name = speaker.name(&words::SURNAMES, rng);
            let city = speaker.word(&words::TOWNS, rng);
            let (a, b) = (speaker.label("Name"), speaker.label("City"));
            return Self {
                title: "",
                entries: vec![("name", a, name), ("city", b, city)],
            };
        }
        let mut entries = vec![
            ("name", "Name", speaker.person(rng)),
            ("birth_date", "Date of birth", speaker.date(rng)),
            (
                "address",
                "Address",
                format!("{} {}", rng.int(1, 180), speaker.word(&words::STREETS, rng)),
            ),
            ("city", "City", speaker.name(&words::TOWNS, rng)),
            ("phone", "Phone", speaker.phone(rng)),
            ("occupation", "Occupation", speaker.word(&words::JOBS, rng)),
            (
                "reference",
                "Reference",
                format!(
                    "{}{}-{}",
                    rng.pick(&["A", "B", "K", "R"]),
                    rng.int(10, 99),
                    rng.int(1000, 9999)
                ),
            ),
        ];
        let most = space.lines(0.45, 3, 7);
        if !speaker.is_fixed() {
            // The name stays first; the rest comes in any order.
            rng.shuffle(&mut entries[1..]);
        }
        entries.truncate(3 + rng.below(most - 2));
        for entry in &mut entries {
            entry.1 = speaker.label(entry.1);
        }
        Self {
            title: speaker.label(title),
            entries,
        }
    }
}

impl Content for Form {
    fn draw(&self, page: &mut Page<'_>) {
        let (w, h, side) = (page.w(), page.h(), page.side());
        let label = page.typ(&[Class::Sans, Class::Serif]);
        let head = page.typ(&[Class::Bold, Class::SerifBold]);
        let mut value = page.typ(&[Class::Hand, Class::Mono, Class::Hand, Class::Bold]);
        let by_hand = value.face.is_stroked();
        if by_hand && page.scheme.paper.name == "white" && page.maybe(0.7) {
            value.rgb = [24, 44, 128];
        }
        page.sheet([0.0, 0.0, w, h], page.scheme.paper.rgb);
        let margin = page.vary(0.06, 0.05, 0.1) * side;
        let mut top = margin;
        let mut title = None;
        if !self.title.is_empty() {
            let band = page.maybe(0.5);
            let height = h * page.vary(0.1, 0.09, 0.13);
            let typ = head.px(height * 0.55).fit(self.title, w - 2.5 * margin);
            let typ = if band {
                typ.colour(page.scheme.on_accent)
            } else {
                typ
            };
            if band {
                page.canvas
                    .rect(0.0, 0.0, w, height + margin * 0.5, page.scheme.accent.rgb);
                top = margin * 0.25;
            }
            let align = if page.maybe(0.5) {
                Align::Centre
            } else {
                Align::Left
            };
            let x = if align == Align::Centre {
                w / 2.0
            } else {
                margin
            };
            title = Some(page.line(
                &typ,
                x,
                top + height * 0.5 + typ.px * 0.36,
                align,
                self.title,
            ));
            top += height + margin * 0.7;
            if !band {
                page.canvas.rect(
                    margin,
                    top - margin * 0.5,
                    w - 2.0 * margin,
                    side * 0.005,
                    page.scheme.accent.rgb,
                );
            }
        }
        let mut column = Column::default();
        let split = page.vary(0.38, 0.3, 0.42);
        let colon = if page.maybe(0.6) { ":" } else { "" };
        for (_, name, text) in &self.entries {
            let row = Row::Entry(
                label,
                value,
                1.0,
                split,
                format!("{name}{colon}"),
                text.clone(),
            );
            column.push(row);
            column.push(Row::Gap(0.7));
        }
        let (room, inner) = (h - top - margin, w - 2.0 * margin);
        let most = page.space.px[1].min(side * if self.title.is_empty() { 0.2 } else { 0.06 });
        let unit = column.unit(inner, room, most, page.fixed());
        let unit = if page.fixed() && self.title.is_empty() {
            let lists = [&words::SURNAMES, &words::TOWNS];
            let all: Vec<&str> = lists
                .iter()
                .flat_map(|l| page.speaker.list(l))
                .copied()
                .collect();
            let names = self
                .entries
                .iter()
                .map(|e| label.em_width(e.1) + 0.7)
                .fold(1.0, f32::max);
            unit.min(common_px(&value, &all, inner * (1.0 - split) * 0.96))
                .min(inner * split / names)
        } else {
            unit
        };
        // Spread the entries over the page, but not too thinly.
        let stretch = (room / column.total(unit))
            .min(page.vary(2.0, 1.3, 2.8))
            .max(1.0);
        for row in &mut column.rows {
            if let Row::Gap(gap) = row {
                let each = (stretch - 1.0) * (1.32 + 0.7);
                *gap += each;
            }
        }
        let boxes = page.maybe(0.4);
        let pitch = unit * 2.02 * stretch;
        for i in 0..self.entries.len() {
            let y = top + pitch * i as f32 + unit * 1.32;
            let x = margin + inner * split - unit * 0.2;
            let width = inner * (1.0 - split) + unit * 0.2;
            let line = page.scheme.ink.rgb;
            if boxes {
                page.canvas.frame(
                    [x, y - unit * 1.36, width, unit * 1.5],
                    0.0,
                    (side * 0.0018).max(1.0),
                    line,
                );
            } else {
                page.canvas
                    .rect(x, y + unit * 0.08, width, (side * 0.0018).max(1.0), line);
            }
        }
        let rows = column.draw(page, [margin, top, inner], unit);
        for (i, (field, _, text)) in self.entries.iter().enumerate() {
            if let Some([name, Some(id)]) = rows.get(2 * i).copied() {
                page.fact(field, "", text, name, id);
            }
        }
        if let Some(id) = title {
            page.fact("form_title", "", self.title, None, id);
        }
        self.describe(page, by_hand, boxes);
    }
}

impl Form {
    fn describe(&self, page: &mut Page<'_>, by_hand: bool, boxes: bool) {
        let list: Vec<String> = self
            .entries
            .iter()
            .map(|(_, name, text)| format!("\"{name}\" with \"{text}\""))
            .collect();
        if page.space.few() {
            page.say(format!("A form. It gives {}.", list.join(" and ")));
            return;
        }
        let (paper, accent) = (page.scheme.paper.name, page.scheme.accent.name);
        let hand = if by_hand {
            "by hand"
        } else {
            "with typed text"
        };
        let kind = article(paper).to_owned();
        page.say(format!(
            "{kind} {paper} form headed \"{}\" at the top, filled in {hand} and decorated in {accent}. \
             Printed labels stand on the left and the values on the right, each {}.",
            self.title,
            if boxes { "in its own box" } else { "above a thin line" }
        ));
        let (first, rest) = list.split_at(list.len().min(3));
        page.caption_extra
            .insert(0, format!("The entries read {}.", first.join(", ")));
        if !rest.is_empty() {
            page.say_more(capital(&format!(
                "further down there are {}.",
                rest.join(", ")
            )));
        }
    }
}
