//! Signs in a simple scene: direction signs with a distance, shop signs with opening hours.

use super::{Content, common_px};
use crate::canvas::Warp;
use crate::colour::mix;
use crate::font::Class;
use crate::page::{Align, Page, Space};
use crate::rng::Rng;
use crate::words::{self, Speaker};

#[derive(Debug)]
pub(super) struct Sign {
    /// Large text and its field.
    head: (&'static str, String),
    /// Smaller text, its field and label.
    foot: (&'static str, &'static str, String),
    phone: String,
}

impl Sign {
    pub(super) fn sample(rng: &mut Rng, speaker: &Speaker<'_>, space: &Space) -> Self {
        if space.few() || rng.chance(0.55) {
            let place = if space.few() || rng.chance(0.5) {
                speaker.word(&words::SIGN_WORDS, rng)
            } else {
                speaker.name(&words::TOWNS, rng).to_uppercase()
            };
            let unit = if space.few() || rng.chance(0.6) {
                "km"
            } else {
                "m"
            };
            let n = if space.few() {
                speaker.number(rng)
            } else {
                rng.int(1, speaker.largest().min(180))
            };
            let far = if unit == "m" {
                format!("{} m", (n % 99 + 1) * 10)
            } else {
                format!("{n} km")
            };
            return Self {
                head: ("destination", place),
                foot: ("distance", "", far),
                phone: String::new(),
            };
        }
        let shop = format!(
            "{} {}",
            speaker.name(&words::SURNAMES, rng),
            speaker.word(&words::SHOP_TYPES, rng)
        );
        let hours = format!(
            "{}:00 - {}:{}0",
            rng.int(6, 10),
            rng.int(15, 22),
            rng.pick(&["0", "3"])
        );
        let phone = if rng.chance(0.5) {
            speaker.phone(rng)
        } else {
            String::new()
        };
        Self {
            head: ("destination", shop),
            foot: ("hours", speaker.label("Open"), hours),
            phone,
        }
    }

    fn draw_few(&self, page: &mut Page<'_>) {
        let typ = page.typ(&[Class::Bold]);
        let (w, h, most) = (page.w(), page.h(), page.space.px[1]);
        let (x, inner) = (w * 0.08, w * 0.84);
        page.sheet([0.0, 0.0, w, h], page.scheme.paper.rgb);
        page.canvas.frame(
            [w * 0.03, h * 0.03, w * 0.94, h * 0.94],
            w * 0.06,
            w * 0.016,
            page.scheme.ink.rgb,
        );
        let px = common_px(&typ, page.speaker.list(&words::SIGN_WORDS), inner).min(most);
        let place = page.line(&typ.px(px), x, h * 0.36, Align::Left, &self.head.1);
        let far = page.line(
            &typ.px(most).fit(&self.foot.2, inner),
            x,
            h * 0.78,
            Align::Left,
            &self.foot.2,
        );
        page.fact("destination", "", &self.head.1, None, place);
        page.fact("distance", "", &self.foot.2, None, far);
        page.say(format!(
            "A sign. It says \"{}\" and {}.",
            self.head.1, self.foot.2
        ));
    }

