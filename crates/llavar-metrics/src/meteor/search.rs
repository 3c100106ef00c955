//! The beam search for the best set of matches that do not overlap.
//!
//! A text that repeats one word has as many matches as its length times the reference's, and each path may go
//! on with hundreds. So what goes on is compared by numbers alone, and only what is kept becomes a path.

use super::align::{Match, range};

#[cfg(test)]
mod tests;

/// Paths kept at each word.
const BEAM: usize = 40;

/// Goes over the reference from left to right with the best [`BEAM`] paths; the matches of the best are in
/// order of the reference.
///
/// `candidates` and `settled` are by first word in the reference, `answer` is the answer's number of words. No
/// candidate but itself overlaps a settled match, so paths keep no account of the settled ones' words.
pub(super) fn search(
    candidates: &[Vec<Match>],
    settled: &[Option<Match>],
    answer: usize,
) -> Vec<Match> {
    let mut paths = vec![Path::default()];
    let mut used = Used::new(answer);
    let mut trail: Vec<Taken> = Vec::new();
    for (current, found) in candidates.iter().enumerate() {
        let mut beam = Beam::new(current + 1 == candidates.len());
        for (parent, path) in paths.iter().enumerate() {
            let mut state = path.state;
            if current < state.next {
                // Inside a match that was counted at its first word.
                beam.offer(state, parent, None);
                continue;
            }
            if let Some(settled) = &settled[current] {
                state.count(settled);
                state.distance += distance(settled);
                beam.offer(state, parent, None);
                continue;
            }
            for found in found {
                if !used.is_free(parent, found) {
                    continue;
                }
                let mut taken = state;
                taken.count(found);
                beam.offer(taken, parent, Some(found));
                // As in the original, the distance is added to the path that goes on, not to this one.
                state.distance += distance(found);
            }
            state.close();
            state.next += 1;
            beam.offer(state, parent, None);
        }
        used.follow(&beam.kept);
        paths = beam
            .kept
            .iter()
            .map(|step| step.path(&paths, &mut trail))
            .collect();
    }
    let mut matches = settled.to_vec();
    let mut last = paths.first().and_then(|path| path.last);
    while let Some(at) = last {
        let Taken { before, found } = trail[at];
        matches[found.reference.0] = Some(found);
        last = before;
    }
    matches.into_iter().flatten().collect()
}

fn distance(found: &Match) -> usize {
    found.reference.0.abs_diff(found.answer.0)
}

/// What a path is ranked by and how it can go on.
#[derive(Debug, Default, Clone, Copy)]
struct State {
    matched: usize,
    chunks: usize,
    distance: usize,
    /// First word of the reference that is not looked at yet.
    next: usize,
    /// Word of the answer behind the last match, while a chunk is open.
    open: Option<usize>,
}

impl State {
    fn count(&mut self, found: &Match) {
        self.matched +=
            found.kind.searched(found.answer.1) + found.kind.searched(found.reference.1);
        if self.open.is_some_and(|end| end != found.answer.0) {
            self.chunks += 1;
        }
        self.next = found.reference.0 + found.reference.1;
        self.open = Some(found.answer.0 + found.answer.1);
    }

    fn close(&mut self) {
        self.chunks += usize::from(self.open.take().is_some());
    }

    /// The least is the best.
    fn rank(&self) -> (std::cmp::Reverse<usize>, usize, usize) {
        (std::cmp::Reverse(self.matched), self.chunks, self.distance)
    }
}

/// A partial alignment, up to some word of the reference.
#[derive(Debug, Default)]
struct Path {
    state: State,
    /// Its last match that is not settled, in the trail.
    last: Option<usize>,
}

/// A match of a path, and the one that the path took before: paths share what they have in common.
#[derive(Debug, Clone, Copy)]
struct Taken {
    before: Option<usize>,
    found: Match,
}

/// How a path may go on.
#[derive(Debug)]
struct Step<'m> {
    state: State,
    /// The path, by its place among all.
    parent: usize,
    /// The match that it takes.
    found: Option<&'m Match>,
}

impl Step<'_> {
    fn path(&self, paths: &[Path], trail: &mut Vec<Taken>) -> Path {
        let before = paths[self.parent].last;
        let last = match self.found {
            None => before,
            Some(found) => {
                trail.push(Taken {
                    before,
                    found: *found,
                });
                Some(trail.len() - 1)
            }
        };
        Path {
            state: self.state,
            last,
        }
    }
}

/// The best steps, best first and equals in the order in which they were offered: what a stable sort of all
/// would leave in front.
struct Beam<'m> {
    kept: Vec<Step<'m>>,
    /// Whether the reference ends here, which closes every chunk.
    last: bool,
}

impl<'m> Beam<'m> {
    fn new(last: bool) -> Self {
        Self {
            kept: Vec::with_capacity(BEAM),
            last,
        }
    }

    fn offer(&mut self, mut state: State, parent: usize, found: Option<&'m Match>) {
        if self.last {
            state.close();
        }
        let rank = state.rank();
        if self.kept.len() == BEAM {
            if self.kept[BEAM - 1].state.rank() <= rank {
                return;
            }
            self.kept.pop();
        }
        let at = self.kept.partition_point(|step| step.state.rank() <= rank);
        let step = Step {
            state,
            parent,
            found,
        };
        self.kept.insert(at, step);
    }
}

/// Words of the answer that each path's matches have, a bit each.
struct Used {
    /// Numbers a path.
    width: usize,
    bits: Vec<u64>,
    /// Those of the paths before, kept for its memory.
    before: Vec<u64>,
}

impl Used {
    fn new(answer: usize) -> Self {
        let width = answer.div_ceil(64);
        Self {
            width,
            bits: vec![0; width],
            before: Vec::new(),
        }
    }

    fn is_free(&self, path: usize, found: &Match) -> bool {
        let bits = &self.bits[path * self.width..][..self.width];
        !range(found.answer).any(|at| bits[at / 64] >> (at % 64) & 1 == 1)
    }

    /// From the words of the paths to those of the paths that `steps` make of them.
    fn follow(&mut self, steps: &[Step<'_>]) {
        std::mem::swap(&mut self.bits, &mut self.before);
        self.bits.clear();
        for step in steps {
            let start = self.bits.len();
            let parent = &self.before[step.parent * self.width..][..self.width];
            self.bits.extend_from_slice(parent);
            if let Some(found) = step.found {
                range(found.answer).for_each(|at| self.bits[start + at / 64] |= 1 << (at % 64));
            }
        }
    }
}
