//! Faults planted in good data, to see whether scores find them.
//!
//! Every sample of the result differs from its original in one way; what a score is worth is how often it
//! is worse (higher) for a faulty pair than for a clean one: [`auc`].

use llavar_data::Sample;
use rand::{
    Rng, SeedableRng,
    seq::{IndexedRandom, SliceRandom},
};
use rand_chacha::ChaCha8Rng;

use crate::{Duos, Pair, PairKind, pairs};

/// What is wrong with a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// All answers are those that another picture has for the same questions (or, where nobody else was
    /// asked the same, other ones).
    SwappedAnswers,
    /// The answers are sentences that say nothing about any picture.
    IgnoresPicture,
    /// Facts are right; the explanations are those of another fact.
    ContradictingExplanation,
    /// The words of all answers in another order.
    ShuffledWords,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::SwappedAnswers,
        Self::IgnoresPicture,
        Self::ContradictingExplanation,
        Self::ShuffledWords,
    ];

    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::SwappedAnswers => "answers of another picture",
            Self::IgnoresPicture => "answers that ignore the picture",
            Self::ContradictingExplanation => "explanations of another fact",
            Self::ShuffledWords => "shuffled words",
        }
    }

    /// Whether a pair of this kind is changed.
    pub fn touches(self, kind: PairKind) -> bool {
        self != Self::ContradictingExplanation || kind == PairKind::SelfExplain
    }
}

/// What is said where nobody has looked.
const EMPTY_TALK: [&str; 6] = [
    "It is hard to say without more context.",
    "Pictures like this one often contain a lot of information.",
    "As with most documents, the details matter.",
    "There are many possible answers to this question.",
    "This is a common question about documents of this kind.",
    "In general, one should read such things carefully.",
];

/// The samples with a fault each. The same seed gives the same faults; a sample for which there is no
/// other one to take answers from is left out.
pub fn plant(samples: &[Sample], fault: Fault, seed: u64) -> Vec<Sample> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let all: Vec<Vec<Pair>> = samples.iter().map(|s| pairs(s, Duos::Auto)).collect();
    let mut planted = Vec::with_capacity(samples.len());
    for (at, sample) in samples.iter().enumerate() {
        let mut sample = sample.clone();
        let mut changed = false;
        for pair in all[at].iter().filter(|pair| fault.touches(pair.kind)) {
            let (Some(own), Some(turn)) =
                (&pair.answer, sample.conversations.get_mut(pair.qa_id + 1))
            else {
                continue;
            };
            let new = match fault {
                Fault::SwappedAnswers | Fault::ContradictingExplanation => {
                    other_answer(&all, at, pair, own, &mut rng)
                }
                Fault::IgnoresPicture => {
                    Some(EMPTY_TALK[rng.random_range(0..EMPTY_TALK.len())].to_owned())
                }
                Fault::ShuffledWords => shuffled(own, &mut rng),
            };
            if let Some(new) = new {
                turn.value = new;
                changed = true;
            }
        }
        if changed {
            planted.push(sample);
        }
    }
    planted
}

/// Another sample's answer to the same question, if there is one, else to one of the same kind.
fn other_answer(
    all: &[Vec<Pair>],
    at: usize,
    pair: &Pair,
    own: &str,
    rng: &mut ChaCha8Rng,
) -> Option<String> {
    let others = |same_question: bool| -> Vec<&String> {
        let elsewhere = all.iter().enumerate().filter(|(other, _)| *other != at);
        let of_kind = elsewhere
            .flat_map(|(_, pairs)| pairs)
            .filter(|other| other.kind == pair.kind)
            .filter(|other| !same_question || other.question == pair.question);
        of_kind
            .filter_map(|other| other.answer.as_ref())
            .filter(|answer| *answer != own)
            .collect()
    };
    let mut candidates = others(true);
    if candidates.is_empty() {
        candidates = others(false);
    }
    candidates.choose(rng).map(|answer| (*answer).clone())
}

