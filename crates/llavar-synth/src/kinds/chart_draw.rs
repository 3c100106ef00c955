//! Drawing of the charts' axes, bars, lines, sectors and legends.

use super::chart::{Chart, Printed};
use super::common_px;
use crate::colour::{WHITE, luma, mix, series};
use crate::font::Class;
use crate::page::{Align, ItemId, Page, Type};
use crate::words;

impl Chart {
    /// In fixed layouts of simple charts, the size at which every label of the list fits.
    fn common(&self, page: &Page<'_>, typ: &Type<'_>, px: f32, width: f32) -> f32 {
        if page.fixed() && page.space.few() {
            px.min(common_px(typ, page.speaker.list(&words::GOODS), width))
        } else {
            px
        }
    }

    /// The heading; returns its item and the y below it.
    fn heading(&self, page: &mut Page<'_>, margin: f32) -> (Option<ItemId>, f32) {
        if self.title.is_empty() {
            return (None, margin);
        }
        let head = page.typ(&[Class::Bold, Class::SerifBold, Class::Sans]);
        let (w, side) = (page.w(), page.side());
        let size = (side * page.vary(0.06, 0.048, 0.07)).min(page.space.px[1]);
        let align = if page.maybe(0.4) {
            Align::Left
        } else {
            Align::Centre
        };
        let frame = [margin, margin * 0.6, w - 2.0 * margin, side * 0.16];
        let (id, below) = page.block(&head.px(size), frame, align, &self.title);
        (Some(id), below)
    }

    pub(super) fn draw_axes(&self, page: &mut Page<'_>, line: bool) -> Printed {
        let (w, h, side) = (page.w(), page.h(), page.side());
        let margin = side * 0.07;
        let (title, top) = self.heading(page, margin);
        let text = page.typ(&[Class::Sans, Class::Serif]);
        let bold = page.typ(&[Class::Bold, Class::Sans]);
        let n = self.labels.len().max(1);
        let (left, width) = (margin * 1.1, w - 2.2 * margin);
        let slot = width / n as f32;
        let most = page.space.px[1].min(side * if page.space.few() { 0.12 } else { 0.05 });
        // One size for all labels, so that the widest fits its slot.
        let label_px = self
            .labels
            .iter()
            .fold(most, |px, l| px.min(text.fit(l, slot * 0.9).px));
        let label_px = self.common(page, &text, label_px, slot * 0.9);
        let values: Vec<String> = (0..n).map(|i| self.text(i, false)).collect();
        let value_px = values
            .iter()
            .fold(most, |px, v| px.min(bold.fit(v, slot * 0.8).px));
        let base = h - margin * 0.8 - label_px * 1.4;
        // Values stand above their points, inside the plot.
        let ceiling = top + value_px * 2.2;
        let largest = self.values.iter().copied().max().unwrap_or(1).max(1) as f32;
        let y_of = |v: i64| base - (base - ceiling) * v as f32 / largest;
        let (ink, paper) = (page.scheme.ink.rgb, page.scheme.paper.rgb);
        let thin = (side * 0.003).max(1.0);
        let grid = page.maybe(0.5);
        if grid {
            for i in 1..=4 {
                let y = base - (base - ceiling) * i as f32 / 4.0;
                page.canvas
                    .rect(left, y, width, thin * 0.7, mix(paper, ink, 0.16));
            }
        }
        page.canvas.rect(left, base, width, thin, ink);
        if page.maybe(0.6) {
            page.canvas.rect(left, ceiling, thin, base - ceiling, ink);
        }
        let many = !line && page.maybe(0.45);
        let palette = page.speaker.config.palette;
        let colours = series(palette, n, &mut page.rng);
        let accent = if luma(page.scheme.accent.rgb) > 235.0 {
            colours[0]
        } else {
            page.scheme.accent
        };
        let x_of = |i: usize| left + slot * (i as f32 + 0.5);
        if line {
            let points: Vec<[f32; 2]> = self
                .values
                .iter()
                .enumerate()
                .map(|(i, &v)| [x_of(i), y_of(v)])
                .collect();
            page.canvas
                .polyline(&points, (side * 0.008).max(1.5), accent.rgb);
            for p in points {
                page.canvas
                    .circle(p[0], p[1], (side * 0.012).max(2.0), accent.rgb, 1.0);
            }
        }
        let thick = slot * page.vary(0.6, 0.4, 0.75);
        let round = page.maybe(0.3);
        let mut points = Vec::with_capacity(n);
        for (i, (label, value)) in self.labels.iter().zip(&values).enumerate() {
            let (x, y) = (x_of(i), y_of(self.values[i]));
            if !line {
                let rgb = if many { colours[i].rgb } else { accent.rgb };
                if round {
                    page.canvas.round_rect(
                        [x - thick / 2.0, y, thick, base - y],
                        thick.min(base - y) * 0.15,
                        rgb,
                    );
                } else {
                    page.canvas.rect(x - thick / 2.0, y, thick, base - y, rgb);
                }
            }
            let gap = if line { side * 0.018 } else { side * 0.008 } + value_px * 0.15;
            // The value of a low point of a line goes below it, where the line is not.
            let higher = |j: usize| self.values.get(j).is_none_or(|&v| v > self.values[i]);
            let low = line && higher(i + 1) && (i == 0 || higher(i - 1));
            let below = low && y + gap + value_px * 1.2 < base;
            let at = if below {
                y + gap + value_px * 0.75
            } else {
                y - gap
            };
            // A value of a line chart keeps clear of the line on a small cushion of paper.
            if line && !below {
                let half = bold.px(value_px).width(value) / 2.0 + value_px * 0.1;
                let frame = [x - half, at - value_px * 0.85, half * 2.0, value_px];
                page.canvas.round_rect(frame, value_px * 0.2, paper);
            }
            let value_id = page.line(&bold.px(value_px), x, at, Align::Centre, value);
            let y = base + label_px * 1.25;
            let label_id = page.line(&text.px(label_px), x, y, Align::Centre, label);
            points.push((label_id, value_id));
        }
        let colour = if many {
            "different colors"
        } else {
            accent.name
        };
        let looks = match line {
            true => format!(
                "A single line in {colour} joins the marked points, with each value printed beside its point."
            ),
            false => format!(
                "Vertical bars in {colour} rise from the axis at the bottom, with each value printed above its bar."
            ),
        };
        Printed {
            title,
            points,
            looks,
        }
    }

