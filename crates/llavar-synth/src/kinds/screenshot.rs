//! Screenshots of a settings window: title bar, user, rows with sliders, buttons.

use super::Content;
use crate::colour::{Colour, mix, on};
use crate::font::Class;
use crate::page::{Align, Page, Space};
use crate::rng::Rng;
use crate::words::{self, Speaker};

#[derive(Debug)]
pub(super) struct Screenshot {
    app: String,
    user: String,
    version: String,
    settings: Vec<(String, i64)>,
}

impl Screenshot {
    pub(super) fn sample(rng: &mut Rng, speaker: &Speaker<'_>, space: &Space) -> Self {
        let few = space.few();
        let n = if few {
            2
        } else {
            2 + rng.below(space.lines(0.26, 2, 5))
        };
        let mut settings = Vec::new();
        for name in speaker.distinct(&words::SETTINGS, n, rng) {
            settings.push((name, rng.int(1, 20) * 5));
        }
        if few {
            return Self {
                app: String::new(),
                user: String::new(),
                version: String::new(),
                settings,
            };
        }
        let app = speaker.word(&words::APPS, rng);
        let app = if rng.chance(0.6) {
            format!("{} {app}", speaker.name(&words::NOUNS, rng))
        } else {
            app
        };
        let version = format!("{}.{}.{}", rng.int(1, 12), rng.int(0, 9), rng.int(0, 30));
        Self {
            app,
            user: speaker.person(rng),
            version,
            settings,
        }
    }
}

impl Content for Screenshot {
    fn draw(&self, page: &mut Page<'_>) {
        let (w, h, side) = (page.w(), page.h(), page.side());
        let (paper, ink, accent) = (page.scheme.paper, page.scheme.ink, page.scheme.accent);
        let text = page.typ(&[Class::Sans]);
        let bold = page.typ(&[Class::Bold]);
        let most = page.space.px[1];
        page.sheet([0.0, 0.0, w, h], paper.rgb);
        let few = page.space.few();
        let bar_h = if few {
            0.0
        } else {
            side * page.vary(0.085, 0.075, 0.1)
        };
        let mut top = bar_h;
        let pad = side * 0.045;
        let phone = w < h * 0.85;
        if !few {
            let dark = page.maybe(0.5);
            let tone = if dark {
                accent
            } else {
                Colour {
                    name: paper.name,
                    rgb: mix(paper.rgb, ink.rgb, 0.1),
                }
            };
            page.canvas.rect(0.0, 0.0, w, bar_h, tone.rgb);
            let typ = bold
                .px((bar_h * 0.5).min(most))
                .colour(if dark { on(accent) } else { ink });
            let base = bar_h / 2.0 + typ.px * 0.36;
            let lights = [[235, 90, 80], [240, 190, 60], [90, 190, 90]];
            let mut x = pad * 0.7;
            if phone {
                page.canvas.polyline(
                    &[
                        [x + bar_h * 0.2, bar_h * 0.32],
                        [x, bar_h * 0.5],
                        [x + bar_h * 0.2, bar_h * 0.68],
                    ],
                    side * 0.006,
                    typ.rgb,
                );
                x += bar_h * 0.5;
            } else {
                for rgb in lights {
                    page.canvas
                        .circle(x + bar_h * 0.15, bar_h / 2.0, bar_h * 0.15, rgb, 1.0);
                    x += bar_h * 0.42;
                }
                x += bar_h * 0.2;
            }
            let app = page.line(
                &typ.fit(&self.app, w - x - pad),
                x,
                base,
                Align::Left,
                &self.app,
            );
            page.fact("app", "", &self.app, None, app);
            top += self.account(page, top, pad, phone);
        }
        let foot_h = if few { pad } else { side * 0.13 };
        let n = self.settings.len();
        let pitch = ((h - top - foot_h) / n as f32).min(side * if few { 0.5 } else { 0.2 });
        let mut px = most
            .min(pitch * 0.36)
            .min(side * if few { 0.14 } else { 0.05 });
        let inner = w - 2.0 * pad;
        for (name, _) in &self.settings {
            px = px
                .min(text.fit(name, inner * 0.6).px)
                .min(bold.fit("100%", inner * 0.36).px);
        }
        for (i, (name, value)) in self.settings.iter().enumerate() {
            let y = top + pitch * i as f32;
            let base = y + pitch * 0.22 + px * 0.6;
            let shown = format!("{value}%");
            let label = page.line(&text.px(px), pad, base, Align::Left, name);
            let id = page.line(&bold.px(px), w - pad, base, Align::Right, &shown);
            page.fact("setting", name, &shown, Some(label), id);
            let (track, thick) = (y + pitch * 0.74, (pitch * 0.07).max(3.0));
            let share = *value as f32 / 100.0;
            page.canvas.round_rect(
                [pad, track, inner, thick],
                thick / 2.0,
                mix(paper.rgb, ink.rgb, 0.2),
            );
            page.canvas.round_rect(
                [pad, track, (inner * share).max(thick), thick],
                thick / 2.0,
                accent.rgb,
            );
            page.canvas.circle(
                pad + inner * share,
                track + thick / 2.0,
                thick * 1.4,
                accent.rgb,
                1.0,
            );
            if i + 1 < n {
                page.canvas
                    .rect(0.0, y + pitch, w, 1.0, mix(paper.rgb, ink.rgb, 0.12));
            }
        }
        if few {
            let list: Vec<String> = self
                .settings
                .iter()
                .map(|(n, v)| format!("{n} at {v}%"))
                .collect();
            page.say(format!(
                "A screenshot of settings. It shows {}.",
                list.join(" and ")
            ));
            return;
        }
        self.buttons(page, foot_h, pad);
        let list: Vec<String> = self
            .settings
            .iter()
            .map(|(n, v)| format!("\"{n}\" at {v}%"))
            .collect();
        let device = if phone {
            "phone screen"
        } else {
            "desktop window"
        };
        page.say(format!(
            "A screenshot of a {device} titled \"{}\" with a {} background and controls in {}. \
             Below the title bar, the user \"{}\" is signed in, and sliders show {}.",
            self.app,
            paper.name,
            accent.name,
            self.user,
            list.join(", ")
        ));
        page.say_more("Two buttons stand near the bottom right of the window.".to_owned());
        page.say_more(format!(
            "A line near the bottom left gives the version {}.",
            self.version
        ));
    }
}

