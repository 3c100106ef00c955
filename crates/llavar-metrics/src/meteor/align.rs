//! The alignment of two texts: all matches, then a search for the best set that do not overlap.

use rust_stemmers::{Algorithm, Stemmer};

use super::{resources::Resources, search::search};

/// How words match, in the order in which matches are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Exact,
    Stem,
    Synonym,
    Paraphrase,
}

impl Kind {
    pub(super) const ALL: [Self; 4] = [Self::Exact, Self::Stem, Self::Synonym, Self::Paraphrase];

    /// Weight in the score.
    pub(super) fn weight(self) -> f64 {
        match self {
            Self::Exact => 1.0,
            Self::Stem | Self::Paraphrase => 0.6,
            Self::Synonym => 0.8,
        }
    }

    /// What a match of `words` words adds while searching: half of what is not exact, cut to whole words.
    pub(super) fn searched(self, words: usize) -> usize {
        if self == Self::Exact {
            words
        } else {
            words / 2
        }
    }
}

/// Words of the answer that match words of the reference; ranges are (first word, number of words).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Match {
    pub(super) kind: Kind,
    pub(super) answer: (usize, usize),
    pub(super) reference: (usize, usize),
}

/// The best set of matches.
#[derive(Debug, Default)]
pub(super) struct Alignment {
    /// In order of the reference.
    pub(super) matches: Vec<Match>,
    /// Runs of matches that are in the same order and unbroken on both sides.
    pub(super) chunks: u64,
}

/// Aligns the words of an answer and of a reference.
pub(super) fn align(
    answer: &[String],
    reference: &[String],
    resources: Option<&Resources>,
) -> Alignment {
    let candidates = candidates(answer, reference, resources);
    let settled = settled(&candidates, answer.len());
    let matches = search(&candidates, &settled, answer.len());
    Alignment {
        chunks: chunks(&matches),
        matches,
    }
}

/// Matches that no other overlaps, by first word in the reference: they need no search.
pub(super) fn settled(candidates: &[Vec<Match>], answer: usize) -> Vec<Option<Match>> {
    let mut covered = (vec![0u32; answer], vec![0u32; candidates.len()]);
    for found in candidates.iter().flatten() {
        range(found.answer).for_each(|at| covered.0[at] += 1);
        range(found.reference).for_each(|at| covered.1[at] += 1);
    }
    let alone = |found: &Match| {
        range(found.answer).all(|at| covered.0[at] == 1)
            && range(found.reference).all(|at| covered.1[at] == 1)
    };
    candidates
        .iter()
        .map(|found| match found.as_slice() {
            [found] if alone(found) => Some(*found),
            _ => None,
        })
        .collect()
}

pub(super) fn range((start, length): (usize, usize)) -> std::ops::Range<usize> {
    start..start + length
}

/// Every match, by its first word in the reference.
pub(super) fn candidates(
    answer: &[String],
    reference: &[String],
    resources: Option<&Resources>,
) -> Vec<Vec<Match>> {
    let mut candidates = vec![Vec::new(); reference.len()];
    let mut words = |kind, same: &dyn Fn(usize, usize) -> bool| {
        for r in 0..reference.len() {
            for a in 0..answer.len() {
                if same(a, r) {
                    candidates[r].push(Match {
                        kind,
                        answer: (a, 1),
                        reference: (r, 1),
                    });
                }
            }
        }
    };
    words(Kind::Exact, &|a, r| answer[a] == reference[r]);
    // Equal texts need no more, and the beam could lose the one chunk among others.
    if answer == reference {
        return candidates;
    }
    let stemmer = Stemmer::create(Algorithm::English);
    let stems = |words: &[String]| -> Vec<String> {
        words
            .iter()
            .map(|word| stemmer.stem(word).into_owned())
            .collect()
    };
    let (answer_stems, reference_stems) = (stems(answer), stems(reference));
    words(Kind::Stem, &|a, r| {
        answer[a] != reference[r] && answer_stems[a] == reference_stems[r]
    });
    let Some(resources) = resources else {
        return candidates;
    };
    let sets = |words: &[String]| -> Vec<Vec<u32>> {
        words
            .iter()
            .map(|word| resources.synonym_sets(word))
            .collect()
    };
    let (answer_sets, reference_sets) = (sets(answer), sets(reference));
    words(Kind::Synonym, &|a, r| {
        answer[a] != reference[r]
            && answer_sets[a]
                .iter()
                .any(|set| reference_sets[r].contains(set))
    });
    // The table is read in both directions.
    for (reference, answer) in resources.paraphrases(reference, answer) {
        candidates[reference.0].push(Match {
            kind: Kind::Paraphrase,
            answer,
            reference,
        });
    }
    for (answer, reference) in resources.paraphrases(answer, reference) {
        candidates[reference.0].push(Match {
            kind: Kind::Paraphrase,
            answer,
            reference,
        });
    }
    candidates
}

/// Runs of matches, given in order of the reference.
fn chunks(matches: &[Match]) -> u64 {
    let breaks = matches.windows(2).filter(|pair| {
        let [left, right] = [pair[0], pair[1]];
        range(left.reference).end != right.reference.0 || range(left.answer).end != right.answer.0
    });
    u64::from(!matches.is_empty()) + breaks.count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn the_fewest_chunks_win() {
        // "a" twice in the reference: taking the second makes one chunk.
        let alignment = align(&words("a b c"), &words("a x a b c"), None);
        assert_eq!(alignment.matches.len(), 3);
        assert_eq!(alignment.chunks, 1);
        let alignment = align(&words("c b a"), &words("a b c"), None);
        assert_eq!((alignment.matches.len(), alignment.chunks), (3, 3));
    }

    #[test]
    fn stems_match_where_words_do_not() {
        let alignment = align(&words("dogs running"), &words("dog runs"), None);
        assert_eq!(alignment.matches.len(), 2);
        assert!(
            alignment
                .matches
                .iter()
                .all(|found| found.kind == Kind::Stem)
        );
        assert_eq!(alignment.chunks, 1);
    }

    #[test]
    fn no_words_no_matches() {
        assert_eq!(align(&[], &words("a"), None).chunks, 0);
        assert_eq!(align(&words("a"), &[], None).matches.len(), 0);
    }
}
