//! Book covers: title, author, publisher and simple artwork.

use super::{Content, common_px};
use crate::colour::mix;
use crate::font::Class;
use crate::page::{Align, Page, Space};
use crate::rng::Rng;
use crate::words::{self, Speaker};

#[derive(Debug)]
pub(super) struct BookCover {
    title: Vec<String>,
    author: String,
    publisher: String,
    year: String,
}

impl BookCover {
    pub(super) fn sample(rng: &mut Rng, speaker: &Speaker<'_>, space: &Space) -> Self {
        let (noun, adjective) = (
            speaker.word(&words::NOUNS, rng),
            speaker.word(&words::ADJECTIVES, rng),
        );
        if space.few() {
            let author = speaker.name(&words::SURNAMES, rng);
            return Self {
                title: vec![adjective, noun],
                author,
                publisher: String::new(),
                year: String::new(),
            };
        }
        let english = speaker.language == crate::config::Language::En;
        let title = match rng.below(4) {
            0 if english => vec![format!("The {adjective} {noun}")],
            1 if english => vec![format!("{noun} of {}", speaker.name(&words::TOWNS, rng))],
            2 if english => vec![format!("A {noun} in {}", speaker.name(&words::TOWNS, rng))],
            3 if speaker.config.made_up > 0.0 => vec![format!("{noun} {}", words::made_up(rng))],
            _ => vec![format!("{adjective} {noun}")],
        };
        let author = speaker.person(rng);
        let year = if rng.chance(0.4) {
            rng.int(1950, 2029).to_string()
        } else {
            String::new()
        };
        Self {
            title,
            author,
            publisher: speaker.word(&words::PUBLISHERS, rng),
            year,
        }
    }

    fn draw_few(&self, page: &mut Page<'_>) {
        let typ = page.typ(&[Class::Bold]);
        let (w, h, most) = (page.w(), page.h(), page.space.px[1]);
        let (x, inner) = (w * 0.06, w * 0.88);
        page.sheet([0.0, 0.0, w, h], page.scheme.paper.rgb);
        let words = page
            .speaker
            .list(&words::NOUNS)
            .iter()
            .chain(page.speaker.list(&words::ADJECTIVES));
        let px = common_px(&typ, &words.copied().collect::<Vec<_>>(), inner).min(most);
        // One item, so that the title is one text; lines at fixed places.
        let title = page.lines(&typ.px(px), x, h * 0.24, Align::Left, &self.title);
        page.canvas
            .rect(x, h * 0.6, inner, h * 0.012, page.scheme.ink.rgb);
        let px = common_px(&typ, page.speaker.list(&words::SURNAMES), inner).min(most);
        let author = page.line(
            &typ.px(px).fit(&self.author, inner),
            x,
            h * 0.84,
            Align::Left,
            &self.author,
        );
        let whole = self.title.join(" ");
        page.fact("title", "", &whole, None, title);
        page.fact("author", "", &self.author, None, author);
        page.say(format!(
            "A book cover. The title is \"{whole}\" and the author is {}.",
            self.author
        ));
    }

