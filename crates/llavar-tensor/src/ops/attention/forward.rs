//! Blocked forward pass: parallel over (segment, head, block of queries).

use std::ops::Range;

use rayon::prelude::*;

use super::layout::{Problem, Segment, SharedRows, cut, gather, gather_transposed, with_scratch};
use crate::{
    cpu::{self, Layout, Rows, gemm_serial},
    memory::Buffer,
};

/// Queries of a block.
pub(super) const BLOCK_Q: usize = 64;
/// Keys of a block: a block of scores (64 x 128 floats) and its keys stay in the first-level caches.
pub(super) const BLOCK_K: usize = 128;

/// Writes the output `[T, Hq, D]` and the log-sum-exp of the scores `[T, Hq]` (-inf where a query sees
/// no key).
pub(super) fn run(
    problem: &Problem,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    out: &mut [f32],
    lse: &mut [f32],
) {
    let packed = Packed::new(problem, k, v);
    let tasks: Vec<(&Segment, usize, Range<usize>, usize)> = problem
        .segments
        .iter()
        .zip(&packed.starts)
        .flat_map(|(segment, start)| {
            let n = segment.q.len();
            (0..problem.heads).flat_map(move |head| {
                (0..n)
                    .step_by(BLOCK_Q)
                    .map(move |i| (segment, head, i..(i + BLOCK_Q).min(n), *start))
            })
        })
        .collect();
    let out = SharedRows::new(out, problem.dim);
    let lse = SharedRows::new(lse, 1);
    let shape = (problem.heads, problem.dim);
    tasks
        .par_iter()
        .for_each(|(segment, head, queries, start)| {
            let first = segment.q.start + queries.start;
            let scaled = (q, shape, *head, first..first + queries.len(), problem.scale);
            let panels = packed.panels(problem, segment, *head, *start, queries.clone());
            block(scaled, queries.start, panels, out, lse);
        });
}

/// A block of keys and values of one head, and who sees them.
pub(super) struct Panel<'a> {
    /// The mask; keys are counted from the first one of its segment.
    pub(super) segment: &'a Segment,
    /// First key of the block.
    pub(super) from: usize,
    pub(super) cols: usize,
    /// Keys, `[D, stride]`.
    pub(super) kt: &'a [f32],
    pub(super) stride: usize,
    /// Values, `[cols, D]`.
    pub(super) v: &'a [f32],
}

/// Keys transposed and values made contiguous, once a call: every block of queries reads them.
struct Packed {
    /// By segment, key head and block of keys: `[D, BLOCK_K]`.
    kt: Buffer<f32>,
    /// By segment and key head: `[keys rounded up to blocks, D]`.
    v: Buffer<f32>,
    /// First element of each segment in both.
    starts: Vec<usize>,
}

impl Packed {
    fn new(problem: &Problem, k: &[f32], v: &[f32]) -> Self {
        let (dim, shape) = (problem.dim, (problem.kv_heads, problem.dim));
        let mut total = 0;
        let mut tasks = Vec::new();
        let mut starts = Vec::with_capacity(problem.segments.len());
        for segment in &problem.segments {
            starts.push(total);
            for head in 0..problem.kv_heads {
                for from in (0..segment.k.len()).step_by(BLOCK_K) {
                    let end = segment.k.end.min(segment.k.start + from + BLOCK_K);
                    tasks.push((head, segment.k.start + from..end));
                    total += BLOCK_K * dim;
                }
            }
        }
        let mut kt = Buffer::<f32>::unspecified(total);
        let mut packed_v = Buffer::<f32>::unspecified(total);
        kt.par_chunks_exact_mut(BLOCK_K * dim)
            .zip(packed_v.par_chunks_exact_mut(BLOCK_K * dim))
            .zip(&tasks)
            .for_each(|((kt, to), (head, keys))| {
                gather_transposed(k, shape, *head, keys.clone(), BLOCK_K, kt);
                gather(v, shape, *head, keys.clone(), 1.0, to);
            });
        Self {
            kt,
            v: packed_v,
            starts,
        }
    }

    /// The blocks of keys that any of a segment's `queries` sees; `start` is the segment's.
    fn panels<'a>(
        &'a self,
        problem: &Problem,
        segment: &'a Segment,
        head: usize,
        start: usize,
        queries: Range<usize>,
    ) -> impl Iterator<Item = Panel<'a>> {
        let dim = problem.dim;
        let own = segment.k.len().div_ceil(BLOCK_K) * BLOCK_K * dim;
        let start = start + head / problem.group() * own;
        let seen = segment.keys_of_any(queries);
        (seen.start / BLOCK_K * BLOCK_K..seen.end)
            .step_by(BLOCK_K)
            .map(move |from| {
                let (at, cols) = (start + from * dim, BLOCK_K.min(seen.end - from));
                Panel {
                    segment,
                    from,
                    cols,
                    kt: &self.kt[at..at + BLOCK_K * dim],
                    stride: BLOCK_K,
                    v: &self.v[at..at + cols * dim],
                }
            })
    }
}

