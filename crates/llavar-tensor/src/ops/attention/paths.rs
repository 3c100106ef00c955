//! Attention over texts that share their beginnings, without gradients.
//!
//! The stream is cut into stretches. A stretch attends to those of its path, in order, and causally to
//! itself: together they are a text up to its end. Keys and values of a stretch are packed once, however
//! many stretches go on behind it; the running softmax simply goes over one run of keys after the other.
//! On a GPU a stretch should lie directly before those that go on behind it: then nothing is copied.

use std::ops::Range;

use rayon::prelude::*;

use super::{
    AttentionSpec, OP,
    forward::{BLOCK_K, BLOCK_Q, Panel, block},
    layout::{Segment, SharedRows, gather, gather_transposed},
    problem,
};
use crate::{Error, Result, Segments, Tape, Tensor, Var, cuda, memory::Buffer};

/// Columns of packed keys are a multiple of this many floats: one vector.
const LANES: usize = 16;

/// Which stretches of a stream attend to which.
#[derive(Debug, Clone, PartialEq)]
pub struct PathSpec {
    /// The stretches of the stream, queries and keys alike.
    pub stretches: Segments,
    /// What stands before each stretch in its texts: numbers of stretches, in the order of the text.
    pub paths: Vec<Vec<usize>>,
    /// Sliding window `w`: the query at position `p` of a text sees keys `p - w ..= p`.
    pub window: Option<usize>,
    /// Factor of the scores, usually `1 / sqrt(D)`.
    pub scale: f32,
}

impl PathSpec {
    /// The same as plain attention over copied keys: which rows to copy, and who meets them.
    fn unrolled(&self) -> (Vec<usize>, AttentionSpec) {
        let ranges: Vec<Range<usize>> = self.stretches.ranges().collect();
        let mut rows = Vec::new();
        let mut lengths = Vec::with_capacity(ranges.len());
        for (own, path) in ranges.iter().zip(&self.paths) {
            let before = rows.len();
            let path = path.iter().map(|at| ranges[*at].clone());
            rows.extend(path.chain([own.clone()]).flatten());
            lengths.push(rows.len() - before);
        }
        let spec = AttentionSpec {
            q_segments: self.stretches.clone(),
            k_segments: Segments::from_lengths(lengths),
            causal: true,
            window: self.window,
            scale: self.scale,
        };
        (rows, spec)
    }

    /// The row behind the last one that sees each stretch, where every stretch lies directly before those
    /// that go on behind it and no window hides anything: what sees a key is one run of rows then.
    pub(crate) fn nested_ends(&self) -> Option<Vec<usize>> {
        let ranges: Vec<Range<usize>> = self.stretches.ranges().collect();
        let mut ends = vec![self.stretches.total(); ranges.len()];
        let mut open: Vec<usize> = Vec::new();
        for (own, path) in self.paths.iter().enumerate() {
            for closed in open.drain(path.len().min(open.len())..) {
                ends[closed] = ranges[own].start;
            }
            let length: usize = path.iter().chain([&own]).map(|at| ranges[*at].len()).sum();
            let hidden = self.window.is_some_and(|w| w.saturating_add(1) < length);
            if open != *path || hidden {
                return None;
            }
            open.push(own);
        }
        Some(ends)
    }

    fn check(&self, tokens: usize) -> Result<()> {
        let count = self.stretches.count();
        let fits = self.paths.len() == count && self.stretches.total() == tokens;
        if fits && self.paths.iter().flatten().all(|at| *at < count) {
            return Ok(());
        }
        Err(Error::InvalidArgument {
            op: OP,
            reason: format!(
                "{} paths over {count} stretches of {} tokens do not fit {tokens} tokens",
                self.paths.len(),
                self.stretches.total()
            ),
        })
    }
}

