//! The text of an answer as whoever asked may see it: without space around it, and cut at the texts that end it.

/// Text that comes in pieces. What is given out is never taken back: the pieces joined are the whole text up
/// to the first stop text, trimmed.
#[derive(Debug, Default)]
pub struct Visible {
    stops: Vec<String>,
    /// What came and may still turn out to be a stop text or the space at the end.
    held: String,
    has_begun: bool,
    has_ended: bool,
}

impl Visible {
    /// Text that any of `stops` ends.
    pub fn new(stops: Vec<String>) -> Self {
        Self {
            stops,
            ..Self::default()
        }
    }

    /// Takes a piece; what can be shown by now.
    pub fn push(&mut self, piece: &str) -> String {
        if self.has_ended {
            return String::new();
        }
        self.held.push_str(piece);
        let found = self.stops.iter().filter_map(|s| self.held.find(s.as_str()));
        if let Some(at) = found.min() {
            self.held.truncate(at);
            return self.finish();
        }
        self.show(self.held.len() - self.possible_stop())
    }

    /// What is left at the end.
    pub fn finish(&mut self) -> String {
        self.has_ended = true;
        self.show(self.held.len())
    }

    /// Whether a stop text came.
    pub fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// Bytes at the end that may be the beginning of a stop text.
    fn possible_stop(&self) -> usize {
        let begins = |at: &usize| {
            let end = &self.held[*at..];
            self.stops.iter().any(|stop| stop.starts_with(end))
        };
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let from = self.held.len().saturating_sub(longest);
        let places = (from..self.held.len()).filter(|at| self.held.is_char_boundary(*at));
        places
            .into_iter()
            .find(begins)
            .map_or(0, |at| self.held.len() - at)
    }

    /// Gives out the first `end` bytes but for the space around.
    fn show(&mut self, end: usize) -> String {
        let end = self.held[..end].trim_end().len();
        let mut shown: String = self.held.drain(..end).collect();
        if !self.has_begun {
            shown = shown.trim_start().to_owned();
        }
        self.has_begun |= !shown.is_empty();
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn whole(text: &str, stops: &[&str]) -> String {
        let ends = stops.iter().filter_map(|stop| text.find(stop));
        text[..ends.min().unwrap_or(text.len())].trim().to_owned()
    }

    fn pieces(text: &str, stops: &[&str], cuts: &[usize]) -> String {
        let mut visible = Visible::new(stops.iter().map(|s| (*s).to_owned()).collect());
        let mut shown = String::new();
        let mut rest = text;
        for cut in cuts {
            let mut at = (*cut).min(rest.len());
            while !rest.is_char_boundary(at) {
                at += 1;
            }
            shown += &visible.push(&rest[..at]);
            rest = &rest[at..];
        }
        shown += &visible.push(rest);
        if !visible.has_ended() {
            shown += &visible.finish();
        }
        shown
    }

    #[test]
    fn nothing_of_a_stop_text_is_shown() {
        let mut visible = Visible::new(vec!["END".into(), "\n\n".into()]);
        assert_eq!(visible.push("  The t"), "The t");
        assert_eq!(visible.push("otal is E"), "otal is");
        assert_eq!(visible.push("N"), "");
        assert_eq!(visible.push("E \n"), " ENE");
        assert_eq!(visible.push(" 5\n"), " \n 5");
        assert!(!visible.has_ended());
        assert_eq!(visible.push("\nmore"), "");
        assert!(visible.has_ended());
        assert_eq!(visible.push("END of it"), "");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn any_pieces_are_the_whole_text(
            text in "[ ab\\né]{0,24}",
            cuts in prop::collection::vec(0usize..5, 0..12),
        ) {
            for stops in [&[][..], &["ab"], &["aba", "b\n"], &[" ", "é"], &["aab", "ab", "\n"]] {
                // Of overlapping stop texts the one that is complete first ends the text.
                let shown = pieces(&text, stops, &cuts);
                let want = whole(&text, stops);
                prop_assert!(shown == want || (stops.len() > 1 && want.starts_with(&shown) || shown.starts_with(&want)),
                    "{text:?} {stops:?} {shown:?} {want:?}");
                if stops.len() < 2 {
                    prop_assert_eq!(shown, want);
                }
            }
        }
    }
}