    /// Artwork in a band of the cover; returns its description.
    fn artwork(page: &mut Page<'_>, top: f32, bottom: f32) -> &'static str {
        let (w, side) = (page.w(), page.side());
        let (paper, accent) = (page.scheme.paper.rgb, page.scheme.accent.rgb);
        let height = bottom - top;
        match page.rng.below(4) {
            0 => {
                let x = page.rng.range(0.25, 0.75) * w;
                let sun = top + height * 0.4;
                page.canvas.circle(
                    x,
                    sun,
                    (height * 0.3).min(w * 0.2),
                    mix(paper, accent, 0.75),
                    1.0,
                );
                for i in 0..3 {
                    let base = top + height * (0.55 + 0.15 * i as f32);
                    let mut hill = vec![[0.0, bottom]];
                    let phase = page.rng.range(0.0, 6.0);
                    for j in 0..=24 {
                        let t = j as f32 / 24.0;
                        let wave = (t * 7.0 + phase).sin() * height * 0.1;
                        hill.push([t * w, (base + wave).min(bottom)]);
                    }
                    hill.push([w, bottom]);
                    page.canvas
                        .polygon(&hill, mix(accent, [20; 3], 0.25 + 0.25 * i as f32), 1.0);
                }
                "hills under a round sun"
            }
            1 => {
                let n = 4 + page.rng.below(4);
                for i in 0..n {
                    let r = height * 0.48 * (n - i) as f32 / n as f32;
                    let rgb = mix(paper, accent, if i % 2 == 0 { 0.85 } else { 0.25 });
                    page.canvas
                        .circle(w * 0.5, (top + bottom) / 2.0, r.min(w * 0.45), rgb, 1.0);
                }
                "rings inside one another"
            }
            2 => {
                let n = 6 + page.rng.below(5);
                let step = w * 0.84 / n as f32;
                for i in 0..n {
                    let tall = height * page.rng.range(0.3, 0.95);
                    let x = w * 0.08 + i as f32 * step;
                    page.canvas.rect(
                        x,
                        bottom - tall,
                        step * 0.82,
                        tall,
                        mix(paper, accent, page_tone(i)),
                    );
                }
                "a row of towers"
            }
            _ => {
                let x = [w * 0.2, w * 0.5, w * 0.8];
                for (i, &cx) in x.iter().enumerate() {
                    let r = (height * 0.36).min(w * 0.13);
                    let y = (top + bottom) / 2.0 + if i == 1 { -r * 0.3 } else { r * 0.3 };
                    let rgb = mix(paper, accent, 0.5 + 0.2 * i as f32);
                    page.canvas.polygon(
                        &[[cx, y - r], [cx + r, y], [cx, y + r], [cx - r, y]],
                        rgb,
                        1.0,
                    );
                }
                page.canvas.rect(
                    w * 0.08,
                    bottom - side * 0.006,
                    w * 0.84,
                    side * 0.006,
                    accent,
                );
                "three diamonds over a line"
            }
        }
    }
}

/// Alternating tones of a row of shapes.
fn page_tone(i: usize) -> f32 {
    [0.55, 0.9, 0.7][i % 3]
}

impl Content for BookCover {
    fn draw(&self, page: &mut Page<'_>) {
        if self.publisher.is_empty() {
            return self.draw_few(page);
        }
        let (w, h, side) = (page.w(), page.h(), page.side());
        page.sheet([0.0, 0.0, w, h], page.scheme.paper.rgb);
        let head = page.typ(&[Class::Bold, Class::SerifBold, Class::Serif, Class::Sans]);
        let text = page.typ(&[Class::Sans, Class::Serif, Class::Serif]);
        let small = page.typ(&[Class::Sans, Class::Serif]);
        let (margin, most) = (side * 0.08, page.space.px[1]);
        let inner = w - 2.0 * margin;
        let align = if page.maybe(0.3) {
            Align::Left
        } else {
            Align::Centre
        };
        let at = if align == Align::Left {
            margin
        } else {
            w / 2.0
        };
        let whole = self.title.join(" ");
        let title_size = (side * page.vary(0.12, 0.09, 0.14)).min(most);
        let author_size = (side * page.vary(0.06, 0.05, 0.065)).min(most);
        let author_first = page.maybe(0.4);
        let author_typ = text.px(author_size).fit(&self.author, inner);
        let head = if page.maybe(0.4) {
            head.colour(page.scheme.accent)
        } else {
            head
        };
        let head = head.px(title_size);
        let (title, author, art_top);
        if author_first {
            author = page.line(&author_typ, at, h * 0.07 + author_size, align, &self.author);
            let (id, below) = page.block(
                &head,
                [margin, h * 0.11 + author_size, inner, h * 0.3],
                align,
                &whole,
            );
            (title, art_top) = (id, below + h * 0.03);
        } else {
            let (id, below) = page.block(&head, [margin, h * 0.06, inner, h * 0.3], align, &whole);
            author = page.line(
                &author_typ,
                at,
                below + author_size * 1.3,
                align,
                &self.author,
            );
            (title, art_top) = (id, below + author_size * 1.8 + h * 0.03);
        }
        let art = Self::artwork(page, art_top, h * 0.84);
        let foot = small
            .px((side * 0.036).min(most).max(page.space.px[0]))
            .fit(&self.publisher, inner * 0.7);
        let base = h * 0.93;
        let publisher = page.line(&foot, margin, base, Align::Left, &self.publisher);
        if !self.year.is_empty() {
            let year = page.line(&foot, w - margin, base, Align::Right, &self.year);
            page.fact("year", "", &self.year, None, year);
            page.say_more(format!(
                "The year {} is printed {}.",
                self.year,
                page.place(year)
            ));
        }
        page.fact("title", "", &whole, None, title);
        page.fact("author", "", &self.author, None, author);
        page.fact("publisher", "", &self.publisher, None, publisher);
        let (paper, accent) = (page.scheme.paper.name, page.scheme.accent.name);
        page.say(format!(
            "The cover of a book titled \"{whole}\" by \"{}\". The title stands {} in large letters and the author's name {}. \
             The artwork on the {paper} background shows {art} in {accent} shades.",
            self.author, page.place(title), page.place(author)
        ));
        let sentence = format!(
            "At the foot of the cover, the publisher \"{}\" is named {}.",
            self.publisher,
            page.place(publisher)
        );
        page.caption_extra.insert(0, sentence);
    }
}