impl Tape {
    /// Attention of every stretch to its path and itself; nothing is recorded.
    ///
    /// # Shapes
    /// `q [T, Hq, D]`, `k` and `v` `[T, Hkv, D]` with Hq a multiple of Hkv -> `[T, Hq, D]`.
    ///
    /// # Errors
    /// When shapes, heads or paths do not fit, or gradients would be needed.
    pub fn path_attention(&self, q: &Var, k: &Var, v: &Var, spec: &PathSpec) -> Result<Var> {
        spec.check(q.value().shape().first().copied().unwrap_or(0))?;
        if self.needs_grad(&[q, k, v], &[]) {
            let reason = "paths have no backward pass".to_owned();
            return Err(Error::InvalidArgument { op: OP, reason });
        }
        let whole = AttentionSpec {
            q_segments: spec.stretches.clone(),
            k_segments: spec.stretches.clone(),
            causal: true,
            window: spec.window,
            scale: spec.scale,
        };
        let sizes = problem(q, k, v, &whole)?;
        let (heads, kv_heads, dim) = (sizes.heads, sizes.kv_heads, sizes.dim);
        if let Some(cuda) = q.value().cuda() {
            let inputs = [q.value(), k.value(), v.value()];
            if let Some(out) = cuda::ops::path_attention(cuda, inputs, dim, spec)? {
                return Ok(Var::constant(out));
            }
            let (rows, plain) = spec.unrolled();
            let (k, v) = (k.value().gather_rows(&rows)?, v.value().gather_rows(&rows)?);
            return self.attention(q, &k.into(), &v.into(), &plain);
        }
        let (queries, keys, values) = (
            q.value().data::<f32>()?,
            k.value().data::<f32>()?,
            v.value().data::<f32>()?,
        );
        let ranges: Vec<Range<usize>> = spec.stretches.ranges().collect();
        let packed = Packed::new(&ranges, kv_heads, dim, keys, values);
        let runs: Vec<Vec<Run>> = (0..ranges.len())
            .map(|own| runs(&ranges, &spec.paths[own], own, spec.window))
            .collect();
        let tasks: Vec<(usize, usize, Range<usize>)> = ranges
            .iter()
            .enumerate()
            .flat_map(|(own, range)| {
                let n = range.len();
                (0..heads).flat_map(move |head| {
                    let starts = (0..n).step_by(BLOCK_Q);
                    starts.map(move |i| (own, head, i..(i + BLOCK_Q).min(n)))
                })
            })
            .collect();
        let mut out = Buffer::<f32>::unspecified(queries.len());
        let mut lse = Buffer::<f32>::unspecified(q.value().rows());
        let rows = SharedRows::new(&mut out, dim);
        let sums = SharedRows::new(&mut lse, 1);
        tasks.par_iter().for_each(|(own, head, block_of)| {
            let kv_head = head / (heads / kv_heads);
            let panels = runs[*own]
                .iter()
                .flat_map(|run| packed.panels(run, kv_head, block_of.clone()));
            let first = ranges[*own].start + block_of.start;
            let tokens = first..first + block_of.len();
            let gathered = (queries, (heads, dim), *head, tokens, spec.scale);
            block(gathered, block_of.start, panels, rows, sums);
        });
        Ok(Var::constant(Tensor::from_buffer(out, q.shape())))
    }
}

/// A stretch as keys of another one, or of itself.
struct Run {
    stretch: usize,
    keys: usize,
    /// Keys are counted from the run's first, on to the end of the queries' own stretch: so the mask
    /// knows the distance between a query and a key of an earlier stretch.
    mask: Segment,
}

fn runs(ranges: &[Range<usize>], path: &[usize], own: usize, window: Option<usize>) -> Vec<Run> {
    let all: Vec<usize> = path.iter().copied().chain([own]).collect();
    let mut left: usize = all.iter().map(|at| ranges[*at].len()).sum();
    all.into_iter()
        .map(|stretch| {
            let mask = Segment::causal(0..ranges[own].len(), 0..left, window);
            let keys = ranges[stretch].len();
            left -= keys;
            Run {
                stretch,
                keys,
                mask,
            }
        })
        .collect()
}

