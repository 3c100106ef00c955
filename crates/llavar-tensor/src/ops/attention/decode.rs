//! Single queries over long caches: parallel over (segment, chunk of keys).
//!
//! Reading keys and values once is all the work. A task reads whole rows, all heads of a key, so that
//! memory is streamed in the order in which it lies; the query heads of a group share each key.

use std::ops::Range;

use rayon::prelude::*;

use super::{
    forward::{exp_sum, largest},
    layout::{Problem, Segment, with_scratch},
};
use crate::cpu;

/// Keys of a chunk; fixed, so that results do not depend on the number of threads.
const CHUNK: usize = 128;

/// Softmax numerators of one chunk.
struct Part {
    /// Largest score, one a query head.
    max: Vec<f32>,
    /// Sum of `exp(score - max)`, one a query head.
    sum: Vec<f32>,
    /// Values weighted by `exp(score - max)`, `[Hq, D]`.
    acc: Vec<f32>,
}

/// As [`super::forward::run`], for segments of at most one query.
pub(super) fn run(
    problem: &Problem,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    out: &mut [f32],
    lse: &mut [f32],
) {
    let (heads, dim) = (problem.heads, problem.dim);
    let tasks: Vec<(&Segment, Range<usize>)> = problem
        .segments
        .iter()
        .filter(|s| s.q.len() == 1)
        .flat_map(|segment| {
            let seen = segment.keys_of(0);
            let end = seen.end;
            seen.step_by(CHUNK)
                .map(move |from| (segment, from..end.min(from + CHUNK)))
        })
        .collect();
    let parts: Vec<Part> = tasks
        .par_iter()
        .map(|(segment, keys)| chunk(problem, segment, keys.clone(), q, k, v))
        .collect();

    out.fill(0.0);
    lse.fill(f32::NEG_INFINITY);
    let mut from = 0;
    while let Some((segment, _)) = tasks.get(from) {
        let token = segment.q.start;
        let count = tasks[from..]
            .iter()
            .take_while(|(s, _)| s.q.start == token)
            .count();
        for head in 0..heads {
            let index = token * heads + head;
            lse[index] = cpu::simd_kernel(Merge {
                parts: &parts[from..from + count],
                head,
                out: &mut out[index * dim..(index + 1) * dim],
            });
        }
        from += count;
    }
}

/// Merges the chunks of one head; returns the log-sum-exp.
struct Merge<'a> {
    parts: &'a [Part],
    head: usize,
    out: &'a mut [f32],
}

impl cpu::Kernel for Merge<'_> {
    type Output = f32;

    #[inline(always)]
    fn call(self) -> f32 {
        let dim = self.out.len();
        let mut max = f32::NEG_INFINITY;
        for part in self.parts {
            max = max.max(part.max[self.head]);
        }
        let mut sum = 0.0;
        for part in self.parts {
            let weight = cpu::exp(part.max[self.head] - max);
            sum += weight * part.sum[self.head];
            cpu::axpy(self.out, weight, &part.acc[self.head * dim..][..dim]);
        }
        for o in self.out {
            *o /= sum;
        }
        max + sum.ln()
    }
}

/// All heads of one query over one chunk of keys.
fn chunk(
    problem: &Problem,
    segment: &Segment,
    keys: Range<usize>,
    q: &[f32],
    k: &[f32],
    v: &[f32],
) -> Part {
    let (heads, dim) = (problem.heads, problem.dim);
    let mut part = Part {
        max: vec![0.0; heads],
        sum: vec![0.0; heads],
        acc: vec![0.0; heads * dim],
    };
    let stride = problem.kv_heads * dim;
    let first = segment.k.start;
    let rows = (first + keys.start) * stride..(first + keys.end) * stride;
    with_scratch(heads * keys.len(), |scores| {
        pulp::Arch::new().dispatch(Chunk {
            keys: keys.len(),
            dim,
            group: problem.group(),
            scale: problem.scale,
            q: &q[segment.q.start * heads * dim..][..heads * dim],
            k: &k[rows.clone()],
            v: &v[rows],
            scores,
            part: &mut part,
        });
    });
    part
}

