//! Whole-word containment: the reference occurs in the answer as a run of whole words. Ours.
//!
//! Stricter than a plain substring, which finds the total "5" in "15", and without the rewriting of
//! [`multimodal_ocr`](super::multimodal_ocr): only letter case and runs of white space are set aside.
//! Score of a row: 1 or 0; of a data set: the mean.

/// Raised when a score of any row can change.
pub const VERSION: u32 = 2;

/// Whether `gold` occurs in `answer`, letter case and runs of white space aside, with no letter or
/// digit directly before or after it. An empty gold is never contained.
pub fn contains_words(answer: &str, gold: &str) -> bool {
    let (answer, gold) = (normalise(answer), normalise(gold));
    if gold.is_empty() {
        return false;
    }
    let boundary = |c: Option<char>| !c.is_some_and(char::is_alphanumeric);
    let mut from = 0;
    while let Some(found) = answer[from..].find(&gold) {
        let (at, end) = (from + found, from + found + gold.len());
        if boundary(answer[..at].chars().next_back()) && boundary(answer[end..].chars().next()) {
            return true;
        }
        // The next one may begin inside this one ("1 1" in "a1 1 1").
        from = at + answer[at..].chars().next().map_or(1, char::len_utf8);
    }
    false
}

fn normalise(text: &str) -> String {
    text.to_lowercase()
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_words_only() {
        assert!(contains_words("The total is 5.00.", "5.00"));
        assert!(contains_words(
            "It says  Blue\nMOON Cafe!",
            "blue moon cafe"
        ));
        assert!(!contains_words("The total is 15.00.", "5.00"));
        assert!(!contains_words("The total is 5.001", "5.00"));
        assert!(contains_words("aa a", "a"), "a later occurrence counts");
        assert!(contains_words("a1 1 1", "1 1"), "inside another one too");
        assert!(!contains_words("a1 1 1b", "1 1"));
        assert!(contains_words("xéé éé éé", "éé éé"));
        assert!(!contains_words("anything", "  "));
        assert!(contains_words("Straße 5", "strasse 5") == contains_words("strasse 5", "straße 5"));
    }
}
