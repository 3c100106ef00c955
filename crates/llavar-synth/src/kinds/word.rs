//! One word or a short line cut out of a scene: the picture is little more than the text.

use super::Content;
use crate::font::Class;
use crate::page::{Align, Page};
use crate::rng::Rng;
use crate::texts::figure;
use crate::words::{self, Speaker};

/// What random strings are made of: signs that are not the same stroke in some face, as I, l and 1 are.
const SIGNS: [u8; 52] = *b"ABCDEFGHJKLMNPQRSTUVWXYZabdefghijkmnpqrtuvwxyz234567";

#[derive(Debug)]
pub(super) struct Word {
    text: String,
}

impl Word {
    pub(super) fn sample(rng: &mut Rng, speaker: &Speaker<'_>) -> Self {
        let [few, many] = speaker.config.letters;
        if many > 0 {
            let text = (0..rng.int(i64::from(few), i64::from(many)))
                .map(|_| *rng.pick(&SIGNS) as char)
                .collect();
            return Self { text };
        }
        let text = match rng.below(8) {
            0 => words::made_up(rng),
            1 => figure(rng),
            2 => speaker.word(&words::SIGN_WORDS, rng),
            3 => speaker.config.texts.heading(2, 3, rng),
            _ => speaker.config.texts.phrase(1, 1, rng),
        };
        let text = if rng.chance(0.45) {
            text.to_uppercase()
        } else {
            text
        };
        Self { text }
    }
}

impl Content for Word {
    fn draw(&self, page: &mut Page<'_>) {
        let (w, h) = (page.w(), page.h());
        let mut typ = page.typ(&[
            Class::Bold,
            Class::Sans,
            Class::Serif,
            Class::SerifBold,
            Class::Mono,
            Class::Hand,
        ]);
        let (mut ink, mut paper) = (page.scheme.ink, page.scheme.paper);
        if page.maybe(0.4) {
            // Light letters on a dark ground, as on sign boards.
            (ink, paper) = (paper, ink);
        } else if page.maybe(0.2) {
            // Coloured letters, as on shop fronts.
            ink = page.scheme.accent;
        }
        typ = typ.colour(ink);
        page.sheet([0.0, 0.0, w, h], paper.rgb);
        let margin = page.vary(0.12, 0.04, 0.2);
        let most = h * page.vary(0.65, 0.4, 0.68);
        let typ = typ.px(most).fit(&self.text, w * (1.0 - margin));
        let y = h * 0.5 + typ.px * 0.34;
        let id = page.line(&typ, w * 0.5, y, Align::Centre, &self.text);
        page.fact("word", "", &self.text, None, id);
        let (ink, paper) = (ink.name, paper.name);
        page.say(format!(
            "A close view of a single piece of text. It reads \"{}\" in letters of one face, set in {ink} on {paper}.",
            self.text
        ));
        page.say_more(
            "The text fills the picture from side to side and stands on one line in its middle."
                .to_owned(),
        );
    }
}
