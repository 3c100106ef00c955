//! Quoted spans of a text.

/// Opening marks with what closes them.
const PAIRS: [(char, &str); 8] = [
    ('"', "\""),
    ('“', "”\""),
    ('„', "“”"),
    ('«', "»"),
    ('「', "」"),
    ('『', "』"),
    ('`', "`"),
    ('‘', "’"),
];

/// What stands between quotation marks. A single quote counts where it cannot be an apostrophe: it opens
/// after white space and closes before white space or punctuation.
pub fn quoted_spans(text: &str) -> Vec<&str> {
    let mut spans = Vec::new();
    let mut rest = text;
    let mut before = None;
    while let Some(c) = rest.chars().next() {
        let inner = &rest[c.len_utf8()..];
        let closing = PAIRS
            .iter()
            .find(|(open, _)| *open == c)
            .map(|(_, close)| *close);
        let end = match (closing, c) {
            (Some(close), _) => inner.find(|c| close.contains(c)),
            (None, '\'') if before.is_none_or(|c: char| c.is_whitespace() || c == '(') => {
                single_end(inner)
            }
            _ => None,
        };
        // A mark that is never closed, as of inches, is none.
        if let Some(end) = end {
            let span = inner[..end].trim();
            if !span.is_empty() {
                spans.push(span);
            }
            let after = inner[end..].chars().next().map_or(0, char::len_utf8);
            before = inner[end..].chars().next();
            rest = &inner[end + after..];
        } else {
            before = Some(c);
            rest = inner;
        }
    }
    spans
}

fn single_end(inner: &str) -> Option<usize> {
    inner.char_indices().find_map(|(at, c)| {
        let next = inner[at + c.len_utf8()..].chars().next();
        let ends = next.is_none_or(|c| !c.is_alphanumeric());
        (c == '\'' && at > 0 && ends).then_some(at)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_of_all_kinds_and_apostrophes() {
        for (text, spans) in [
            ("It says \"A\" and “B c”.", vec!["A", "B c"]),
            (
                "The shop's sign reads 'Joe's Bar', doesn't it?",
                vec!["Joe's Bar"],
            ),
            (
                "„Hallo“ und «salut» und 「東京」.",
                vec!["Hallo", "salut", "東京"],
            ),
            ("A 5\" disk", vec![]),
            ("don't and can't", vec![]),
            ("`code` \"\" ' '", vec!["code"]),
            ("", vec![]),
        ] {
            assert_eq!(quoted_spans(text), spans, "{text}");
        }
    }
}