/// One chunk of keys against one query.
struct Chunk<'a> {
    keys: usize,
    dim: usize,
    group: usize,
    scale: f32,
    /// `[Hq, D]`.
    q: &'a [f32],
    /// `[keys, Hkv, D]`.
    k: &'a [f32],
    v: &'a [f32],
    /// `[Hq, keys]`.
    scores: &'a mut [f32],
    part: &'a mut Part,
}

impl pulp::WithSimd for Chunk<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, simd: S) {
        let (m, dim, group) = (self.keys, self.dim, self.group);
        let stride = self.k.len() / m;
        // Four keys at a time: a query is loaded once for all, and their sums do not wait for each other.
        let blocks = m / 4 * 4;
        for j in (0..blocks).step_by(4) {
            for (h, q) in self.q.chunks_exact(dim).enumerate() {
                let at = j * stride + h / group * dim;
                let keys = [
                    &self.k[at..][..dim],
                    &self.k[at + stride..][..dim],
                    &self.k[at + 2 * stride..][..dim],
                    &self.k[at + 3 * stride..][..dim],
                ];
                let dots = dot4(simd, q, keys);
                for i in 0..4 {
                    self.scores[h * m + j + i] = self.scale * dots[i];
                }
            }
        }
        for j in blocks..m {
            for (h, q) in self.q.chunks_exact(dim).enumerate() {
                let key = &self.k[j * stride + h / group * dim..][..dim];
                self.scores[h * m + j] = self.scale * cpu::dot(q, key);
            }
        }
        for (h, p) in self.scores.chunks_exact_mut(m).enumerate() {
            let max = largest(p);
            self.part.max[h] = max;
            self.part.sum[h] = exp_sum(p, max);
        }
        for j in (0..blocks).step_by(4) {
            for (h, acc) in self.part.acc.chunks_exact_mut(dim).enumerate() {
                let at = j * stride + h / group * dim;
                let (v0, v1) = (&self.v[at..][..dim], &self.v[at + stride..][..dim]);
                let (v2, v3) = (
                    &self.v[at + 2 * stride..][..dim],
                    &self.v[at + 3 * stride..][..dim],
                );
                let p = &self.scores[h * m + j..][..4];
                for d in 0..dim {
                    let near = p[0].mul_add(v0[d], p[1] * v1[d]);
                    let far = p[2].mul_add(v2[d], p[3] * v3[d]);
                    acc[d] += near + far;
                }
            }
        }
        for j in blocks..m {
            for (h, acc) in self.part.acc.chunks_exact_mut(dim).enumerate() {
                let value = &self.v[j * stride + h / group * dim..][..dim];
                cpu::axpy(acc, self.scores[h * m + j], value);
            }
        }
    }
}

/// Dot products of one row with four equally long ones, with explicit vectors: sums in lanes are not
/// something that the compiler reliably vectorises.
#[inline(always)]
fn dot4<S: pulp::Simd>(simd: S, x: &[f32], rows: [&[f32]; 4]) -> [f32; 4] {
    let (x, x_tail) = S::as_simd_f32s(x);
    let [a, b, c, d] = rows;
    let (a, a_tail) = S::as_simd_f32s(a);
    let (b, b_tail) = S::as_simd_f32s(b);
    let (c, c_tail) = S::as_simd_f32s(c);
    let (d, d_tail) = S::as_simd_f32s(d);
    let zero = simd.splat_f32s(0.0);
    let (mut sa, mut sb, mut sc, mut sd) = (zero, zero, zero, zero);
    for ((((x, a), b), c), d) in x.iter().zip(a).zip(b).zip(c).zip(d) {
        sa = simd.mul_add_f32s(*x, *a, sa);
        sb = simd.mul_add_f32s(*x, *b, sb);
        sc = simd.mul_add_f32s(*x, *c, sc);
        sd = simd.mul_add_f32s(*x, *d, sd);
    }
    let mut sums = [
        simd.reduce_sum_f32s(sa),
        simd.reduce_sum_f32s(sb),
        simd.reduce_sum_f32s(sc),
        simd.reduce_sum_f32s(sd),
    ];
    for (sum, tail) in sums.iter_mut().zip([a_tail, b_tail, c_tail, d_tail]) {
        for (x, y) in x_tail.iter().zip(tail) {
            *sum += x * y;
        }
    }
    sums
}
