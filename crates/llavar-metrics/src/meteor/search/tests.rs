//! The search against itself written out plainly: every way on is a path of its own, all are sorted.

use super::*;
use crate::meteor::{
    align::{Kind, candidates, settled},
    resources::Resources,
};
use proptest::prelude::*;

#[derive(Debug, Clone)]
struct PlainPath {
    /// By first word in the reference.
    matches: Vec<Option<Match>>,
    used_answer: Vec<bool>,
    used_reference: Vec<bool>,
    state: State,
}

impl PlainPath {
    fn take(&mut self, found: Match) {
        self.matches[found.reference.0] = Some(found);
        range(found.answer).for_each(|at| self.used_answer[at] = true);
        range(found.reference).for_each(|at| self.used_reference[at] = true);
    }

    fn is_free(&self, found: &Match) -> bool {
        !range(found.answer).any(|at| self.used_answer[at])
            && !range(found.reference).any(|at| self.used_reference[at])
    }

    fn rank(&self) -> (std::cmp::Reverse<usize>, usize, usize) {
        self.state.rank()
    }
}

fn plain_search(candidates: &[Vec<Match>], settled: &[Option<Match>], answer: usize) -> Vec<Match> {
    let mut start = PlainPath {
        matches: vec![None; candidates.len()],
        used_answer: vec![false; answer],
        used_reference: vec![false; candidates.len()],
        state: State::default(),
    };
    settled
        .iter()
        .flatten()
        .for_each(|found| start.take(*found));
    let mut paths = vec![start];
    for (current, found) in candidates.iter().enumerate() {
        paths.sort_by_key(PlainPath::rank);
        paths.truncate(BEAM);
        let mut next = Vec::new();
        for mut path in paths {
            if path.used_reference[current] {
                if current >= path.state.next {
                    let settled = path.matches[path.state.next].unwrap();
                    path.state.count(&settled);
                    path.state.distance += distance(&settled);
                }
                next.push(path);
                continue;
            }
            for found in found {
                if !path.is_free(found) {
                    continue;
                }
                let mut taken = path.clone();
                taken.take(*found);
                taken.state.count(found);
                path.state.distance += distance(found);
                next.push(taken);
            }
            path.state.close();
            path.state.next += 1;
            next.push(path);
        }
        paths = next;
    }
    paths.iter_mut().for_each(|path| path.state.close());
    let best = paths.into_iter().min_by_key(PlainPath::rank).unwrap();
    best.matches.into_iter().flatten().collect()
}

fn same_as_plain(candidates: &[Vec<Match>], answer: usize) -> Result<(), TestCaseError> {
    let settled = settled(candidates, answer);
    prop_assert_eq!(
        search(candidates, &settled, answer),
        plain_search(candidates, &settled, answer)
    );
    Ok(())
}

/// Synonyms and paraphrases of the words below; a paraphrase has up to three words.
fn resources() -> Resources {
    Resources::of(
        &[
            ("car", &[1, 2]),
            ("auto", &[1]),
            ("van", &[2]),
            ("red", &[3]),
            ("crimson", &[3]),
        ],
        &[
            ("red car", "auto"),
            ("car", "red van"),
            ("the red car", "the van"),
            ("a", "the"),
            ("the the", "a a a"),
        ],
    )
}

fn texts(words: usize) -> impl Strategy<Value = Vec<String>> {
    let word = prop::sample::select(vec![
        "the", "the", "a", "car", "cars", "auto", "van", "red", "crimson", "running", "runs",
    ]);
    prop::collection::vec(word.prop_map(str::to_owned), 0..words)
}

/// Texts of one or two words over and over, some longer than a number has bits.
fn repeating(words: usize) -> impl Strategy<Value = Vec<String>> {
    (
        prop::sample::subsequence(vec!["the", "car", "cars", "van", "red"], 1..3),
        prop::collection::vec(any::<prop::sample::Index>(), 1..words),
    )
        .prop_map(|(of, at)| at.iter().map(|at| at.get(&of).to_string()).collect())
}

/// Matches of any ranges, overlapping or not, which texts need not give.
fn any_candidates() -> impl Strategy<Value = (Vec<Vec<Match>>, usize)> {
    (1usize..12, 1usize..12).prop_flat_map(|(answer, reference)| {
        let one = (
            0..Kind::ALL.len(),
            0..answer,
            0..reference,
            1usize..4,
            1usize..4,
        );
        let found = prop::collection::vec(one, 0..40).prop_map(move |all| {
            let mut candidates = vec![Vec::new(); reference];
            for (kind, a, r, of_answer, of_reference) in all {
                candidates[r].push(Match {
                    kind: Kind::ALL[kind],
                    answer: (a, of_answer.min(answer - a)),
                    reference: (r, of_reference.min(reference - r)),
                });
            }
            candidates
        });
        (found, Just(answer))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn texts_are_aligned_as_by_the_plain_search(answer in texts(24), reference in texts(24)) {
        same_as_plain(&candidates(&answer, &reference, None), answer.len())?;
        same_as_plain(&candidates(&answer, &reference, Some(&resources())), answer.len())?;
    }

    #[test]
    fn any_matches_are_searched_as_by_the_plain_search((candidates, answer) in any_candidates()) {
        same_as_plain(&candidates, answer)?;
    }
}

proptest! {
    // The plain search takes long for these.
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn repeating_texts_are_aligned_as_by_the_plain_search(
        answer in repeating(90),
        reference in repeating(30),
    ) {
        same_as_plain(&candidates(&answer, &reference, None), answer.len())?;
        same_as_plain(&candidates(&answer, &reference, Some(&resources())), answer.len())?;
    }
}
