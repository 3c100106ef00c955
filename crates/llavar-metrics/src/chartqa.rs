//! ChartQA relaxed accuracy: a number may be off by 5 %, anything else must be equal.
//!
//! Score of a row: the best over the references, 0 or 1. Of a data set: the mean of its human and augmented
//! halves.
//!
//! # Quirks
//! - A number is what Python's `float` reads (`1_000`, `inf` and `1e3` are, `1,000` and `$5` are not); with
//!   `%` at the end it is divided by 100, so `5 %` against `5` is wrong.
//! - A reference of 0 falls through to text equality: `0.0` against `0` is wrong.
//! - `nan` and `inf` are numbers, and not even near to themselves.
//! - Text equality is lower case and nothing else: spaces count.
//!
//! # Source
//! Masry et al., "ChartQA", 2022, section 5.1; the same function in pix2struct, Qwen-VL, VLMEvalKit and
//! lmms-eval (`relaxed_correctness`).

use super::python_text::{lower, parse_float};

/// Raised when a score of any row can change.
pub const VERSION: u32 = 1;

/// Relative error that is right still.
pub const TOLERANCE: f64 = 0.05;

/// Whether `answer` is right for any of `references`; `false` for no references.
pub fn relaxed_correct<R: AsRef<str>>(answer: &str, references: &[R]) -> bool {
    let number = value_of(answer);
    references.iter().any(|reference| {
        let reference = reference.as_ref();
        match (number, value_of(reference)) {
            (Some(number), Some(target)) if target != 0.0 => {
                (number - target).abs() / target.abs() <= TOLERANCE
            }
            _ if answer.is_ascii() && reference.is_ascii() => {
                answer.eq_ignore_ascii_case(reference)
            }
            _ => lower(answer) == lower(reference),
        }
    })
}

fn value_of(text: &str) -> Option<f64> {
    if text.ends_with('%') {
        parse_float(text.trim_end_matches('%')).map(|value| value / 100.0)
    } else {
        parse_float(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_may_be_off_by_a_twentieth() {
        assert!(relaxed_correct("105", &["100"]));
        assert!(!relaxed_correct("105.1", &["100"]));
        assert!(relaxed_correct("-95", &["-100"]));
        assert!(relaxed_correct("0.05", &["5%"]));
        assert!(relaxed_correct("5%%", &["0.05"]));
        assert!(!relaxed_correct("5", &["5%"]));
        assert!(!relaxed_correct("1,000", &["1000"]));
    }

    #[test]
    fn the_rest_is_text() {
        assert!(relaxed_correct("0", &["0"]));
        assert!(!relaxed_correct("0.0", &["0"]));
        assert!(relaxed_correct("YES", &["No", "Yes"]));
        assert!(!relaxed_correct("Yes ", &["Yes"]));
        assert!(!relaxed_correct("inf", &["inf"]) && !relaxed_correct("nan", &["nan"]));
        assert!(relaxed_correct("%", &["%"]));
        assert!(!relaxed_correct::<&str>("", &[]));
    }
}