/// One block of queries of one head against all keys that it sees. The queries are given as to
/// [`gather`]; the first of them has number `number` in its segment.
pub(super) fn block<'a>(
    (q, (heads, dim), head, tokens, scale): (&[f32], (usize, usize), usize, Range<usize>, f32),
    number: usize,
    panels: impl Iterator<Item = Panel<'a>>,
    out: SharedRows<'_>,
    lse: SharedRows<'_>,
) {
    let (first, rows) = (tokens.start, tokens.len());
    with_scratch(BLOCK_Q * (2 * dim + BLOCK_K + 2), |mut rest| {
        let scores = cut(&mut rest, BLOCK_Q * BLOCK_K);
        let scaled = cut(&mut rest, rows * dim);
        let acc = cut(&mut rest, rows * dim);
        let max = cut(&mut rest, rows);
        let sum = cut(&mut rest, rows);
        acc.fill(0.0);
        max.fill(f32::NEG_INFINITY);
        sum.fill(0.0);
        gather(q, (heads, dim), head, tokens, scale, scaled);
        for panel in panels {
            let cols = panel.cols;
            gemm_serial(
                Layout::NN,
                rows,
                cols,
                dim,
                Rows {
                    data: scaled,
                    stride: dim,
                },
                Rows {
                    data: panel.kt,
                    stride: panel.stride,
                },
                scores,
                BLOCK_K,
                0.0,
            );
            let softmax = Softmax {
                segment: panel.segment,
                first: number,
                from: panel.from,
                cols,
                dim,
                scores,
                acc,
                max,
                sum,
            };
            cpu::simd_kernel(softmax);
            gemm_serial(
                Layout::NN,
                rows,
                dim,
                cols,
                Rows {
                    data: scores,
                    stride: BLOCK_K,
                },
                Rows {
                    data: panel.v,
                    stride: dim,
                },
                acc,
                dim,
                1.0,
            );
        }
        for r in 0..rows {
            let index = (first + r) * heads + head;
            // SAFETY: this task alone owns this head of these tokens.
            let (out, lse) = unsafe { (out.row(index), lse.row(index)) };
            let inverse = if sum[r] == 0.0 { 0.0 } else { 1.0 / sum[r] };
            for (o, a) in out.iter_mut().zip(&acc[r * dim..(r + 1) * dim]) {
                *o = a * inverse;
            }
            lse[0] = max[r] + sum[r].ln();
        }
    });
}

/// One block of scores and the running state of its rows.
struct Softmax<'a> {
    segment: &'a Segment,
    /// First query of the block, counted in the segment.
    first: usize,
    /// First key of the block, counted in the segment.
    from: usize,
    cols: usize,
    dim: usize,
    /// `[rows, BLOCK_K]`: scores before, probabilities relative to the new maximum after.
    scores: &'a mut [f32],
    /// `[rows, D]`: what the rows have gathered so far.
    acc: &'a mut [f32],
    max: &'a mut [f32],
    sum: &'a mut [f32],
}

impl cpu::Kernel for Softmax<'_> {
    type Output = ();

    /// Running softmax over one more block of keys. Scores of hidden keys become probability 0.
    #[inline(always)]
    fn call(self) {
        for r in 0..self.max.len() {
            let p = &mut self.scores[r * BLOCK_K..r * BLOCK_K + self.cols];
            let (start, end) = self
                .segment
                .keys_in(self.first + r, self.from..self.from + self.cols);
            p[..start].fill(0.0);
            p[end..].fill(0.0);
            let p = &mut p[start..end];
            if p.is_empty() {
                continue;
            }
            let (old, new) = (self.max[r], larger(largest(p), self.max[r]));
            let shrink = cpu::exp(old - new);
            self.sum[r] = self.sum[r] * shrink + exp_sum(p, new);
            self.max[r] = new;
            if shrink != 1.0 {
                let acc = &mut self.acc[r * self.dim..(r + 1) * self.dim];
                for a in acc {
                    *a *= shrink;
                }
            }
        }
    }
}

/// Replaces every x by e^(x - max) and returns the sum, in 16 lanes.
#[inline(always)]
pub(super) fn exp_sum(x: &mut [f32], max: f32) -> f32 {
    let mut lanes = [0.0f32; 16];
    let (whole, tail) = x.as_chunks_mut::<16>();
    for x in whole {
        for l in 0..16 {
            x[l] = cpu::exp(x[l] - max);
            lanes[l] += x[l];
        }
    }
    for half in [8, 4, 2, 1] {
        for l in 0..half {
            lanes[l] += lanes[l + half];
        }
    }
    let mut total = lanes[0];
    for x in tail {
        *x = cpu::exp(*x - max);
        total += *x;
    }
    total
}

/// Maximum as one instruction: what it gives for NaN does not matter, as NaN stays in the scores.
#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// Largest element, in 16 lanes.
#[inline(always)]
pub(super) fn largest(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 16];
    let (whole, tail) = x.as_chunks::<16>();
    for x in whole {
        for l in 0..16 {
            lanes[l] = larger(lanes[l], x[l]);
        }
    }
    for half in [8, 4, 2, 1] {
        for l in 0..half {
            lanes[l] = larger(lanes[l], lanes[l + half]);
        }
    }
    let mut max = lanes[0];
    for x in tail {
        max = larger(max, *x);
    }
    max
}
