//! TextVQA accuracy as M4C computes it: soft agreement with ten annotators.
//!
//! The answer `u` scores the mean over the annotators `i` of `min(1, n / 3)`, `n` how many of the *other*
//! annotators gave `u`; so 1 given reference scores 0.3, 2 score 0.6, 3 score 0.9, 4 and more score 1. Of
//! a data set: the mean.
//!
//! # Quirks
//! - Before the VQA normalisation, commas and question marks are deleted and `'s` becomes a word, so
//!   `hershey's` is `hershey 's` and the comma rule for numbers never fires.
//! - The mean is summed in the annotators' order, so a score can be 0.8999999999999998.
//! - The original asserts ten references; other numbers are scored by the same formula here, except that
//!   a single reference scores 1 when it is the answer (its other annotators are none, and the formula
//!   would score 0).
//!
//! # Source
//! `m4c_evaluator.py` of MMF (`TextVQAAccuracyEvaluator`, `EvalAIAnswerProcessor`).

use super::{
    python_text::{lower, strip},
    vqa_normalise::normalise as vqa_normalise,
};

/// Raised when a score of any row can change.
pub const VERSION: u32 = 1;

/// Soft accuracy of one row, 0 to 1; 0 for no references.
pub fn accuracy<R: AsRef<str>>(answer: &str, references: &[R]) -> f64 {
    let answer = normalise(answer);
    let given: Vec<bool> = references
        .iter()
        .map(|reference| normalise(reference.as_ref()) == answer)
        .collect();
    let matches = given.iter().filter(|given| **given).count();
    if matches == 0 {
        return 0.0;
    }
    if given.len() == 1 {
        return 1.0;
    }
    let sum: f64 = given
        .iter()
        .map(|this| ((matches - usize::from(*this)) as f64 / 3.0).min(1.0))
        .sum();
    sum / given.len() as f64
}

fn normalise(text: &str) -> String {
    let mut prepared = lower(text);
    if prepared.contains([',', '?']) {
        prepared.retain(|c| !matches!(c, ',' | '?'));
    }
    if prepared.contains("'s") {
        prepared = prepared.replace("'s", " 's");
    }
    vqa_normalise(strip(&prepared))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_ten(hits: usize) -> f64 {
        let references: Vec<&str> = (0..10)
            .map(|i| if i < hits { "Yes" } else { "no" })
            .collect();
        accuracy("yes.", &references)
    }

    #[test]
    fn one_annotator_is_worth_three_tenths() {
        for (hits, score) in [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)] {
            assert!((of_ten(hits) - score).abs() < 1e-12, "{hits}");
        }
        assert_eq!(accuracy("yes", &["yes"]), 1.0);
        assert_eq!(accuracy::<&str>("yes", &[]), 0.0);
    }

    #[test]
    fn normalisation_before_the_vqa_rules() {
        assert_eq!(normalise("The Hershey's, 1,000?"), "hershey 's 1000");
        assert_eq!(normalise("a-b, two"), "b 2");
    }
}
