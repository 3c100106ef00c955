//! What the judge is asked, and what it said.

use crate::fingerprint::Fingerprint;
use serde::{Deserialize, Serialize};

/// What is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JudgeKind {
    /// One answer against the reference, 1 to 10 points.
    Grade,
    /// Two answers against each other, in both orders.
    Pair,
}

/// A prompt with places to fill in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JudgePrompt {
    /// Name and version: `grade.v1`, `pair.v1`, or the name of a file of one's own.
    pub name: String,
    /// Fingerprint of the text.
    pub hash: String,
    /// The text.
    pub text: String,
}

/// A prompt that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("judge's prompt {name}: {place} is missing")]
pub struct MissingPlace {
    /// Name of the prompt.
    pub name: String,
    /// The place.
    pub place: &'static str,
}

impl JudgeKind {
    fn places(self) -> &'static [&'static str] {
        match self {
            Self::Grade => &["{question}", "{answer}"],
            Self::Pair => &["{question}", "{answer_a}", "{answer_b}"],
        }
    }

    /// The prompt that ships with the program.
    pub fn prompt(self) -> JudgePrompt {
        let (name, text) = match self {
            Self::Grade => ("grade.v1", include_str!("grade.v1.txt")),
            Self::Pair => ("pair.v1", include_str!("pair.v1.txt")),
        };
        JudgePrompt::named(name, text)
    }
}

impl JudgePrompt {
    fn named(name: &str, text: &str) -> Self {
        let mut hash = Fingerprint::default();
        hash.field(text);
        Self {
            name: name.to_owned(),
            hash: hash.hex(),
            text: text.to_owned(),
        }
    }

    /// A prompt of one's own.
    ///
    /// # Errors
    /// [`MissingPlace`]: a judge that does not see the answer judges nothing.
    pub fn own(kind: JudgeKind, name: &str, text: &str) -> Result<Self, MissingPlace> {
        match kind.places().iter().find(|place| !text.contains(**place)) {
            Some(place) => Err(MissingPlace {
                name: name.to_owned(),
                place,
            }),
            None => Ok(Self::named(name, text)),
        }
    }

    /// The text with `values` in their places, all at once: an answer that contains `{reference}` stays
    /// as it is.
    pub(super) fn fill(&self, values: &[(&str, &str)]) -> String {
        let mut out = String::with_capacity(self.text.len() + 512);
        let mut rest = self.text.as_str();
        while let Some(at) = rest.find('{') {
            out.push_str(&rest[..at]);
            rest = &rest[at..];
            match values.iter().find(|(place, _)| rest.starts_with(place)) {
                Some((place, value)) => {
                    out.push_str(value);
                    rest = &rest[place.len()..];
                }
                None => {
                    out.push('{');
                    rest = &rest[1..];
                }
            }
        }
        out + rest
    }
}

/// The points of a grading reply, 1 to 10: what follows the last `Score:`.
pub(super) fn read_score(reply: &str) -> Option<u8> {
    let said = after_last(reply, "score:")?;
    let digits: String = said.chars().take_while(char::is_ascii_digit).collect();
    let rest = &said[digits.len()..];
    // "8/10" is 8; "7.5" is no whole number, and nothing is guessed.
    let whole = !rest.starts_with('.') || !rest[1..].starts_with(|c: char| c.is_ascii_digit());
    digits
        .parse()
        .ok()
        .filter(|score| whole && (1..=10).contains(score))
}

/// Which of the two as they were shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Better {
    First,
    Second,
    Tie,
}

/// The verdict of a comparing reply: what follows the last `Verdict:`.
pub(super) fn read_verdict(reply: &str) -> Option<Better> {
    let said = after_last(reply, "verdict:")?;
    let word: String = said.chars().take_while(|c| c.is_alphanumeric()).collect();
    match word.to_ascii_lowercase().as_str() {
        "a" => Some(Better::First),
        "b" => Some(Better::Second),
        "tie" => Some(Better::Tie),
        _ => None,
    }
}

/// What follows the last occurrence of `mark`, without the marks of emphasis that models like.
fn after_last(reply: &str, mark: &str) -> Option<String> {
    // Lower-casing ASCII keeps all places.
    let at = reply.to_ascii_lowercase().rfind(mark)? + mark.len();
    let rest = reply.get(at..)?;
    Some(
        rest.trim_start_matches(|c: char| c.is_whitespace() || "*_`[(\"".contains(c))
            .to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_read_and_nothing_is_guessed() {
        for (reply, score) in [
            ("Good.\nScore: 8", Some(8)),
            ("**Score:** 10/10", Some(10)),
            ("Score: [3]", Some(3)),
            ("score: 2\nScore: 9.", Some(9)),
            ("I give 8 points", None),
            ("Score: 7.5", None),
            ("Score: 11", None),
            ("Score: 0", None),
            ("Score: N", None),
            ("Score: \u{1D7D6}", None),
            ("", None),
        ] {
            assert_eq!(read_score(reply), score, "{reply}");
        }
    }

    #[test]
    fn verdicts_are_read() {
        for (reply, verdict) in [
            ("A is longer.\nVerdict: B", Some(Better::Second)),
            ("Verdict: **A**", Some(Better::First)),
            ("verdict: Tie.", Some(Better::Tie)),
            ("Verdict: both", None),
            ("Answer A", None),
            ("\u{130}Verdict: A", Some(Better::First)),
        ] {
            assert_eq!(read_verdict(reply), verdict, "{reply}");
        }
    }

    #[test]
    fn what_answers_say_is_not_filled_in_again() {
        let prompt =
            JudgePrompt::own(JudgeKind::Grade, "x", "{question}|{reference}|{answer}|{x}").unwrap();
        let filled = prompt.fill(&[
            ("{question}", "{answer}"),
            ("{reference}", "r"),
            ("{answer}", "{reference}"),
        ]);
        assert_eq!(filled, "{answer}|r|{reference}|{x}");
        assert!(JudgePrompt::own(JudgeKind::Pair, "x", "{question}{answer_a}").is_err());
        for kind in [JudgeKind::Grade, JudgeKind::Pair] {
            let shipped = kind.prompt();
            assert_eq!(
                JudgePrompt::own(kind, &shipped.name, &shipped.text).as_ref(),
                Ok(&shipped)
            );
        }
    }
}
