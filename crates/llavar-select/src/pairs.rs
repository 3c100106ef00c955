//! Question-answer pairs of a conversation, single or in duos.

use llavar_data::{IMAGE_TAG, Role, Sample};
use serde::{Deserialize, Serialize};

/// What a pair is in its conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PairKind {
    /// A pair that stands for itself: a caption, a question of an ordinary conversation.
    Single,
    /// The first pair of a duo: it asks for a fact.
    Extractive,
    /// The second pair of a duo: it asks what in the picture supports the fact.
    SelfExplain,
}

impl PairKind {
    /// The name in score files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::Extractive => "extractive",
            Self::SelfExplain => "self_explain",
        }
    }

    /// The kind of a name in score files.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Single, Self::Extractive, Self::SelfExplain]
            .into_iter()
            .find(|kind| kind.as_str() == name)
    }
}

/// When conversations are read as duos.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Duos {
    /// Where the number of turns is a multiple of four, as in LLaVAR-2's data.
    #[default]
    Auto,
    /// Always; a pair left over is single.
    Always,
    /// Never.
    Never,
}

/// One question and its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// Number of the question's turn in the conversation.
    pub qa_id: usize,
    /// Single, or which one of a duo.
    pub kind: PairKind,
    /// The question without `<image>` tags.
    pub question: String,
    /// The answer; absent where the conversation ends with a question.
    pub answer: Option<String>,
}

/// The pairs of a sample in order.
///
/// # Source
/// `IFD.py` and `VFD.py` of LLaVAR-2 walk a conversation in steps of two turns, `FFD.py` in steps of four.
pub fn pairs(sample: &Sample, duos: Duos) -> Vec<Pair> {
    let turns = &sample.conversations;
    let in_duos = match duos {
        Duos::Auto => turns.len().is_multiple_of(4),
        Duos::Always => true,
        Duos::Never => false,
    };
    let whole_duos = if in_duos { turns.len() / 4 } else { 0 };
    let mut pairs = Vec::with_capacity(turns.len().div_ceil(2));
    for (i, turn) in turns.iter().enumerate() {
        match turn.from {
            Role::Human => pairs.push(Pair {
                qa_id: i,
                kind: match (i / 4 < whole_duos, i % 4) {
                    (false, _) => PairKind::Single,
                    (true, 0) => PairKind::Extractive,
                    (true, _) => PairKind::SelfExplain,
                },
                question: without_tags(&turn.value),
                answer: None,
            }),
            Role::Gpt => {
                if let Some(pair) = pairs.last_mut() {
                    pair.answer = Some(without_tags(&turn.value));
                }
            }
        }
    }
    pairs
}

/// A text without picture tags and the white space that they leave at its ends.
pub(crate) fn without_tags(text: &str) -> String {
    if text.contains(IMAGE_TAG) {
        text.replace(IMAGE_TAG, "").trim().to_owned()
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn sample(turns: usize) -> Sample {
        let turns: Vec<_> = (0..turns)
            .map(|i| match i % 2 {
                0 => json!({"from": "human", "value": format!("q{i}\n<image>")}),
                _ => json!({"from": "gpt", "value": format!("a{i}")}),
            })
            .collect();
        let images: Vec<String> = (0..turns.len().div_ceil(2))
            .map(|i| i.to_string())
            .collect();
        let sample = json!({"id": "s", "image": images, "conversations": turns});
        Sample::from_json(sample).unwrap()
    }

    fn kinds(turns: usize, duos: Duos) -> Vec<&'static str> {
        let pairs = pairs(&sample(turns), duos);
        pairs.iter().map(|pair| pair.kind.as_str()).collect()
    }

    #[test]
    fn duos_by_the_number_of_turns() {
        use PairKind::*;
        let names = |kinds: &[PairKind]| kinds.iter().map(|k| k.as_str()).collect::<Vec<_>>();
        assert_eq!(kinds(4, Duos::Auto), names(&[Extractive, SelfExplain]));
        assert_eq!(kinds(6, Duos::Auto), names(&[Single; 3]));
        assert_eq!(
            kinds(6, Duos::Always),
            names(&[Extractive, SelfExplain, Single])
        );
        assert_eq!(kinds(8, Duos::Never), names(&[Single; 4]));
        let first = &pairs(&sample(4), Duos::Auto)[1];
        assert_eq!((first.qa_id, first.question.as_str()), (2, "q2"));
        assert_eq!(first.answer.as_deref(), Some("a3"));
        assert_eq!(PairKind::from_name("self_explain"), Some(SelfExplain));
    }
}
