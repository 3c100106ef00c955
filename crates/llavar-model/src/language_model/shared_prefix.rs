//! Texts that begin alike, run once where they are alike.
//!
//! The texts of one pass become a tree of stretches of tokens: what several texts begin with is one
//! stretch, computed once, and what follows attends to the keys and values of its whole path. A text's
//! outputs are the same ones that it has alone, up to the rounding of sums.

use std::{ops::Range, sync::Arc};

use llavar_tensor::{Result as TensorResult, Segments, Tape, Var, ops::PathSpec};

use super::{
    LanguageModel,
    decoder_layer::{Attention, Read, StreamPlan},
};

/// Tokens that texts must have in common before a stretch is cut for it: a shorter stretch saves less
/// than a run of keys of its own costs.
const LEAST_SHARED: usize = 8;

/// A stretch of tokens in the stream.
#[derive(Debug, Clone)]
struct Stretch {
    ids: Vec<i32>,
    /// Tokens before it in its texts.
    depth: usize,
    parent: Option<usize>,
    children: Vec<usize>,
}

/// Texts of one pass, each beginning stored once.
///
/// # Units
/// Tokens; every position of a picture is one.
#[derive(Debug, Clone, Default)]
pub struct SharedPrefixes {
    stretches: Vec<Stretch>,
    /// The last stretch of every text, in the order of adding.
    ends: Vec<usize>,
    /// Stretches that no other text may share.
    alone: Vec<bool>,
}

impl SharedPrefixes {
    /// No text yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of texts.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is no text.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Tokens to compute.
    pub fn tokens(&self) -> usize {
        self.stretches.iter().map(|s| s.ids.len()).sum()
    }

    /// Adds a text; its number. Negative ids are positions of pictures: texts share those with equal ids.
    /// A text that is `alone` shares nothing (one whose keys are rotated otherwise, see
    /// [`LanguageModel::is_long`]).
    pub fn push(&mut self, ids: &[i32], alone: bool) -> usize {
        let mut parent = None;
        let mut rest = ids;
        while !alone && !rest.is_empty() {
            let next = self.siblings(parent).into_iter().find_map(|at| {
                let own = &self.stretches[at].ids;
                let same = own.iter().zip(rest).take_while(|(a, b)| a == b).count();
                // A text that ends inside the stretch, or goes on behind it, shares however little.
                let whole = same == own.len() || same == rest.len();
                (same > 0 && (whole || same >= LEAST_SHARED)).then_some((at, same))
            });
            let Some((at, same)) = next else { break };
            self.cut(at, same);
            parent = Some(at);
            rest = &rest[same..];
        }
        let end = match parent {
            Some(at) if rest.is_empty() => at,
            parent => self.grow(rest.to_vec(), ids.len() - rest.len(), parent, alone),
        };
        self.ends.push(end);
        self.ends.len() - 1
    }

    fn siblings(&self, parent: Option<usize>) -> Vec<usize> {
        match parent {
            Some(at) => self.stretches[at].children.clone(),
            None => (0..self.stretches.len())
                .filter(|at| self.stretches[*at].parent.is_none() && !self.alone[*at])
                .collect(),
        }
    }

    fn grow(&mut self, ids: Vec<i32>, depth: usize, parent: Option<usize>, alone: bool) -> usize {
        let at = self.stretches.len();
        self.stretches.push(Stretch {
            ids,
            depth,
            parent,
            children: Vec::new(),
        });
        self.alone.push(alone);
        if let Some(parent) = parent {
            self.stretches[parent].children.push(at);
        }
        at
    }

    /// Ends a stretch after `keep` tokens; the others become its only child.
    fn cut(&mut self, at: usize, keep: usize) {
        if keep == self.stretches[at].ids.len() {
            return;
        }
        let tail = self.stretches[at].ids.split_off(keep);
        let children = std::mem::take(&mut self.stretches[at].children);
        let depth = self.stretches[at].depth + keep;
        let child = self.grow(tail, depth, Some(at), self.alone[at]);
        for grandchild in &children {
            self.stretches[*grandchild].parent = Some(child);
        }
        self.stretches[child].children = children;
        let ends = self.ends.iter_mut().filter(|end| **end == at);
        ends.for_each(|end| *end = child);
    }

    /// Stretches in the order of the stream: each directly before those that go on behind it, so that what
    /// sees a key is one run of rows.
    fn walk(&self) -> Vec<usize> {
        let mut next: Vec<usize> = (0..self.stretches.len())
            .filter(|at| self.stretches[*at].parent.is_none())
            .rev()
            .collect();
        let mut walk = Vec::with_capacity(self.stretches.len());
        while let Some(at) = next.pop() {
            walk.push(at);
            next.extend(self.stretches[at].children.iter().rev());
        }
        walk
    }

    /// The ids of the stream, stretch by stretch.
    pub fn ids(&self) -> Vec<i32> {
        let walk = self.walk();
        let all = walk.iter().flat_map(|at| &self.stretches[*at].ids);
        all.copied().collect()
    }

    /// Where every token of each text lies in the stream.
    pub fn all_rows(&self) -> Vec<Vec<usize>> {
        let starts = self.starts();
        let ends = self.ends.iter();
        ends.map(|end| self.rows_to(*end, &starts)).collect()
    }

