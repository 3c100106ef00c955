//! ANLS, average normalised Levenshtein similarity (ST-VQA, DocVQA, InfographicVQA), in both readings.
//!
//! Of a row: the best over the references of `1 - NL`, `NL = levenshtein(a, b) / length`, and 0 below the
//! threshold of 0.5. Of a data set: the mean. Distances and lengths are in code points.
//!
//! The readings differ at the threshold and in the length:
//!
//! | | similarity of exactly 0.5 | length |
//! |---|---|---|
//! | [`rrc`] | kept | of the longer *raw* text in upper case (white space counted, `ß` twice) |
//! | [`pypi`] | 0 | of the longer normalised text |
//!
//! # Quirks
//! - Both normalise for the distance: lower case, runs of white space to one space, ends stripped.
//! - `rrc` divides a distance of normalised text by a length of raw text, so white space that the
//!   normalisation took away makes the score better: `"cat    "` against `"dog"` is 0.571, not 0.
//! - Two empty texts score 1.
//!
//! # Source
//! `rrc`: the evaluation script of the Robust Reading Competition as Qwen-VL (`infographicsvqa_eval.py`) and
//! lmms-eval carry it. `pypi`: the package `anls` on PyPI. Formula: Biten et al., "Scene Text Visual Question
//! Answering", 2019.

use super::python_text::{len, lower, split, upper_len};

/// Raised when a score of any row can change.
pub const VERSION: u32 = 1;

/// Similarity under which a row scores nothing.
pub const THRESHOLD: f64 = 0.5;

/// ANLS of one row as the competition's script computes it, 0 to 1; 0 for no references.
pub fn rrc<R: AsRef<str>>(answer: &str, references: &[R]) -> f64 {
    let normal = normalise(answer);
    let mut least = f64::INFINITY;
    for reference in references {
        let reference = reference.as_ref();
        let length = upper_len(reference).max(upper_len(answer));
        least = least.min(distance_ratio(&normal, &normalise(reference), length));
    }
    let similarity = 1.0 - least;
    if similarity < THRESHOLD {
        0.0
    } else {
        similarity
    }
}

/// ANLS of one row as the PyPI package computes it, 0 to 1; 0 for no references.
pub fn pypi<R: AsRef<str>>(answer: &str, references: &[R]) -> f64 {
    let normal = normalise(answer);
    let mut best = 0.0f64;
    for reference in references {
        let reference = normalise(reference.as_ref());
        let length = len(&reference).max(len(&normal));
        let ratio = distance_ratio(&normal, &reference, length);
        if ratio < THRESHOLD {
            best = best.max(1.0 - ratio);
        }
    }
    best
}

/// Lower case, words with one space between.
fn normalise(text: &str) -> String {
    let lowered = lower(text);
    let mut out = String::with_capacity(lowered.len());
    for word in split(&lowered) {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(word);
    }
    out
}

/// `levenshtein(a, b) / length`, 0 for a length of 0; infinite where it is above the threshold for sure.
fn distance_ratio(a: &str, b: &str, length: usize) -> f64 {
    if length == 0 {
        return 0.0;
    }
    // A distance above this scores nothing in either reading, so it is not computed to the end.
    let cutoff = length / 2 + 1;
    if len(a).abs_diff(len(b)) > cutoff {
        return f64::INFINITY;
    }
    let args = rapidfuzz::distance::levenshtein::Args::default().score_cutoff(cutoff);
    let distance = if a.is_ascii() && b.is_ascii() {
        rapidfuzz::distance::levenshtein::distance_with_args(a.bytes(), b.bytes(), &args)
    } else {
        rapidfuzz::distance::levenshtein::distance_with_args(a.chars(), b.chars(), &args)
    };
    distance.map_or(f64::INFINITY, |distance| distance as f64 / length as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readings_differ_at_the_threshold() {
        assert_eq!(rrc("8.22", &["0.28"]), 0.5);
        assert_eq!(pypi("8.22", &["0.28"]), 0.0);
    }

    #[test]
    fn the_readings_differ_in_the_length() {
        // One substitution; 9 code points without the second space, 10 with it.
        assert_eq!(rrc("RN  0-1843", &["RN  0-1842"]), 1.0 - 1.0 / 10.0);
        assert_eq!(pypi("RN  0-1843", &["RN  0-1842"]), 1.0 - 1.0 / 9.0);
        assert_eq!(rrc("cat    ", &["dog"]), 1.0 - 3.0 / 7.0);
        assert_eq!(pypi("cat    ", &["dog"]), 0.0);
        // Upper case of ß is two letters.
        assert_eq!(rrc("ß", &["s"]), 0.5);
    }

    #[test]
    fn the_best_reference_counts_and_case_does_not() {
        assert_eq!(rrc("ITC Limited", &["x", "itc  limited"]), 1.0);
        assert_eq!(pypi("ITC Limited", &["x", "itc  limited"]), 1.0);
        assert_eq!((rrc("", &[""]), pypi("", &[" "])), (1.0, 1.0));
        assert_eq!((rrc::<&str>("x", &[]), pypi::<&str>("x", &[])), (0.0, 0.0));
        assert_eq!(rrc("naïve", &["naive"]), 0.8);
    }
}