/// Keys transposed and values made contiguous, each stretch once.
struct Packed {
    /// By stretch, key head and block of keys: `[D, columns]`.
    kt: Buffer<f32>,
    /// The same blocks: `[columns, D]`.
    v: Buffer<f32>,
    /// First element of each stretch in both, and of one of its heads the number of elements.
    starts: Vec<(usize, usize)>,
    dim: usize,
}

/// Columns that a block of `keys` keys takes.
fn columns(keys: usize) -> usize {
    keys.next_multiple_of(LANES)
}

impl Packed {
    fn new(ranges: &[Range<usize>], kv_heads: usize, dim: usize, k: &[f32], v: &[f32]) -> Self {
        let mut total = 0;
        let mut starts = Vec::with_capacity(ranges.len());
        let mut tasks = Vec::new();
        for range in ranges {
            starts.push((total, columns(range.len()) * dim));
            for head in 0..kv_heads {
                for from in range.clone().step_by(BLOCK_K) {
                    let keys = from..(from + BLOCK_K).min(range.end);
                    total += columns(keys.len()) * dim;
                    tasks.push((head, keys));
                }
            }
        }
        let mut kt = Buffer::<f32>::unspecified(total);
        let mut packed_v = Buffer::<f32>::unspecified(total);
        let (mut rest_k, mut rest_v) = (&mut kt[..], &mut packed_v[..]);
        let mut parts = Vec::with_capacity(tasks.len());
        for (head, keys) in tasks {
            let own = columns(keys.len()) * dim;
            let (part_k, after_k) = std::mem::take(&mut rest_k).split_at_mut(own);
            let (part_v, after_v) = std::mem::take(&mut rest_v).split_at_mut(own);
            (rest_k, rest_v) = (after_k, after_v);
            parts.push((head, keys, part_k, part_v));
        }
        let shape = (kv_heads, dim);
        parts.into_par_iter().for_each(|(head, keys, kt, to)| {
            gather_transposed(k, shape, head, keys.clone(), columns(keys.len()), kt);
            gather(v, shape, head, keys, 1.0, to);
        });
        Self {
            kt,
            v: packed_v,
            starts,
            dim,
        }
    }

