//! Event posters: a large title, ornaments, date, time, venue and price.

use super::{Content, common_px};
use crate::colour::mix;
use crate::font::Class;
use crate::page::{Align, Page, Space};
use crate::rng::Rng;
use crate::words::{self, Speaker};

#[derive(Debug)]
pub(super) struct Poster {
    event: String,
    date: String,
    time: String,
    venue: String,
    price: String,
}

impl Poster {
    pub(super) fn sample(rng: &mut Rng, speaker: &Speaker<'_>, space: &Space) -> Self {
        if space.few() {
            let event = speaker.name(&words::NOUNS, rng);
            let price = speaker.money(speaker.number(rng) * 100);
            let none = String::new;
            return Self {
                event,
                date: none(),
                time: none(),
                venue: none(),
                price,
            };
        }
        let name = speaker.word(&words::EVENTS, rng);
        let event = if rng.chance(0.6) {
            format!("{} {name}", speaker.name(&words::TOWNS, rng))
        } else {
            name
        };
        let price = rng.int(1, speaker.largest().min(120)) * 100;
        let price = if speaker.config.cents && rng.chance(0.4) {
            price - 50
        } else {
            price
        };
        Self {
            event,
            date: speaker.date(rng),
            time: speaker.time(rng),
            venue: speaker.word(&words::VENUES, rng),
            price: speaker.money(price.max(50)),
        }
    }

    fn draw_few(&self, page: &mut Page<'_>) {
        let typ = page.typ(&[Class::Bold]);
        let (w, h, most) = (page.w(), page.h(), page.space.px[1]);
        let (x, inner) = (w * 0.06, w * 0.88);
        page.sheet([0.0, 0.0, w, h], page.scheme.paper.rgb);
        let px = common_px(&typ, page.speaker.list(&words::NOUNS), inner).min(most);
        let event = page.line(
            &typ.px(px).fit(&self.event, inner),
            x,
            h * 0.4,
            Align::Left,
            &self.event,
        );
        page.canvas
            .rect(x, h * 0.5, inner, h * 0.05, page.scheme.accent.rgb);
        let price = page.line(
            &typ.px(most).fit(&self.price, inner),
            x,
            h * 0.85,
            Align::Left,
            &self.price,
        );
        page.fact("event", "", &self.event, None, event);
        page.fact("price", "", &self.price, None, price);
        page.say(format!(
            "A poster for \"{}\". The price is {}.",
            self.event, self.price
        ));
    }