    /// Sky and ground, or a wall; returns its description. Drawn without the warp of the plate.
    fn scene(page: &mut Page<'_>) -> &'static str {
        let (w, h) = (page.w(), page.h());
        let surface = page.scheme.surface.rgb;
        if page.maybe(0.55) {
            let sky = *page.rng.pick(&[
                [150, 196, 235],
                [208, 222, 232],
                [240, 196, 150],
                [96, 130, 176],
            ]);
            page.canvas.gradient(sky, mix(sky, [255; 3], 0.5));
            let ground = *page
                .rng
                .pick(&[[96, 128, 70], [150, 140, 110], [110, 112, 116]]);
            let horizon = h * page.rng.range(0.72, 0.85);
            let far = mix(ground, sky, 0.45);
            let hill = [
                [0.0, horizon],
                [w * 0.3, horizon - h * 0.08],
                [w * 0.6, horizon],
                [w, horizon],
            ];
            page.canvas.polygon(&hill, far, 1.0);
            page.canvas.rect(0.0, horizon, w, h - horizon, ground);
            let pole = w * 0.03;
            for x in [0.3, 0.7] {
                page.canvas
                    .rect(w * x - pole / 2.0, h * 0.3, pole, h * 0.6, [120, 122, 126]);
            }
            return "two posts before an open sky and a strip of ground";
        }
        let brick_h = h / 16.0;
        page.canvas.gradient(mix(surface, [255; 3], 0.12), surface);
        if page.maybe(0.6) {
            let joint = mix(surface, [235; 3], 0.45);
            for r in 0..=16 {
                let y = r as f32 * brick_h;
                page.canvas.rect(0.0, y, w, 2.0, joint);
                let shift = if r % 2 == 0 { 0.0 } else { brick_h };
                let mut x = shift;
                while x < w {
                    page.canvas.rect(x, y, 2.0, brick_h, joint);
                    x += brick_h * 2.0;
                }
            }
            return "a brick wall";
        }
        "a plain wall"
    }
}

impl Content for Sign {
    fn draw(&self, page: &mut Page<'_>) {
        if page.space.few() {
            return self.draw_few(page);
        }
        let warp = std::mem::replace(&mut page.canvas.warp, Warp::IDENTITY);
        let scene = Self::scene(page);
        page.canvas.warp = warp;
        let (w, h, side) = (page.w(), page.h(), page.side());
        let head = page.typ(&[Class::Bold, Class::Sans, Class::SerifBold]);
        let text = page.typ(&[Class::Bold, Class::Sans]);
        let most = page.space.px[1];
        let plate_w = w * page.vary(0.86, 0.74, 0.92);
        let plate_h = (h * page.vary(0.6, 0.42, 0.62)).min(plate_w * 0.9);
        let (x, y) = ((w - plate_w) / 2.0, h * page.vary(0.12, 0.08, 0.16));
        let (paper, ink) = (page.scheme.paper, page.scheme.ink);
        let radius = plate_h * page.vary(0.08, 0.01, 0.14);
        let d = side * 0.008;
        page.canvas
            .round_rect([x + d, y + d, plate_w, plate_h], radius, [40, 40, 42]);
        page.canvas
            .round_rect([x, y, plate_w, plate_h], radius, paper.rgb);
        let edge = side * 0.012;
        let framed = page.maybe(0.7);
        if framed {
            let frame = [
                x + edge,
                y + edge,
                plate_w - 2.0 * edge,
                plate_h - 2.0 * edge,
            ];
            page.canvas
                .frame(frame, radius * 0.8, (side * 0.007).max(1.5), ink.rgb);
        }
        let pad = plate_w * 0.08;
        let inner = plate_w - 2.0 * pad;
        let arrow = self.foot.0 == "distance" && page.maybe(0.7);
        let room = if arrow { inner * 0.72 } else { inner };
        let (id, below) = page.block(
            &head.px((plate_h * 0.3).min(most)),
            [x + pad, y + plate_h * 0.09, inner, plate_h * 0.48],
            if arrow { Align::Left } else { Align::Centre },
            &self.head.1,
        );
        let phone_h = if self.phone.is_empty() {
            0.0
        } else {
            plate_h * 0.16
        };
        let size = ((y + plate_h - phone_h - below) * 0.5)
            .min(most)
            .min(plate_h * 0.24);
        let foot = if self.foot.1.is_empty() {
            self.foot.2.clone()
        } else {
            format!("{} {}", self.foot.1, self.foot.2)
        };
        let typ = text.px(size).fit(&foot, room);
        let base = below + (y + plate_h * 0.93 - phone_h - below) / 2.0 + typ.px * 0.36;
        let (at, align) = if arrow {
            (x + pad, Align::Left)
        } else {
            (w / 2.0, Align::Centre)
        };
        let foot_id = page.line(&typ, at, base, align, &foot);
        if arrow {
            let (r, cy) = (typ.px * 0.42, base - typ.px * 0.36);
            let (from, to) = (x + plate_w - pad - inner * 0.2, x + plate_w - pad);
            page.canvas.line([from, cy], [to, cy], r * 0.4, ink.rgb);
            page.canvas.polyline(
                &[[to - r, cy - r], [to, cy], [to - r, cy + r]],
                r * 0.4,
                ink.rgb,
            );
        }
        page.fact(self.head.0, "", &self.head.1, None, id);
        page.fact(self.foot.0, "", &self.foot.2, None, foot_id);
        if !self.phone.is_empty() {
            let line = format!("Tel. {}", self.phone);
            let typ = text.px((plate_h * 0.1).min(most)).fit(&line, inner);
            let phone = page.line(&typ, w / 2.0, y + plate_h * 0.86, Align::Centre, &line);
            page.fact("phone", "", &self.phone, None, phone);
            page.say_more(format!(
                "The last line \"{line}\" gives a phone number {}.",
                page.place(phone)
            ));
        }
        let shape = if framed {
            "a frame line along its edge"
        } else {
            "no frame"
        };
        page.say(format!(
            "A {} sign with {} letters stands before {scene}. The large text \"{}\" is printed {}, and the line \"{foot}\" follows {}. \
             The plate has rounded corners and {shape}.",
            paper.name, ink.name, self.head.1, page.place(id), page.place(foot_id)
        ));
        if arrow {
            page.say_more("An arrow beside the second line points to the right.".to_owned());
        }
    }
}