impl Screenshot {
    /// The signed-in user with a round picture; returns the height used.
    fn account(&self, page: &mut Page<'_>, top: f32, pad: f32, phone: bool) -> f32 {
        let (w, side) = (page.w(), page.side());
        let (paper, ink) = (page.scheme.paper, page.scheme.ink);
        let height = side * if phone { 0.19 } else { 0.15 };
        let text = page.typ(&[Class::Sans]);
        let r = height * 0.3;
        let middle = top + height / 2.0;
        page.canvas
            .rect(0.0, top, w, height, mix(paper.rgb, ink.rgb, 0.05));
        page.canvas.circle(
            pad + r,
            middle,
            r,
            mix(paper.rgb, page.scheme.accent.rgb, 0.6),
            1.0,
        );
        page.canvas
            .circle(pad + r, middle - r * 0.25, r * 0.34, paper.rgb, 1.0);
        page.canvas.sector(
            [pad + r, middle + r * 0.8],
            r * 0.62,
            -1.57,
            1.57,
            paper.rgb,
        );
        let x = pad + r * 2.6;
        let label = page.speaker.label("User");
        let px = (height * 0.24).min(page.space.px[1]);
        let small = page.line(
            &text.px(px * 0.85),
            x,
            middle - px * 0.35,
            Align::Left,
            label,
        );
        let typ = text.px(px * 1.15).fit(&self.user, w - x - pad);
        let user = page.line(&typ, x, middle + px * 1.0, Align::Left, &self.user);
        page.fact("user", "", &self.user, Some(small), user);
        height
    }

    /// The version and two buttons at the foot.
    fn buttons(&self, page: &mut Page<'_>, height: f32, pad: f32) {
        let (w, h, side) = (page.w(), page.h(), page.side());
        let (paper, ink, accent) = (page.scheme.paper, page.scheme.ink, page.scheme.accent);
        let text = page.typ(&[Class::Sans]);
        let px = (side * 0.034)
            .min(page.space.px[1])
            .max(page.space.px[0] * 0.9);
        let base = h - height / 2.0 + px * 0.36;
        let version = format!("{} {}", page.speaker.label("Version"), self.version);
        let typ = text.px(px).fit(&version, w * 0.33);
        let id = page.line(&typ, pad, base, Align::Left, &version);
        page.fact("version", "", &self.version, None, id);
        let mut right = w - pad;
        for (i, name) in ["Save", "Cancel"].into_iter().enumerate() {
            let label = page.speaker.label(name);
            let typ = text.px(px).fit(label, w * 0.2);
            let width = typ.width(label) + px * 1.4;
            let frame = [right - width, h - height / 2.0 - px * 0.9, width, px * 1.8];
            let typ = if i == 0 {
                page.canvas.round_rect(frame, px * 0.3, accent.rgb);
                typ.colour(on(accent))
            } else {
                page.canvas.frame(
                    frame,
                    px * 0.3,
                    (side * 0.002).max(1.0),
                    mix(paper.rgb, ink.rgb, 0.5),
                );
                typ
            };
            page.line(&typ, right - width / 2.0, base, Align::Centre, label);
            right -= width + px * 0.6;
        }
    }
}
