//! A dense form: many labels with values beside or below them, in one to three columns, as typed
//! office forms have them.

use super::Content;
use crate::font::Class;
use crate::page::{Align, Page, Space, Type};
use crate::rng::Rng;
use crate::texts::figure;
use crate::words::Speaker;

#[derive(Debug)]
pub(super) struct Entries {
    title: String,
    /// Label and value.
    entries: Vec<(String, String)>,
    columns: usize,
    /// Values stand below their labels.
    below: bool,
}

impl Entries {
    pub(super) fn sample(rng: &mut Rng, speaker: &Speaker<'_>, space: &Space) -> Self {
        let texts = &speaker.config.texts;
        let below = rng.chance(0.25);
        let columns = if space.few() { 1 } else { 1 + rng.below(3) };
        let rows = space.lines(if below { 0.35 } else { 0.7 }, 2, 18);
        let mut entries: Vec<(String, String)> = Vec::new();
        for _ in 0..(1 + rng.below(rows)) * columns {
            let mut label = texts.heading(1, 3, rng);
            if rng.chance(0.65) {
                label = format!("{}:", label.trim_end_matches([':', '.', ',']));
            }
            let value = match rng.below(8) {
                0 => speaker.person(rng),
                1 => speaker.date(rng),
                2 | 3 => figure(rng),
                4 => texts.heading(1, 4, rng),
                5 => format!("{} {}", texts.phrase(1, 2, rng), figure(rng)),
                _ => texts.phrase(1, 6, rng),
            };
            // A label that occurs twice could not be asked for.
            if !entries.iter().any(|(l, _)| *l == label) && label.len() < 40 && !value.is_empty() {
                entries.push((label, value));
            }
        }
        if entries.is_empty() {
            entries.push((speaker.label("Name").to_owned(), speaker.person(rng)));
        }
        Self {
            title: texts.heading(1, 4, rng),
            entries,
            columns,
            below,
        }
    }

    /// Size at which label and value fit a cell of `w` px.
    fn size(&self, label: &Type<'_>, value: &Type<'_>, w: f32, split: f32) -> f32 {
        let limit = |em: f32, w: f32| w / em.max(1e-3);
        self.entries.iter().fold(f32::MAX, |px, (l, v)| {
            let (le, ve) = (label.em_width(l) + 0.6, value.em_width(v) + 0.6);
            px.min(if self.below {
                limit(le.max(ve), w)
            } else if split > 0.0 {
                limit(le, w * split).min(limit(ve, w * (1.0 - split)))
            } else {
                limit(le + ve, w)
            })
        })
    }
}

impl Content for Entries {
    fn draw(&self, page: &mut Page<'_>) {
        let (w, h, side) = (page.w(), page.h(), page.side());
        let label = page.typ(&[Class::Sans, Class::Serif, Class::Mono, Class::Bold]);
        let value = page.typ(&[
            Class::Mono,
            Class::Sans,
            Class::Serif,
            Class::Hand,
            Class::Mono,
        ]);
        let head = page.typ(&[Class::Bold, Class::SerifBold]);
        page.sheet([0.0, 0.0, w, h], page.scheme.paper.rgb);
        let margin = w * page.vary(0.05, 0.03, 0.09);
        let [low, high] = page.space.px;
        let inner = w - 2.0 * margin;
        // Values in one line under each other, or each right behind its label.
        let split = if page.maybe(0.5) {
            0.0
        } else {
            page.vary(0.42, 0.32, 0.52)
        };
        // As many columns as let the smallest letters be read, and as many rows as fit then.
        let size = |columns: usize| self.size(&label, &value, inner / columns as f32 * 0.97, split);
        let columns = (1..=self.columns)
            .rev()
            .find(|&c| size(c) >= low)
            .unwrap_or(1);
        let cell = inner / columns as f32;
        let each = if self.below { 2.9 } else { 1.45 };
        let most = ((h * 0.78 / (low * each)) as usize).max(1) * columns;
        let entries = &self.entries[..self.entries.len().min(most)];
        let rows = entries.len().div_ceil(columns) as f32;
        let wish = low * (high.min(side * 0.05).max(low) / low).powf(page.vary(0.5, 0.0, 1.0));
        let px = wish.min(size(columns)).min(h * 0.78 / rows / each);
        let mut y = h * page.vary(0.05, 0.03, 0.08);
        let title_px = (px * page.vary(1.5, 1.1, 2.2)).min(h * 0.1);
        let typ = head.px(title_px).fit(&self.title, inner);
        y += typ.px;
        let title = page.line(&typ, w / 2.0, y, Align::Centre, &self.title);
        y += typ.px * 0.8;
        let least = px * if self.below { 2.6 } else { 1.35 };
        let pitch = ((h * 0.97 - y) / rows).min(least * page.vary(1.3, 1.0, 2.2));
        let rule = (side * 0.0015).max(1.0);
        let (boxed, lined) = (page.maybe(0.25), page.maybe(0.4));
        for (i, (name, text)) in entries.iter().enumerate() {
            let x = margin + cell * (i % columns) as f32;
            let top = y + pitch * (i / columns) as f32;
            let base = top + px * 1.05;
            let ink = page.scheme.ink.rgb;
            if boxed {
                let frame = [x - px * 0.2, top, cell - px * 0.1, pitch * 0.96];
                page.canvas.frame(frame, 0.0, rule, ink);
            }
            let named = page.line(&label.px(px), x, base, Align::Left, name);
            let (vx, vy) = if self.below {
                (x + px * 0.3, base + px * 1.3)
            } else if split > 0.0 {
                (x + cell * split, base)
            } else {
                (x + label.px(px).width(name) + px * 0.5, base)
            };
            if lined {
                let end = x + cell - px * 0.5;
                page.canvas
                    .rect(vx, vy + px * 0.22, (end - vx).max(1.0), rule, ink);
            }
            let id = page.line(&value.px(px), vx, vy, Align::Left, text);
            page.fact("entry", name, text, Some(named), id);
        }
        page.fact("form_title", "", &self.title, None, title);
        page.say(format!(
            "A filled-in form on {} paper, headed \"{}\". Its first entry is \"{}\" with the value \"{}\".",
            page.scheme.paper.name, self.title, self.entries[0].0, self.entries[0].1
        ));
    }
}