    /// The blocks of a run that any of the queries sees.
    fn panels<'a>(
        &'a self,
        run: &'a Run,
        kv_head: usize,
        queries: Range<usize>,
    ) -> impl Iterator<Item = Panel<'a>> {
        let (start, of_head) = self.starts[run.stretch];
        let start = start + kv_head * of_head;
        let seen = run.mask.keys_of_any(queries);
        let (keys, end) = (run.keys, seen.end.min(run.keys));
        (seen.start / BLOCK_K * BLOCK_K..end)
            .step_by(BLOCK_K)
            .map(move |from| {
                let cols = BLOCK_K.min(end - from);
                let stride = columns(BLOCK_K.min(keys - from));
                let at = start + from * self.dim;
                Panel {
                    segment: &run.mask,
                    from,
                    cols,
                    kt: &self.kt[at..at + stride * self.dim],
                    stride,
                    v: &self.v[at..at + cols * self.dim],
                }
            })
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use crate::ops::testing::Rng;

    /// A random tree of up to `most` stretches of up to `longest` tokens (0 included), walked down.
    pub(crate) fn tree(rng: &mut Rng, most: usize, longest: usize) -> PathSpec {
        let count = rng.size(1, most);
        let lengths: Vec<usize> = (0..count).map(|_| rng.size(0, longest)).collect();
        let mut paths: Vec<Vec<usize>> = Vec::new();
        for own in 0..count {
            // Behind the last stretch, behind one of those before that one, or at the beginning of a text.
            let mut path: Vec<usize> = match own.checked_sub(1) {
                Some(last) => [&paths[last][..], &[last]].concat(),
                None => Vec::new(),
            };
            path.truncate(rng.size(0, path.len()));
            paths.push(path);
        }
        PathSpec {
            stretches: Segments::from_lengths(lengths),
            paths,
            window: None,
            scale: 0.6,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{Rng, close};

    #[test]
    fn only_walks_without_a_window_are_nested() {
        let spec = |paths: Vec<Vec<usize>>, window| PathSpec {
            stretches: Segments::from_lengths([3, 2, 0, 4]),
            paths,
            window,
            scale: 1.0,
        };
        let walk = vec![vec![], vec![0], vec![0, 1], vec![0]];
        let ends = |spec: PathSpec| spec.nested_ends();
        assert_eq!(ends(spec(walk.clone(), Some(6))), Some(vec![9, 5, 5, 9]));
        assert_eq!(ends(spec(walk.clone(), Some(5))), None, "7 tokens");
        let jump = vec![vec![], vec![0], vec![0], vec![0, 1]];
        assert_eq!(ends(spec(jump, None)), None);
        let skip = vec![vec![], vec![0], vec![0, 1], vec![1]];
        assert_eq!(ends(spec(skip, None)), None);
    }

    #[test]
    fn paths_equal_attention_over_copied_keys() {
        let mut rng = Rng::new(61);
        for case in 0..40 {
            let count = rng.size(1, 7);
            let longest = if case % 4 == 0 { 300 } else { 40 };
            let lengths: Vec<usize> = (0..count).map(|_| rng.size(0, longest)).collect();
            let mut paths: Vec<Vec<usize>> = Vec::new();
            for own in 0..count {
                // Behind one of the earlier stretches, or at the beginning of a text.
                let path = match rng.size(0, own) {
                    0 => Vec::new(),
                    parent => [&paths[parent - 1][..], &[parent - 1]].concat(),
                };
                paths.push(path);
            }
            let spec = PathSpec {
                stretches: Segments::from_lengths(lengths),
                paths,
                window: (case % 3 == 0).then(|| rng.size(0, longest)),
                scale: 0.6,
            };
            let (kv_heads, group, dim) = (rng.size(1, 3), rng.size(1, 3), rng.size(1, 40));
            let tokens = spec.stretches.total();
            let q = rng.tensor(&[tokens, kv_heads * group, dim]);
            let (k, v) = (
                rng.tensor(&[tokens, kv_heads, dim]),
                rng.tensor(&[tokens, kv_heads, dim]),
            );
            let tape = Tape::inference();
            let (rows, plain) = spec.unrolled();
            let copies = [&k, &v].map(|x| Var::constant(x.gather_rows(&rows).unwrap()));
            let [q, k, v] = [q, k, v].map(Var::constant);
            let want = tape.attention(&q, &copies[0], &copies[1], &plain).unwrap();
            let got = tape.path_attention(&q, &k, &v, &spec).unwrap();
            close(
                got.value().data().unwrap(),
                want.value().data().unwrap(),
                2e-6,
                &format!("case {case}: {spec:?}"),
            );
        }
    }

    #[test]
    fn paths_that_do_not_fit_are_refused() {
        let x = Var::constant(Tensor::zeros(&[4, 1, 8]));
        let spec = |paths: Vec<Vec<usize>>| PathSpec {
            stretches: Segments::from_lengths([3, 1]),
            paths,
            window: None,
            scale: 1.0,
        };
        let tape = Tape::inference();
        for paths in [vec![vec![]], vec![vec![], vec![2]]] {
            assert!(tape.path_attention(&x, &x, &x, &spec(paths)).is_err());
        }
        let tape = Tape::training();
        let x = tape.leaf(Tensor::zeros(&[4, 1, 8]));
        let spec = spec(vec![vec![], vec![0]]);
        assert!(tape.path_attention(&x, &x, &x, &spec).is_err());
    }
}