    /// Ornaments behind the text; returns their name.
    fn ornament(page: &mut Page<'_>) -> &'static str {
        let (w, h, side) = (page.w(), page.h(), page.side());
        let (paper, accent) = (page.scheme.paper.rgb, page.scheme.accent.rgb);
        let soft = mix(paper, accent, 0.22);
        match page.rng.below(5) {
            0 => {
                for i in 0..9 {
                    let (x, y) = (page.rng.range(0.0, w), page.rng.range(0.0, h));
                    let r = page.rng.range(0.04, 0.14) * side;
                    page.canvas.circle(
                        x,
                        y,
                        r,
                        if i % 2 == 0 {
                            soft
                        } else {
                            mix(paper, accent, 0.12)
                        },
                        1.0,
                    );
                }
                "scattered pale circles"
            }
            1 => {
                let step = w / 7.0;
                for i in -7..8 {
                    let x = i as f32 * step;
                    let half = step * 0.45;
                    let bar = [
                        [x, 0.0],
                        [x + half, 0.0],
                        [x + half + h * 0.5, h],
                        [x + h * 0.5, h],
                    ];
                    let inside = bar.map(|p| [p[0].clamp(0.0, w), p[1]]);
                    if inside[0][0] < inside[1][0] || inside[2][0] > inside[3][0] {
                        page.canvas.polygon(&inside, mix(paper, accent, 0.1), 1.0);
                    }
                }
                "slanted stripes"
            }
            2 => {
                let r = side * 0.34;
                for i in 0..16 {
                    let a = i as f32 * std::f32::consts::TAU / 16.0;
                    page.canvas.sector(
                        [w * 0.5, h * 0.5],
                        r * 1.3,
                        a,
                        a + 0.19,
                        mix(paper, accent, 0.14),
                    );
                }
                page.canvas
                    .circle(w * 0.5, h * 0.5, r * 0.62, mix(paper, accent, 0.2), 1.0);
                "a pale sun with rays"
            }
            3 => {
                let thick = side * 0.012;
                for i in 0..3 {
                    let m = side * (0.02 + 0.03 * i as f32);
                    page.canvas.frame(
                        [m, m, w - 2.0 * m, h - 2.0 * m],
                        0.0,
                        thick / (i + 1) as f32,
                        accent,
                    );
                }
                "a triple frame"
            }
            _ => {
                page.canvas.polygon(
                    &[[0.0, h * 0.72], [w, h * 0.55], [w, h], [0.0, h]],
                    soft,
                    1.0,
                );
                page.canvas
                    .polygon(&[[0.0, 0.0], [w * 0.35, 0.0], [0.0, h * 0.2]], soft, 1.0);
                "large slanted shapes"
            }
        }
    }
}

impl Content for Poster {
    fn draw(&self, page: &mut Page<'_>) {
        if self.venue.is_empty() {
            return self.draw_few(page);
        }
        let (w, h, side) = (page.w(), page.h(), page.side());
        page.sheet([0.0, 0.0, w, h], page.scheme.paper.rgb);
        let ornament = Self::ornament(page);
        let head = page.typ(&[
            Class::Bold,
            Class::SerifBold,
            Class::Sans,
            Class::Serif,
            Class::Hand,
        ]);
        let text = page.typ(&[Class::Sans, Class::Serif, Class::Bold]);
        let align = if page.maybe(0.35) {
            Align::Left
        } else {
            Align::Centre
        };
        let margin = side * 0.13;
        let inner = w - 2.0 * margin;
        let size = page.vary(0.14, 0.1, 0.17) * side;
        let title_h = h * 0.36;
        let head = if page.maybe(0.5) {
            head.colour(page.scheme.accent)
        } else {
            head
        };
        let most = page.space.px[1];
        let (event, below) = page.block(
            &head.px(size.min(most)),
            [margin, h * 0.11, inner, title_h],
            align,
            &self.event,
        );
        let at = if align == Align::Left {
            margin
        } else {
            w / 2.0
        };
        let size = (side * page.vary(0.06, 0.05, 0.07)).min(most);
        let gap = (h * 0.9 - below - size * 5.6).max(0.0) * page.vary(0.5, 0.2, 0.7);
        let mut y = below + gap + size;
        let fit = |s: &str| text.px(size).fit(s, inner);
        let date = page.line(&fit(&self.date), at, y, align, &self.date);
        y += size * 1.45;
        let time = page.line(&fit(&self.time), at, y, align, &self.time);
        y += size * 1.45;
        let venue = page.line(&fit(&self.venue), at, y, align, &self.venue);
        let label = page.speaker.label("Tickets");
        let line = format!("{label} {}", self.price);
        let px = fit(&line).px;
        y += size * 1.75;
        let price = if page.maybe(0.5) {
            let typ = text.px(px * 0.95).colour(page.scheme.on_accent);
            let width = typ.width(&line);
            let left = if align == Align::Left {
                at
            } else {
                at - width / 2.0
            };
            let frame = [left - px * 0.4, y - px * 1.05, width + px * 0.8, px * 1.5];
            page.canvas
                .round_rect(frame, px * 0.25, page.scheme.accent.rgb);
            page.line(&typ, at, y, align, &line)
        } else {
            page.line(&text.px(px), at, y, align, &line)
        };
        page.fact("event", "", &self.event, None, event);
        page.fact("date", "", &self.date, None, date);
        page.fact("time", "", &self.time, None, time);
        page.fact("venue", "", &self.venue, None, venue);
        page.fact("price", "", &self.price, None, price);
        let (paper, accent) = (page.scheme.paper.name, page.scheme.accent.name);
        page.say(format!(
            "A poster announcing \"{}\" in large letters {}, on a {paper} background with {ornament} in {accent} tones. \
             Below the title, the poster gives the date {}, the time {} and the venue \"{}\".",
            self.event, page.place(event), self.date, self.time, self.venue
        ));
        page.say_more(format!(
            "The line \"{line}\" can be read {}.",
            page.place(price)
        ));
    }
}