    pub(super) fn draw_pie(&self, page: &mut Page<'_>) -> Printed {
        let (w, h, side) = (page.w(), page.h(), page.side());
        let margin = side * 0.07;
        let (title, top) = self.heading(page, margin);
        let text = page.typ(&[Class::Sans, Class::Serif]);
        let n = self.labels.len().max(1);
        let palette = page.speaker.config.palette;
        let colours = series(palette, n, &mut page.rng);
        // The legend takes the longer direction's room.
        let (room_w, room_h) = (w - 2.0 * margin, h - top - margin);
        let beside = room_w > room_h;
        let radius = if beside {
            (room_h * 0.48).min(room_w * 0.26)
        } else {
            (room_w * 0.46).min(room_h * 0.3)
        };
        let centre = if beside {
            [margin + radius, top + room_h / 2.0]
        } else {
            [w / 2.0, top + radius + room_h * 0.02]
        };
        let hole = page.maybe(0.35);
        let mut from = page.vary(0.0, 0.0, 6.0);
        for (value, colour) in self.values.iter().zip(&colours) {
            let to = from + *value as f32 / 100.0 * std::f32::consts::TAU;
            page.canvas.sector(centre, radius, from, to, colour.rgb);
            for angle in [from, to] {
                let end = [
                    centre[0] + radius * angle.sin(),
                    centre[1] - radius * angle.cos(),
                ];
                page.canvas
                    .line(centre, end, (side * 0.004).max(1.0), page.scheme.paper.rgb);
            }
            from = to;
        }
        if hole {
            page.canvas.circle(
                centre[0],
                centre[1],
                radius * 0.5,
                page.scheme.paper.rgb,
                1.0,
            );
        }
        let (x, y, legend_w, legend_h) = if beside {
            let x = centre[0] + radius + margin * 0.8;
            (x, top + room_h * 0.08, w - margin - x, room_h * 0.84)
        } else {
            let y = centre[1] + radius + room_h * 0.05;
            (w * 0.2, y, w * 0.62, h - margin - y)
        };
        let most = page.space.px[1].min(side * if page.space.few() { 0.12 } else { 0.055 });
        let pitch = (legend_h / n as f32).min(most * 1.9);
        let px = self
            .labels
            .iter()
            .fold(most.min(pitch * 0.72), |px, label| {
                px.min(legend_w / (text.em_width(label) + text.em_width("100%") + 2.2))
            });
        let px = self.common(page, &text, px, legend_w - px * 4.4);
        let y = if beside {
            y + (legend_h - pitch * n as f32) / 2.0
        } else {
            y
        };
        let mut points = Vec::with_capacity(n);
        for (i, label) in self.labels.iter().enumerate() {
            let base = y + pitch * (i as f32 + 0.5) + px * 0.36;
            page.canvas.round_rect(
                [x, base - px * 0.74, px * 0.8, px * 0.8],
                px * 0.12,
                colours[i].rgb,
            );
            if luma(colours[i].rgb) > 225.0 || page.scheme.paper == WHITE {
                page.canvas.frame(
                    [x, base - px * 0.74, px * 0.8, px * 0.8],
                    0.0,
                    1.0,
                    page.scheme.ink.rgb,
                );
            }
            let typ: Type<'_> = text.px(px);
            let name = page.line(&typ, x + px * 1.25, base, Align::Left, label);
            let value = page.line(&typ, x + legend_w, base, Align::Right, &self.text(i, true));
            points.push((name, value));
        }
        let side = if beside { "to the right of" } else { "below" };
        let shape = if hole { "ring" } else { "disc" };
        let looks = format!(
            "A {shape} is cut into {n} colored sectors, and a legend {side} it names each one with its share."
        );
        Printed {
            title,
            points,
            looks,
        }
    }
}