    /// The first row of every stretch.
    fn starts(&self) -> Vec<usize> {
        let mut starts = vec![0; self.stretches.len()];
        let mut next = 0;
        for at in self.walk() {
            starts[at] = next;
            next += self.stretches[at].ids.len();
        }
        starts
    }

    fn rows_to(&self, end: usize, starts: &[usize]) -> Vec<usize> {
        let path = self.path_to(end).into_iter().chain([end]);
        path.flat_map(|at| starts[at]..starts[at] + self.stretches[at].ids.len())
            .collect()
    }

    /// The stretches before one in its texts.
    fn path_to(&self, at: usize) -> Vec<usize> {
        let parent = |at: &usize| self.stretches[*at].parent;
        let mut path: Vec<usize> = std::iter::successors(parent(&at), parent).collect();
        path.reverse();
        path
    }

    /// Of every stretch in the order of the stream: its length, and which stretches of that order stand
    /// before it in its texts.
    fn paths(&self) -> (Segments, Vec<Vec<usize>>) {
        let walk = self.walk();
        let mut place = vec![0; walk.len()];
        for (i, at) in walk.iter().enumerate() {
            place[*at] = i;
        }
        let path = |at: &usize| self.path_to(*at).into_iter().map(|at| place[at]).collect();
        let lengths = walk.iter().map(|at| self.stretches[*at].ids.len());
        (
            Segments::from_lengths(lengths),
            walk.iter().map(path).collect(),
        )
    }

    /// Positions of every stretch's tokens in its texts, with a length that stands for theirs, in the order
    /// of the stream.
    fn positions(&self) -> Vec<(Range<usize>, usize)> {
        let stretches = self.walk().into_iter().map(|at| &self.stretches[at]);
        stretches
            .map(|s| (s.depth..s.depth + s.ids.len(), s.depth + s.ids.len()))
            .collect()
    }
}

impl LanguageModel {
    /// As [`LanguageModel::forward`] for texts that share their beginnings, without gradients; `read` may name a
    /// row more than once.
    ///
    /// # Shapes
    /// `x [T, D]`, the embeddings of [`SharedPrefixes::ids`], `read [n]` -> `[n, D]`.
    ///
    /// # Errors
    /// When the shapes do not fit or the device has no room.
    pub fn forward_shared(
        &self,
        x: &Var,
        texts: &SharedPrefixes,
        read: Arc<[usize]>,
    ) -> TensorResult<Var> {
        let tape = Tape::inference();
        let (stretches, paths) = texts.paths();
        let plan = StreamPlan {
            rotations: self.rope.rotations(&texts.positions()),
            attention: Attention::Paths(PathSpec {
                stretches,
                paths,
                window: self.config.sliding_window,
                scale: self.attention_scale(),
            }),
        };
        let mut read = Some(Read {
            rows: read,
            attention: None,
        });
        let mut x = x.clone();
        for (n, layer) in self.layers.iter().enumerate() {
            let read = read.take_if(|_| n + 1 == self.layers.len());
            x = layer.forward(&tape, &x, &plan, None, read.as_ref())?;
        }
        self.norm.forward(&tape, &x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The ids of a text, read back from the stream.
    fn read_back(texts: &SharedPrefixes, text: usize) -> Vec<i32> {
        let ids = texts.ids();
        let rows = &texts.all_rows()[text];
        rows.iter().map(|row| ids[*row]).collect()
    }

    #[test]
    fn beginnings_are_stored_once_and_a_text_may_end_inside_another() {
        let long: Vec<i32> = (0..40).collect();
        let mut other = long.clone();
        other[30] = 99;
        let mut texts = SharedPrefixes::new();
        for ids in [&long[..], &other, &long[..20], &long, &[50, 51]] {
            texts.push(ids, false);
        }
        assert_eq!(texts.tokens(), 40 + 10 + 2);
        assert_eq!(read_back(&texts, 1), other);
        assert_eq!(read_back(&texts, 2), &long[..20]);
        assert_eq!(read_back(&texts, 3), long);
        let alone = texts.push(&long, true);
        assert_eq!((texts.tokens(), alone), (92, 5));
        assert_eq!(read_back(&texts, alone), long);
        texts.push(&long, false);
        assert_eq!(texts.tokens(), 92, "a lone text is not shared");
    }

    proptest! {
        #[test]
        fn every_text_reads_back(texts in prop::collection::vec(prop::collection::vec(0i32..2, 1..40), 1..12)) {
            let mut tree = SharedPrefixes::new();
            for (i, ids) in texts.iter().enumerate() {
                prop_assert_eq!(tree.push(ids, false), i);
            }
            for (i, ids) in texts.iter().enumerate() {
                prop_assert_eq!(&read_back(&tree, i), ids);
            }
            prop_assert_eq!(tree.all_rows().len(), texts.len());
            // Whatever stands before a stretch in its texts encloses it in the stream.
            let (stretches, paths) = tree.paths();
            prop_assert_eq!(stretches.total(), tree.tokens());
            for (own, path) in paths.iter().enumerate() {
                let before: Vec<usize> = (0..own).filter(|at| path.contains(at)).collect();
                prop_assert_eq!(&before, path);
                let nearest = path.last().map_or(0, |at| at + 1);
                for between in nearest..own {
                    prop_assert!(paths[between].starts_with(path), "{:?}", paths);
                }
            }
            prop_assert!(tree.tokens() <= texts.iter().map(Vec::len).sum());
        }
    }
}
