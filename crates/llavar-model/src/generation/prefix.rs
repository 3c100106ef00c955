//! Beginnings that texts share: a text that begins as one in the cache does takes its keys and values.
//!
//! Several questions about one picture differ behind it only, so all but the first read a few tokens
//! instead of the picture, whether they come together or one after the other.

use llavar_tensor::Tensor;

use super::session::Text;

/// Tokens that must be the same, besides a third of the text, before copying is worth a pass of its own.
const LEAST: usize = 64;

/// The text whose keys and values lie in a slot, from the front.
#[derive(Debug)]
pub(crate) struct Held {
    ids: Vec<i32>,
    features: Option<Tensor>,
    /// Whether its keys are rotated as those of a long text.
    long: bool,
}

impl Held {
    pub(crate) fn new(text: &Text<'_>, long: bool) -> Self {
        Self {
            ids: text.ids().collect(),
            features: text.features.cloned(),
            long,
        }
    }

    /// How many tokens of `text` need not be read; at least its last is.
    fn shared(&self, text: &Text<'_>, long: bool) -> usize {
        let both = self.ids.iter().zip(text.ids());
        let same = both.take_while(|(a, b)| *a == b).count();
        let same_pictures = match (&self.features, text.features) {
            (Some(own), Some(other)) => own.is_same_memory(other),
            _ => false,
        };
        // Image positions look alike whatever they show.
        let same = match same_pictures {
            true => same,
            false => self.ids[..same]
                .iter()
                .position(|id| *id < 0)
                .unwrap_or(same),
        };
        let same = same.min(text.len().saturating_sub(1));
        let worth = same >= LEAST && 3 * same >= text.len();
        if long == self.long && worth { same } else { 0 }
    }
}

/// How the texts of one call are read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// `(from, to, tokens)` before anything is read.
    pub(crate) before: Vec<(usize, usize, usize)>,
    /// Numbers of the texts that are read whole.
    pub(crate) whole: Vec<usize>,
    /// `(from, to, tokens)` when those are read.
    pub(crate) after: Vec<(usize, usize, usize)>,
    /// Numbers of the texts of which the end is read, and how many tokens come before it.
    pub(crate) ends: Vec<(usize, usize)>,
}

/// Finds for every text the one it shares most with: one in a slot that no text of this call goes to,
/// what its own slot still holds, or a text of this call that is read whole.
pub(crate) fn plan(
    held: &[Option<Held>],
    texts: &[Text<'_>],
    long: impl Fn(usize) -> bool,
) -> Plan {
    let mut plan = Plan::default();
    let mut fresh: Vec<(usize, Held)> = Vec::new();
    let taken: Vec<usize> = texts.iter().map(|text| text.slot).collect();
    for (number, text) in texts.iter().enumerate() {
        let long = long(text.len());
        let there = held.iter().enumerate().filter_map(|(slot, held)| {
            let usable = slot == text.slot || !taken.contains(&slot);
            Some((slot, held.as_ref().filter(|_| usable)?.shared(text, long)))
        });
        // Its own slot first: nothing is to be copied then.
        let there = there.max_by_key(|(slot, tokens)| (*tokens, *slot == text.slot));
        let new = fresh
            .iter()
            .map(|(slot, held)| (*slot, held.shared(text, long)));
        let new = new.max_by_key(|(_, tokens)| *tokens);
        let there = there.filter(|(_, tokens)| *tokens > 0);
        let new = new.filter(|(_, tokens)| *tokens > 0);
        match (there, new) {
            (Some((slot, tokens)), new) if new.is_none_or(|(_, other)| other <= tokens) => {
                plan.before.push((slot, text.slot, tokens));
                plan.ends.push((number, tokens));
            }
            (_, Some((slot, tokens))) => {
                plan.after.push((slot, text.slot, tokens));
                plan.ends.push((number, tokens));
            }
            _ => {
                plan.whole.push(number);
                fresh.push((text.slot, Held::new(text, long)));
            }
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text<'a>(slot: usize, prompt: &'a [i32], features: Option<&'a Tensor>) -> Text<'a> {
        Text {
            slot,
            prompt,
            features,
            answer: &[],
        }
    }

    #[test]
    fn questions_of_one_picture_follow_the_first_and_others_do_not() {
        let (cat, dog) = (Tensor::zeros(&[80, 2]), Tensor::zeros(&[80, 2]));
        let ask = |end: i32| [vec![1], vec![-200; 80], vec![7, end]].concat();
        let (a, b, c) = (ask(8), ask(9), ask(8));
        let texts = [
            text(0, &a, Some(&cat)),
            text(1, &b, Some(&cat)),
            text(2, &c, Some(&dog)),
            text(3, &a, Some(&cat)),
        ];
        let none = [None, None, None, None, None];
        let found = plan(&none, &texts, |_| false);
        assert_eq!(found.whole, [0, 2], "another picture is another text");
        assert_eq!(found.after, [(0, 1, 82), (0, 3, 82)]);
        assert_eq!(
            found.ends,
            [(1, 82), (3, 82)],
            "the last token is read again"
        );
        assert!(found.before.is_empty());

        // Slot 4 still holds a text about the cat, slot 0 one about the dog that is written over.
        let mut held = none;
        held[4] = Some(Held::new(&text(4, &b, Some(&cat)), false));
        held[0] = Some(Held::new(&text(0, &c, Some(&dog)), false));
        let found = plan(&held, &texts, |_| false);
        assert_eq!(found.before, [(4, 0, 82), (4, 1, 82), (4, 3, 82)]);
        assert_eq!(found.whole, [2]);
        // A long text's keys are of no use to a short one.
        let found = plan(&held, &texts[..1], |_| true);
        assert_eq!(found.whole, [0]);
        // A slot of its own costs no copy.
        let found = plan(&held, &[text(0, &a, Some(&dog))], |_| false);
        assert_eq!(found.before, [(0, 0, 82)]);
    }
}
