//! Notes in a handwriting-like face, on ruled, squared or coloured paper.

use super::Content;
use crate::colour::mix;
use crate::font::Class;
use crate::page::{Align, Page, Space};
use crate::rng::Rng;
use crate::words::{self, Speaker};

#[derive(Debug)]
pub(super) struct Note {
    to: String,
    thing: String,
    day: String,
    time: String,
    phone: String,
    from: String,
}

impl Note {
    pub(super) fn sample(rng: &mut Rng, speaker: &Speaker<'_>, space: &Space) -> Self {
        let few = space.few();
        let to = speaker.word(&words::FIRST_NAMES, rng);
        let from = if rng.chance(speaker.config.made_up) {
            words::made_up(rng)
        } else {
            speaker.word(&words::FIRST_NAMES, rng)
        };
        let some = |rng: &mut Rng, p: f32, text: String| {
            if !few && rng.chance(p) {
                text
            } else {
                String::new()
            }
        };
        let (day, time) = (speaker.word(&words::DAYS, rng), speaker.time(rng));
        let phone = speaker.phone(rng);
        let phone = if space.lines(1.0, 1, 12) > 9 {
            some(rng, 0.6, phone)
        } else {
            String::new()
        };
        let meets = !few && rng.chance(0.8);
        Self {
            to,
            thing: speaker.word(&words::GOODS, rng),
            day: if meets { day } else { String::new() },
            time: if meets { time } else { String::new() },
            phone,
            from: some(rng, 1.0, from),
        }
    }
}

impl Content for Note {
    fn draw(&self, page: &mut Page<'_>) {
        let (w, h, side) = (page.w(), page.h(), page.side());
        let mut hand = page.typ(&[Class::Hand]);
        if page.scheme.paper.name == "white" && page.maybe(0.6) {
            hand.rgb = [20, 40, 130];
        }
        page.sheet([0.0, 0.0, w, h], page.scheme.paper.rgb);
        let s = &page.speaker;
        let mut lines: Vec<(&'static str, String)> =
            vec![("addressee", format!("{} {},", s.label("Dear"), self.to))];
        lines.push((
            "shopping",
            format!("{} {}", s.label("please buy"), self.thing),
        ));
        if !self.day.is_empty() {
            lines.push(("day", format!("{} {}", s.label("Meet me on"), self.day)));
            lines.push(("time", self.time.clone()));
        }
        if !self.phone.is_empty() {
            lines.push(("phone", format!("{} {}", s.label("Call"), self.phone)));
        }
        if !self.from.is_empty() {
            lines.push(("sender", self.from.clone()));
        }
        let margin = side * 0.1;
        let inner = w - 2.0 * margin;
        let most = page.space.px[1].min(side * if page.space.few() { 0.2 } else { 0.1 });
        let rows = lines.len() as f32 + 0.6;
        let px = lines
            .iter()
            .fold(most.min((h - 1.4 * margin) / rows / 1.45), |px, (_, l)| {
                px.min(hand.fit(l, inner * 0.96).px)
            });
        // Fixed layouts write every name and thing at the size of the longest.
        let px = if page.fixed() {
            let s = &page.speaker;
            let lead = [
                (s.label("Dear"), s.list(&words::FIRST_NAMES)),
                (s.label("please buy"), s.list(&words::GOODS)),
            ];
            let all = lead
                .iter()
                .flat_map(|(l, list)| list.iter().map(move |word| format!("{l} {word},")));
            all.fold(px, |px, line| {
                px.min(hand.px(most).fit(&line, inner * 0.96).px)
            })
        } else {
            px
        };
        let pitch = (px * 1.7).min((h - 1.4 * margin) / rows).max(px * 1.2);
        let top = margin * 0.8;
        let style = if page.fixed() { 0 } else { page.rng.below(4) };
        let paper = Self::ruling(page, style, [top, pitch]);
        let typ = hand.px(px);
        let mut ids = Vec::new();
        for (i, (field, line)) in lines.iter().enumerate() {
            let last = *field == "sender";
            let y = top + pitch * (i as f32 + 1.0 + if last { 0.4 } else { 0.0 });
            let x = margin + page.vary(0.0, 0.0, inner * 0.03);
            let (x, align) = if last {
                (w - margin, Align::Right)
            } else {
                (x, Align::Left)
            };
            let gold = match *field {
                "addressee" => &self.to,
                "shopping" => &self.thing,
                "day" => &self.day,
                "time" => &self.time,
                "phone" => &self.phone,
                _ => &self.from,
            };
            let id = page.line(&typ, x, y, align, line);
            page.fact(field, "", gold, None, id);
            ids.push(id);
        }
        self.describe(page, paper, &lines);
    }
}

impl Note {
    /// Lines of the paper; returns its description.
    fn ruling(page: &mut Page<'_>, style: usize, [top, pitch]: [f32; 2]) -> &'static str {
        let (w, h, side) = (page.w(), page.h(), page.side());
        let rule = mix(page.scheme.paper.rgb, [70, 110, 180], 0.35);
        let thin = (side * 0.002).max(1.0);
        match style {
            1 => {
                let mut y = top + pitch * 1.12;
                while y < h {
                    page.canvas.rect(0.0, y, w, thin, rule);
                    y += pitch;
                }
                page.canvas.rect(side * 0.075, 0.0, thin, h, [214, 90, 90]);
                "ruled paper with a red margin line"
            }
            2 => {
                let step = pitch / 2.0;
                for i in 0..(h / step) as usize + 1 {
                    page.canvas.rect(0.0, i as f32 * step, w, thin * 0.6, rule);
                }
                for i in 0..(w / step) as usize + 1 {
                    page.canvas.rect(i as f32 * step, 0.0, thin * 0.6, h, rule);
                }
                "squared paper"
            }
            3 => {
                let shade = mix(page.scheme.paper.rgb, [0; 3], 0.1);
                page.canvas.rect(0.0, 0.0, w, top * 0.5, shade);
                page.canvas.polygon(
                    &[[w, h], [w - side * 0.1, h], [w, h - side * 0.1]],
                    shade,
                    1.0,
                );
                "a sticky note with a turned-up corner"
            }
            _ => "plain paper",
        }
    }

    fn describe(&self, page: &mut Page<'_>, paper: &str, lines: &[(&'static str, String)]) {
        if page.space.few() {
            page.say(format!(
                "A note to {}. It says to buy {}.",
                self.to, self.thing
            ));
            return;
        }
        page.say(format!(
            "A handwritten note on {} {paper}. It opens near the top left with \"{}\" and goes on with \"{}\" below.",
            page.scheme.paper.name,
            lines.first().map_or("", |l| &l.1),
            lines.get(1).map_or("", |l| &l.1)
        ));
        let rest: Vec<String> = lines[2..].iter().map(|l| format!("\"{}\"", l.1)).collect();
        if !rest.is_empty() {
            page.caption_extra
                .insert(0, format!("Further lines read {}.", rest.join(", ")));
        }
        page.say_more(
            "The letters are uneven, drawn with a pen of one width, and the lines start at the left margin.".to_owned(),
        );
    }
}
