//! MultimodalOCR containment (2023): the reference occurs in the answer. The protocol behind the tables
//! of LLaVAR and its successors.
//!
//! Score of a row: 1 if any reference occurs, else 0. Of a data set: the mean.
//!
//! # Quirks
//! - There are four readings, by data set ([`Protocol::of_data_set`]): they differ in what is compared and
//!   in whether the reference must be whole words.
//! - Whole words are `\b` + reference + `\b`. A reference that normalises to nothing (`"the"`, `"?"`) is
//!   found in every answer that has a word; a reference that begins or ends with a sign that the
//!   normalisation keeps (`$`, `%`, `'`) needs a word character directly beside it, so `$5` is not
//!   found in `it is $5`.
//! - Recognition joins what signs separated: `well-known` is `wellknown` on both sides.
//! - Recognition keeps nothing of a reference in another script, which leaves the empty word.
//! - Formula and Chinese are plain substrings: `y=5` is found in `y=55`, and a reference without a Chinese
//!   character is found in every answer that has its white space.
//!
//! # Source
//! `eval.py` of MultimodalOCR at 9f0ffdf (`VQAEval`, `evaluate_OCR`, `evaluate_ReCTS`,
//! `evaluate_Formula`). The "Full Test" of 2024 is [`ocrbench`](super::ocrbench).

use super::{
    python_text::{has_word, is_space},
    vqa_normalise::normalise,
};

/// Raised when a score of any row can change.
pub const VERSION: u32 = 1;

/// What is compared, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Questions and key information: whole words after the VQA normalisation.
    Vqa,
    /// Word pictures and handwriting: whole words of `[a-zA-Z0-9]` and white space, lower case.
    Recognition,
    /// ReCTS: substring of the characters U+4E00 to U+9FA5 and white space.
    Chinese,
    /// HME100K: substring without white space, letter case kept.
    Formula,
}

impl Protocol {
    /// The reading for a data set of MultimodalOCR by its name there, letter case aside.
    ///
    /// Every name that is not of a word, handwriting, Chinese or formula set is asked as questions.
    pub fn of_data_set(name: &str) -> Self {
        match name.to_ascii_lowercase().as_str() {
            "iiit5k" | "svt" | "ic13_857" | "ic15_1811" | "svtp" | "ct80" | "cocotext" | "ctw"
            | "totaltext" | "host" | "wost" | "wordart" | "iam" => Self::Recognition,
            "rects" => Self::Chinese,
            "hme" | "hme100k" => Self::Formula,
            _ => Self::Vqa,
        }
    }
}

/// Whether any of `references` occurs in `answer` under `protocol`; `false` for no references.
pub fn contains<R: AsRef<str>>(protocol: Protocol, answer: &str, references: &[R]) -> bool {
    let prepare = match protocol {
        Protocol::Vqa => normalise,
        Protocol::Recognition => letters_and_digits,
        Protocol::Chinese => chinese,
        Protocol::Formula => without_space,
    };
    let found = match protocol {
        Protocol::Vqa | Protocol::Recognition => has_word,
        Protocol::Chinese | Protocol::Formula => has_substring,
    };
    let answer = prepare(answer);
    references
        .iter()
        .any(|reference| found(&answer, &prepare(reference.as_ref())))
}

fn has_substring(text: &str, part: &str) -> bool {
    memchr::memmem::find(text.as_bytes(), part.as_bytes()).is_some()
}

fn letters_and_digits(text: &str) -> String {
    text.chars()
        .filter(|c| c.is_ascii_alphanumeric() || is_space(*c))
        .map(|c| c.to_ascii_lowercase())
        .collect()
}

fn chinese(text: &str) -> String {
    text.chars()
        .filter(|c| matches!(c, '\u{4e00}'..='\u{9fa5}') || is_space(*c))
        .collect()
}

fn without_space(text: &str) -> String {
    text.chars().filter(|c| !is_space(*c)).collect()
}

#[cfg(test)]
mod tests {
    use super::{Protocol::*, *};

    #[test]
    fn vqa_wants_whole_words_after_normalisation() {
        assert!(contains(
            Vqa,
            "It is Hershey's, the bar.",
            &["mars", "hershey's"]
        ));
        assert!(contains(Vqa, "There are two dogs", &["2"]));
        assert!(!contains(Vqa, "It is 15.00", &["5.00"]));
        assert!(!contains(Vqa, "It costs $5", &["$5"]));
        assert!(contains(Vqa, "US$5", &["$5"]));
        assert!(contains(Vqa, "anything", &["the"]));
        assert!(!contains(Vqa, "", &["the"]));
        assert!(!contains::<&str>(Vqa, "anything", &[]));
    }

    #[test]
    fn recognition_joins_what_signs_separate() {
        assert!(contains(
            Recognition,
            "It says \"WELL-known\".",
            &["wellknown"]
        ));
        assert!(!contains(
            Recognition,
            "It says well known.",
            &["well-known"]
        ));
        assert!(!contains(Recognition, "unstoppable", &["stop"]));
        assert!(contains(Recognition, "x", &["中"]));
    }

    #[test]
    fn chinese_and_formula_are_substrings() {
        assert!(contains(Chinese, "图像中的中文", &["中a"]));
        assert!(!contains(Chinese, "the characters", &["中"]));
        assert!(contains(Formula, "as \\( y = 55 \\)", &["y = 5\n"]));
        assert!(!contains(Formula, "Y = 5", &["y = 5"]));
    }

    #[test]
    fn data_sets_have_their_protocol() {
        assert_eq!(Protocol::of_data_set("IIIT5K"), Recognition);
        assert_eq!(Protocol::of_data_set("ReCTS"), Chinese);
        assert_eq!(Protocol::of_data_set("HME"), Formula);
        assert_eq!(Protocol::of_data_set("SROIE"), Vqa);
    }
}
