//! OCRBench (v1): a reference is a substring of the answer.
//!
//! Score of a row: 1 if any reference occurs, else 0. Of the benchmark: the sum over its 1,000 items.
//!
//! # Quirks
//! - No word boundaries: the reference `5` is found in `15`, and an empty one everywhere.
//! - Both sides are lower-cased and stripped, then line feeds become spaces; runs of spaces stay, so a
//!   reference with two spaces is not found in an answer with one.
//! - HME100k keeps letter case and compares without spaces ([`formula_contains`]); tabs stay there.
//! - The published loop normalises the answer again for every reference, which changes nothing.
//!
//! # Source
//! `OCRBench/example.py` of MultimodalOCR (2024).

use std::borrow::Cow;

use super::python_text::{lower, strip};

/// Raised when a score of any row can change.
pub const VERSION: u32 = 1;

/// The data set whose items are scored by [`formula_contains`].
pub const FORMULA_DATA_SET: &str = "HME100k";

/// Whether any of `references` is a substring of `answer`; every data set but HME100k.
pub fn contains<R: AsRef<str>>(answer: &str, references: &[R]) -> bool {
    any_substring(answer, references, |text| {
        let lowered = lower(text);
        spaced(strip(&lowered)).into_owned()
    })
}

/// Whether any of `references` is a substring of `answer`, spaces and line feeds aside (HME100k).
pub fn formula_contains<R: AsRef<str>>(answer: &str, references: &[R]) -> bool {
    any_substring(answer, references, |text| {
        strip(text).replace([' ', '\n'], "")
    })
}

fn any_substring<R: AsRef<str>>(
    answer: &str,
    references: &[R],
    prepare: impl Fn(&str) -> String,
) -> bool {
    let answer = prepare(answer);
    references.iter().any(|reference| {
        memchr::memmem::find(answer.as_bytes(), prepare(reference.as_ref()).as_bytes()).is_some()
    })
}

fn spaced(text: &str) -> Cow<'_, str> {
    if text.contains('\n') {
        Cow::Owned(text.replace('\n', " "))
    } else {
        Cow::Borrowed(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn substrings_without_boundaries() {
        assert!(contains("The total is 15.", &["5"]));
        assert!(contains(" Blue\nMoon ", &["x", "blue moon"]));
        assert!(!contains("blue  moon", &["blue moon"]));
        assert!(contains("", &[" "]), "nothing is in everything");
        assert!(!contains::<&str>("x", &[]));
    }

    #[test]
    fn formulas_keep_case_and_lose_spaces() {
        assert!(formula_contains("$ x _ {1} = \n2 $", &["x_{1}=2"]));
        assert!(!formula_contains("X=2", &["x=2"]));
    }
}