/// `None` for an answer that has no other order.
fn shuffled(text: &str, rng: &mut ChaCha8Rng) -> Option<String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    // A shuffle may give the same order again; a few tries find another one where there is one.
    (0..8).find_map(|_| {
        let mut new = words.clone();
        new.shuffle(rng);
        (new != words).then(|| new.join(" "))
    })
}

/// How often a faulty value is above a clean one, equal values counting half: 0.5 is chance, 1 finds all.
/// `None` where there are no values of one kind.
///
/// # Source
/// Mann and Whitney 1947: the area under the curve of true over false positives.
pub fn auc(faulty: &[f64], clean: &[f64]) -> Option<f64> {
    let mut clean = clean.to_vec();
    clean.sort_by(f64::total_cmp);
    let below = |x: f64| {
        let less = clean.partition_point(|y| *y < x);
        let equal = clean.partition_point(|y| *y <= x) - less;
        less as f64 + 0.5 * equal as f64
    };
    let wins: f64 = faulty.iter().map(|x| below(*x)).sum();
    let all = faulty.len() * clean.len();
    (all > 0).then(|| wins / all as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn samples() -> Vec<Sample> {
        let sample = |name: &str| {
            let turn = |from: &str, value: String| json!({"from": from, "value": value});
            let conversations = [
                turn("human", "<image>\nWhat place?".into()),
                turn("gpt", format!("The sign says {name}.")),
                turn("human", "What shows it?".into()),
                turn("gpt", format!("The text {name} near the top shows it.")),
            ];
            let sample = json!({"id": name, "image": name, "conversations": conversations});
            Sample::from_json(sample).unwrap()
        };
        ["HOTEL", "MUSEUM", "STATION"].map(sample).to_vec()
    }

    fn answers(sample: &Sample) -> [&str; 2] {
        [1, 3].map(|turn| sample.conversations[turn].value.as_str())
    }

    #[test]
    fn every_fault_changes_what_it_says_and_nothing_else() {
        let clean = samples();
        for fault in Fault::ALL {
            let planted = plant(&clean, fault, 1);
            assert_eq!(planted, plant(&clean, fault, 1));
            assert_eq!(planted.len(), clean.len());
            for (old, new) in clean.iter().zip(&planted) {
                let ([fact, why], [new_fact, new_why]) = (answers(old), answers(new));
                let same_words = |a: &str, b: &str| {
                    let sorted = |text: &str| {
                        let mut words: Vec<&str> = text.split(' ').collect();
                        words.sort_unstable();
                        words.join(" ")
                    };
                    sorted(a) == sorted(b)
                };
                assert_ne!(why, new_why, "{fault:?}");
                assert_eq!(fact == new_fact, fault == Fault::ContradictingExplanation);
                assert_eq!(
                    same_words(fact, new_fact) && same_words(why, new_why),
                    fault == Fault::ShuffledWords
                );
                let taken = clean.iter().any(|other| answers(other)[1] == new_why);
                let swapped = matches!(
                    fault,
                    Fault::SwappedAnswers | Fault::ContradictingExplanation
                );
                assert_eq!(taken, swapped);
                let mut rest = new.clone();
                for turn in [1, 3] {
                    rest.conversations[turn].value = old.conversations[turn].value.clone();
                }
                assert_eq!(&rest, old);
            }
        }
        assert!(plant(&clean[..1], Fault::SwappedAnswers, 1).is_empty());
    }

    #[test]
    fn areas_under_curves() {
        assert_eq!(auc(&[3.0, 4.0], &[1.0, 2.0]), Some(1.0));
        assert_eq!(auc(&[1.0, 4.0], &[2.0, 3.0]), Some(0.5));
        assert_eq!(auc(&[1.0], &[1.0, 1.0]), Some(0.5));
        assert_eq!(auc(&[], &[1.0]), None);
    }
}
