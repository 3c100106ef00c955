//! Untrusted text, made safe to look at.

use std::borrow::Cow;
use std::fmt::Write;

use maud::Render;

/// Longest text that is shown in full, characters.
const LONGEST: usize = 4000;

/// A text of a model or a data set; escaped, with what cannot be seen made visible.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Text<'a>(pub(crate) &'a str);

impl Render for Text<'_> {
    fn render_to(&self, buffer: &mut String) {
        shown(self.0).as_ref().render_to(buffer);
    }
}

/// The text as it is shown.
pub(crate) fn shown(text: &str) -> Cow<'_, str> {
    let cut = text.char_indices().nth(LONGEST).map(|(at, _)| at);
    let kept = &text[..cut.unwrap_or(text.len())];
    let visible = visible(kept);
    match cut {
        None => visible,
        Some(at) => {
            let more = text[at..].chars().count();
            Cow::Owned(format!("{visible} \u{2026} [{more} more characters]"))
        }
    }
}

/// Shows control characters and characters that turn the reading direction by their numbers, so that
/// a text can neither hide anything nor make the page ill-formed.
fn visible(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            // A line break of Windows is one.
            '\r' if rest.peek() == Some(&'\n') => {}
            c if is_hidden(c) => {
                let _ = write!(out, "\u{27E8}U+{:04X}\u{27E9}", c as u32);
            }
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

fn is_hidden(c: char) -> bool {
    (c.is_control() && c != '\n' && c != '\t')
        || matches!(c as u32,
            0x202A..=0x202E | 0x2066..=0x2069 | 0x200E | 0x200F | 0x061C | 0x200B | 0xFEFF
            | 0xFDD0..=0xFDEF)
        || c as u32 & 0xFFFE == 0xFFFE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_characters_are_shown_and_long_texts_cut() {
        assert_eq!(shown("a\u{0}b\r\nc\td"), "a\u{27E8}U+0000\u{27E9}b\nc\td");
        assert_eq!(shown("x\u{202E}y"), "x\u{27E8}U+202E\u{27E9}y");
        assert!(matches!(shown("plain \u{4E2D}\u{6587}"), Cow::Borrowed(_)));
        let long = "\u{E9}".repeat(LONGEST + 7);
        assert!(shown(&long).ends_with("\u{2026} [7 more characters]"));
        assert_eq!(Text("<&\">").render().0, "&lt;&amp;&quot;&gt;");
    }
}
