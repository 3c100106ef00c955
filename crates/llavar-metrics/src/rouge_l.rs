//! ROUGE-L of tokenised text, as pycocoevalcap computes it.
//!
//! `(1 + b^2) p r / (r + b^2 p)`, b = 1.2, from the longest common subsequence of words over the words of the
//! answer (`p`) and of the reference (`r`). Of a corpus: the mean of its rows.
//!
//! # Quirks
//! - `p` and `r` are each the best over the references, possibly of different ones.
//! - Words are separated by single spaces, so an empty text is one empty word: empty against empty scores 1,
//!   and two spaces in a row make an empty word.
//!
//! # Source
//! Lin, "ROUGE", 2004; `rouge.py` of pycocoevalcap 1.2.

/// Raised when a score of any row can change.
pub const VERSION: u32 = 1;

const BETA: f64 = 1.2;

/// ROUGE-L of one row, 0 to 1; texts are tokens with spaces between (see [`ptb`](super::ptb)).
pub fn rouge_l<R: AsRef<str>>(answer: &str, references: &[R]) -> f64 {
    let answer: Vec<&str> = answer.split(' ').collect();
    let (mut precision, mut recall) = (0.0f64, 0.0f64);
    for reference in references {
        let reference: Vec<&str> = reference.as_ref().split(' ').collect();
        let common = longest_common_subsequence(&answer, &reference) as f64;
        precision = precision.max(common / answer.len() as f64);
        recall = recall.max(common / reference.len() as f64);
    }
    if precision == 0.0 || recall == 0.0 {
        return 0.0;
    }
    (1.0 + BETA * BETA) * precision * recall / (recall + BETA * BETA * precision)
}

fn longest_common_subsequence(a: &[&str], b: &[&str]) -> usize {
    let mut row = vec![0; b.len() + 1];
    for x in a {
        let mut diagonal = 0;
        for (at, y) in b.iter().enumerate() {
            let above = row[at + 1];
            row[at + 1] = if x == y {
                diagonal + 1
            } else {
                above.max(row[at])
            };
            diagonal = above;
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        // LCS "the gunman" of 3 and 4 words: p = 2/3, r = 2/4.
        let (p, r) = (2.0 / 3.0, 0.5);
        let expected = 2.44 * p * r / (r + 1.44 * p);
        let found = rouge_l("the big gunman", &["the small armed gunman"]);
        assert!((found - expected).abs() < 1e-12);
        assert_eq!(rouge_l("a b", &["c", "a b"]), 1.0);
    }

    #[test]
    fn precision_and_recall_may_come_from_two_references() {
        // "a b" in "a b c d": p = 1, r = 1/2; against "a": p = 1/2, r = 1.
        assert_eq!(rouge_l("a b", &["a b c d", "a"]), 1.0);
    }

    #[test]
    fn empty_texts_are_one_empty_word() {
        assert_eq!(rouge_l("", &[""]), 1.0);
        assert_eq!(rouge_l("", &["a"]), 0.0);
        assert_eq!(rouge_l::<&str>("a", &[]), 0.0);
    }
}
