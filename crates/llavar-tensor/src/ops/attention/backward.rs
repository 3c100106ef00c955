//! Blocked backward pass: parallel over (segment, key head), each task in a fixed order inside.

use std::ops::Range;

use rayon::prelude::*;

use super::{
    forward::{BLOCK_K, BLOCK_Q},
    layout::{Problem, Segment, SharedRows, cut, gather, gather_transposed, with_scratch},
};
use crate::cpu::{self, Layout, Rows, gemm_serial};

/// What the forward pass leaves behind, and the gradient of its output.
#[derive(Clone, Copy)]
pub(super) struct Saved<'a> {
    pub(super) q: &'a [f32],
    pub(super) k: &'a [f32],
    pub(super) v: &'a [f32],
    pub(super) out: &'a [f32],
    pub(super) lse: &'a [f32],
    pub(super) dout: &'a [f32],
}

/// Writes all three gradients.
pub(super) fn run(
    problem: &Problem,
    saved: Saved<'_>,
    dq: &mut [f32],
    dk: &mut [f32],
    dv: &mut [f32],
) {
    let dim = problem.dim;
    let tasks: Vec<(&Segment, usize)> = problem
        .segments
        .iter()
        .flat_map(|s| (0..problem.kv_heads).map(move |head| (s, head)))
        .collect();
    let dq = SharedRows::new(dq, dim);
    let dk = SharedRows::new(dk, dim);
    let dv = SharedRows::new(dv, dim);
    tasks
        .par_iter()
        .with_max_len(1)
        .for_each(|(segment, head)| {
            key_head(problem, segment, *head, saved, dq, dk, dv);
        });
}

/// Copies of one key head that every block of queries reads, and the gradients that they add to.
struct KeyHead<'a> {
    /// By block of keys: `[D, BLOCK_K]`.
    kt: &'a [f32],
    vt: &'a [f32],
    /// `[keys, D]`.
    k: &'a [f32],
    dk: &'a mut [f32],
    dv: &'a mut [f32],
}

fn key_head(
    problem: &Problem,
    segment: &Segment,
    head: usize,
    saved: Saved<'_>,
    dq: SharedRows<'_>,
    dk: SharedRows<'_>,
    dv: SharedRows<'_>,
) {
    let (dim, m) = (problem.dim, segment.k.len());
    let shape = (problem.kv_heads, dim);
    let padded = m.div_ceil(BLOCK_K) * BLOCK_K;
    let per_block = BLOCK_Q * (2 * BLOCK_K + 3 * dim + 2);
    with_scratch((2 * padded + 3 * m) * dim + per_block, |mut rest| {
        let kt = cut(&mut rest, padded * dim);
        let vt = cut(&mut rest, padded * dim);
        let k = cut(&mut rest, m * dim);
        for from in (0..m).step_by(BLOCK_K) {
            let keys = segment.k.start + from..segment.k.end.min(segment.k.start + from + BLOCK_K);
            let at = from * dim..(from + BLOCK_K) * dim;
            gather_transposed(
                saved.k,
                shape,
                head,
                keys.clone(),
                BLOCK_K,
                &mut kt[at.clone()],
            );
            gather_transposed(saved.v, shape, head, keys, BLOCK_K, &mut vt[at]);
        }
        gather(saved.k, shape, head, segment.k.clone(), 1.0, k);
        let mut keys = KeyHead {
            kt,
            vt,
            k,
            dk: cut(&mut rest, m * dim),
            dv: cut(&mut rest, m * dim),
        };
        keys.dk.fill(0.0);
        keys.dv.fill(0.0);
        for query_head in head * problem.group()..(head + 1) * problem.group() {
            for from in (0..segment.q.len()).step_by(BLOCK_Q) {
                let queries = from..segment.q.len().min(from + BLOCK_Q);
                block(
                    problem, segment, query_head, queries, saved, &mut keys, rest, dq,
                );
            }
        }
        for (j, t) in segment.k.clone().enumerate() {
            let index = t * problem.kv_heads + head;
            // SAFETY: this task alone owns this key head of this segment.
            let (dk, dv) = unsafe { (dk.row(index), dv.row(index)) };
            dk.copy_from_slice(&keys.dk[j * dim..(j + 1) * dim]);
            dv.copy_from_slice(&keys.dv[j * dim..(j + 1) * dim]);
        }
    });
}

