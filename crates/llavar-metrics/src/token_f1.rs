//! Token F1 as SQuAD 2.0 computes it: overlap of bags of words.
//!
//! `2 p r / (p + r)`, `p` and `r` the common words (with multiplicity) over the words of the answer and of
//! the reference; of a row the best over the references, of a data set the mean.
//!
//! # Quirks
//! - Normalised in this order: lower case, ASCII punctuation deleted (not replaced: `well-known` is one
//!   word), `a`, `an`, `the` deleted, white space. Punctuation of other scripts stays.
//! - Where one side has no words left, the score is 1 if neither has, else 0.
//!
//! # Source
//! Rajpurkar et al., the evaluation script of SQuAD 2.0 (`compute_f1`, `normalize_answer`).

use std::cmp::Ordering;

use super::python_text::{is_word, lower, split};

/// Raised when a score of any row can change.
pub const VERSION: u32 = 1;

/// F1 of one row, 0 to 1; 0 for no references.
pub fn f1<R: AsRef<str>>(answer: &str, references: &[R]) -> f64 {
    let answer = normalise(answer);
    let answer = sorted_words(&answer);
    references
        .iter()
        .map(|reference| {
            let reference = normalise(reference.as_ref());
            overlap(&answer, &sorted_words(&reference))
        })
        .fold(0.0, f64::max)
}

fn sorted_words(text: &str) -> Vec<&str> {
    let mut words: Vec<&str> = split(text)
        .filter(|word| !matches!(*word, "a" | "an" | "the"))
        .collect();
    words.sort_unstable();
    words
}

/// F1 of two sorted bags of words.
fn overlap(answer: &[&str], reference: &[&str]) -> f64 {
    if answer.is_empty() || reference.is_empty() {
        return f64::from(answer.len() == reference.len());
    }
    let (mut common, mut a, mut r) = (0u32, 0, 0);
    while a < answer.len() && r < reference.len() {
        match answer[a].cmp(reference[r]) {
            Ordering::Less => a += 1,
            Ordering::Greater => r += 1,
            Ordering::Equal => (common, a, r) = (common + 1, a + 1, r + 1),
        }
    }
    if common == 0 {
        return 0.0;
    }
    let precision = f64::from(common) / answer.len() as f64;
    let recall = f64::from(common) / reference.len() as f64;
    2.0 * precision * recall / (precision + recall)
}

/// Lower case without ASCII punctuation, articles inside a run of other signs made spaces.
fn normalise(text: &str) -> String {
    let mut text = lower(text);
    text.retain(|c| !c.is_ascii_punctuation());
    if text
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b' ')
    {
        // Words end at spaces only; articles among them are left to the caller.
        return text;
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text.as_str();
    // Articles go by word boundary, not by white space: in `a–b` (a dash of another script) one goes.
    while let Some(c) = rest.chars().next() {
        let run = rest
            .find(|other| is_word(other) != is_word(c))
            .unwrap_or(rest.len());
        let (part, after) = rest.split_at(run);
        out.push_str(if matches!(part, "a" | "an" | "the") {
            " "
        } else {
            part
        });
        rest = after;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlap_of_bags() {
        // Common: cat, sat. p = 2/3, r = 2/2.
        assert!((f1("The cat sat down.", &["cat sat"]) - 0.8).abs() < 1e-12);
        // One of the two "a b" counts once.
        assert!((f1("x x", &["x"]) - 2.0 / 3.0).abs() < 1e-12);
        assert_eq!(f1("well-known", &["well known"]), 0.0);
        assert_eq!(f1("dog", &["cat", "A DOG!"]), 1.0);
    }

    #[test]
    fn sides_without_words() {
        assert_eq!(f1("the", &["."]), 1.0);
        assert_eq!(f1("the", &["x"]), 0.0);
        assert_eq!(f1::<&str>("x", &[]), 0.0);
        assert_eq!(f1("a–b", &["–b"]), 1.0, "the article goes by word boundary");
    }
}
