//! A page of running text: headings, paragraphs and short lines of any words, at any size down to
//! the smallest that the settings allow.

use super::Content;
use crate::font::Class;
use crate::page::{Align, Page, Space, wrap};
use crate::rng::Rng;
use crate::texts::figure;
use crate::words::Speaker;

/// Most characters on a page: its transcription stays below some 400 tokens.
const MOST_CHARS: usize = 1000;

#[derive(Debug)]
pub(super) struct Text {
    /// Paragraphs, each with whether it is a heading.
    blocks: Vec<(bool, String)>,
}

impl Text {
    pub(super) fn sample(rng: &mut Rng, speaker: &Speaker<'_>, space: &Space) -> Self {
        let texts = &speaker.config.texts;
        let count = if space.few() { 1 } else { 2 + rng.below(9) };
        let block = |rng: &mut Rng| {
            let heading = rng.chance(0.25);
            let mut text = if heading {
                texts.heading(1, 5, rng)
            } else {
                match rng.below(6) {
                    0 => texts.phrase(1, 3, rng),
                    1 => format!("{} {}", texts.phrase(1, 4, rng), figure(rng)),
                    2 => texts.phrase(3, 10, rng),
                    _ => {
                        let parts = 1 + rng.below(4);
                        let parts: Vec<String> =
                            (0..parts).map(|_| texts.phrase(5, 24, rng)).collect();
                        parts.join(" ")
                    }
                }
            };
            if rng.chance(0.08) {
                text = text.to_uppercase();
            }
            (heading, text)
        };
        Self {
            blocks: (0..count).map(|_| block(rng)).collect(),
        }
    }
}

impl Content for Text {
    fn draw(&self, page: &mut Page<'_>) {
        let (w, h, side) = (page.w(), page.h(), page.side());
        let classes = [Class::Serif, Class::Sans, Class::Mono, Class::Serif];
        let hand = page.maybe(0.06);
        let body = page.typ(if hand { &[Class::Hand] } else { &classes });
        let head = page.typ(&[Class::Bold, Class::SerifBold, Class::Sans]);
        page.sheet([0.0, 0.0, w, h], page.scheme.paper.rgb);
        let [low, high] = page.space.px;
        let high = high.min(side * 0.09).max(low);
        // Sizes spread evenly in ratio: small print is as common as large.
        let px = low * (high / low).powf(page.vary(0.5, 0.0, 1.0));
        let leading = px * page.vary(1.3, 1.12, 1.7);
        let left = w * page.vary(0.06, 0.03, 0.2);
        let width = (w - left) * page.vary(0.94, 0.55, 0.97);
        let mut y = h * page.vary(0.05, 0.02, 0.12);
        let (mut chars, mut ids) = (0, Vec::new());
        'blocks: for (heading, text) in &self.blocks {
            let rel = if *heading {
                page.vary(1.3, 1.0, 1.8)
            } else {
                1.0
            };
            let mut typ = if *heading { head } else { body }.px(px * rel);
            let align = match page.rng.below(8) {
                0 => Align::Centre,
                1 if *heading => Align::Right,
                _ => Align::Left,
            };
            let at = match align {
                Align::Left => left,
                Align::Centre => left + width / 2.0,
                Align::Right => left + width,
            };
            for line in wrap(&typ, text, width) {
                typ = typ.fit(&line, width);
                y += leading * rel;
                if y + 0.3 * leading > h || chars + line.len() > MOST_CHARS {
                    break 'blocks;
                }
                chars += line.len();
                ids.push((page.line(&typ, at, y, align, &line), line));
            }
            y += leading * page.vary(0.5, 0.0, 1.5);
        }
        if ids.is_empty() {
            // A page always says something: the first word alone, as large as fits.
            let word = self.blocks[0].1.split(' ').next().unwrap_or("-").to_owned();
            let typ = body.px(px.min(h * 0.5)).fit(&word, w * 0.9);
            ids.push((page.line(&typ, w * 0.05, h * 0.6, Align::Left, &word), word));
        }
        // A line that occurs twice could not be asked for.
        let unique = |line: &str| ids.iter().filter(|(_, l)| l.contains(line)).count() == 1;
        for pair in ids.windows(2) {
            let [(above, upper), (below, lower)] = pair else {
                continue;
            };
            if unique(upper) && upper.len() > 3 {
                page.fact("line_below", upper, lower, None, *below);
            }
            if unique(lower) && lower.len() > 3 {
                page.fact("line_above", lower, upper, None, *above);
            }
        }
        for (id, line) in &ids {
            if let Some((first, _)) = line
                .split_once(' ')
                .filter(|(a, b)| a.len() > 2 && b.len() > 2)
                && unique(first)
            {
                page.fact("line_with", first, line, None, *id);
            }
        }
        if let (Some((first, top)), Some((last, end))) = (ids.first(), ids.last()) {
            page.fact("first_line", "", top, None, *first);
            page.fact("last_line", "", end, None, *last);
            page.say(format!(
                "A page of printed text on {} paper. It begins with \"{top}\" and ends with \"{end}\".",
                page.scheme.paper.name
            ));
        }
    }
}