/// One block of queries: adds to the keys' gradients and writes the queries'.
fn block(
    problem: &Problem,
    segment: &Segment,
    head: usize,
    queries: Range<usize>,
    saved: Saved<'_>,
    keys: &mut KeyHead<'_>,
    mut scratch: &mut [f32],
    dq: SharedRows<'_>,
) {
    let (dim, rows) = (problem.dim, queries.len());
    let first = segment.q.start + queries.start;
    let tokens = first..first + rows;
    let shape = (problem.heads, dim);
    let probs = cut(&mut scratch, BLOCK_Q * BLOCK_K);
    let ds = cut(&mut scratch, BLOCK_Q * BLOCK_K);
    let q = cut(&mut scratch, rows * dim);
    let dout = cut(&mut scratch, rows * dim);
    let acc = cut(&mut scratch, rows * dim);
    let delta = cut(&mut scratch, rows);
    let lse = cut(&mut scratch, rows);
    acc.fill(0.0);
    gather(saved.q, shape, head, tokens.clone(), problem.scale, q);
    gather(saved.dout, shape, head, tokens.clone(), 1.0, dout);
    for (r, t) in tokens.enumerate() {
        let index = t * problem.heads + head;
        let (out, dout) = (&saved.out[index * dim..][..dim], &dout[r * dim..][..dim]);
        delta[r] = cpu::simd_kernel(RowDot(out, dout));
        lse[r] = saved.lse[index];
    }

    let seen = segment.keys_of_any(queries.clone());
    for from in (seen.start / BLOCK_K * BLOCK_K..seen.end).step_by(BLOCK_K) {
        let cols = BLOCK_K.min(seen.end - from);
        let panel = from * dim..(from + BLOCK_K) * dim;
        let at = from * dim..(from + cols) * dim;
        let rows_of = |data, stride| Rows { data, stride };
        let (q_rows, dout_rows) = (rows_of(&*q, dim), rows_of(&*dout, dim));
        let kt = rows_of(&keys.kt[panel.clone()], BLOCK_K);
        let vt = rows_of(&keys.vt[panel], BLOCK_K);
        gemm_serial(Layout::NN, rows, cols, dim, q_rows, kt, probs, BLOCK_K, 0.0);
        gemm_serial(Layout::NN, rows, cols, dim, dout_rows, vt, ds, BLOCK_K, 0.0);
        let scores = Scores {
            segment,
            first: queries.start,
            from,
            cols,
            probs,
            ds,
            lse,
            delta,
        };
        cpu::simd_kernel(scores);
        let (probs, ds) = (rows_of(&*probs, BLOCK_K), rows_of(&*ds, BLOCK_K));
        gemm_serial(
            Layout::TN,
            cols,
            dim,
            rows,
            probs,
            dout_rows,
            &mut keys.dv[at.clone()],
            dim,
            1.0,
        );
        gemm_serial(
            Layout::TN,
            cols,
            dim,
            rows,
            ds,
            q_rows,
            &mut keys.dk[at.clone()],
            dim,
            1.0,
        );
        gemm_serial(
            Layout::NN,
            rows,
            dim,
            cols,
            ds,
            rows_of(&keys.k[at], dim),
            acc,
            dim,
            1.0,
        );
    }
    for r in 0..rows {
        // SAFETY: this task alone owns the query heads of its key head in this segment.
        let dq = unsafe { dq.row((first + r) * problem.heads + head) };
        let acc = &acc[r * dim..(r + 1) * dim];
        dq.iter_mut()
            .zip(acc)
            .for_each(|(dq, a)| *dq = problem.scale * a);
    }
}

/// Dot product of two rows.
struct RowDot<'a>(&'a [f32], &'a [f32]);

impl cpu::Kernel for RowDot<'_> {
    type Output = f32;

    #[inline(always)]
    fn call(self) -> f32 {
        cpu::dot(self.0, self.1)
    }
}

/// One block of scores on its way to gradients.
struct Scores<'a> {
    segment: &'a Segment,
    /// First query of the block, counted in the segment.
    first: usize,
    /// First key of the block, counted in the segment.
    from: usize,
    cols: usize,
    /// `[rows, BLOCK_K]`: scores before, probabilities after.
    probs: &'a mut [f32],
    /// `[rows, BLOCK_K]`: gradients of the probabilities before, of the scores after.
    ds: &'a mut [f32],
    lse: &'a [f32],
    delta: &'a [f32],
}

impl cpu::Kernel for Scores<'_> {
    type Output = ();

    /// `p = e^(s - lse)` and `ds = p (dp - delta)`; both 0 for hidden keys.
    #[inline(always)]
    fn call(self) {
        for r in 0..self.lse.len() {
            let p = &mut self.probs[r * BLOCK_K..r * BLOCK_K + self.cols];
            let ds = &mut self.ds[r * BLOCK_K..r * BLOCK_K + self.cols];
            let (start, end) = self
                .segment
                .keys_in(self.first + r, self.from..self.from + self.cols);
            p[..start].fill(0.0);
            p[end..].fill(0.0);
            ds[..start].fill(0.0);
            ds[end..].fill(0.0);
            let (p, ds) = (&mut p[start..end], &mut ds[start..end]);
            let (lse, delta) = (self.lse[r], self.delta[r]);
            for i in 0..p.len().min(ds.len()) {
                p[i] = cpu::exp(p[i] - lse);
                ds[i] = p[i] * (ds[i] - delta);
            }
        }
    }
}
