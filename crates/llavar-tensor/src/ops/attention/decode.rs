//! Single queries over long caches: parallel over (segment, key head, chunk of keys).
//!
//! Reading keys and values once is all the work, so they are read where they lie, and the query heads
//! of a group share each row.

use std::ops::Range;

use rayon::prelude::*;

use super::{
    forward::{exp_sum, largest},
    layout::{Problem, Segment, with_scratch},
};
use crate::cpu;

/// Keys of a chunk; fixed, so that results do not depend on the number of threads.
const CHUNK: usize = 256;

/// Softmax numerators of one chunk for the heads of a group.
struct Part {
    /// Largest score, one a head.
    max: Vec<f32>,
    /// Sum of `exp(score - max)`, one a head.
    sum: Vec<f32>,
    /// Values weighted by `exp(score - max)`, `[group, D]`.
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
    let (dim, group) = (problem.dim, problem.group());
    let tasks: Vec<(&Segment, usize, Range<usize>)> = problem
        .segments
        .iter()
        .filter(|s| s.q.len() == 1)
        .flat_map(|segment| {
            let seen = segment.keys_of(0);
            (0..problem.kv_heads).flat_map(move |head| {
                let seen = seen.clone();
                seen.clone()
                    .step_by(CHUNK)
                    .map(move |from| (segment, head, from..seen.end.min(from + CHUNK)))
            })
        })
        .collect();
    let parts: Vec<Part> = tasks
        .par_iter()
        .map(|(segment, head, keys)| chunk(problem, segment, *head, keys.clone(), q, k, v))
        .collect();

    out.fill(0.0);
    lse.fill(f32::NEG_INFINITY);
    let mut from = 0;
    while let Some((segment, head, _)) = tasks.get(from) {
        let same = |(s, h, _): &&(&Segment, usize, Range<usize>)| {
            s.q.start == segment.q.start && h == head
        };
        let count = tasks[from..].iter().take_while(same).count();
        for g in 0..group {
            let index = segment.q.start * problem.heads + head * group + g;
            let out = &mut out[index * dim..(index + 1) * dim];
            lse[index] = merge(&parts[from..from + count], g, out);
        }
        from += count;
    }
}

/// Merges the chunks of one head; returns the log-sum-exp.
fn merge(parts: &[Part], g: usize, out: &mut [f32]) -> f32 {
    let dim = out.len();
    let max = parts.iter().fold(f32::NEG_INFINITY, |m, p| m.max(p.max[g]));
    let mut sum = 0.0;
    for part in parts {
        let weight = cpu::exp(part.max[g] - max);
        sum += weight * part.sum[g];
        let acc = &part.acc[g * dim..(g + 1) * dim];
        cpu::simd(|| cpu::axpy(out, weight, acc));
    }
    cpu::simd(|| out.iter_mut().for_each(|o| *o /= sum));
    max + sum.ln()
}

/// One key head's group of query heads over one chunk of keys.
fn chunk(
    problem: &Problem,
    segment: &Segment,
    head: usize,
    keys: Range<usize>,
    q: &[f32],
    k: &[f32],
    v: &[f32],
) -> Part {
    let (dim, group, kv_heads) = (problem.dim, problem.group(), problem.kv_heads);
    let first = segment.k.start + keys.start;
    let at = (segment.q.start * problem.heads + head * group) * dim;
    let q = &q[at..at + group * dim];
    let mut part = Part {
        max: vec![0.0; group],
        sum: vec![0.0; group],
        acc: vec![0.0; group * dim],
    };
    let reach = first * kv_heads * dim..(first + keys.len()) * kv_heads * dim;
    with_scratch(group * keys.len(), |scores| {
        let args = Chunk {
            keys: keys.len(),
            dim,
            stride: kv_heads * dim,
            offset: head * dim,
            scale: problem.scale,
            q,
            k: &k[reach.clone()],
            v: &v[reach],
            scores,
            part: &mut part,
        };
        cpu::simd_kernel(args);
    });
    part
}

/// One chunk of keys against one group of query heads.
struct Chunk<'a> {
    keys: usize,
    dim: usize,
    /// Elements from one key to the next, and where this head begins in each.
    stride: usize,
    offset: usize,
    scale: f32,
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    /// `[group, keys]`.
    scores: &'a mut [f32],
    part: &'a mut Part,
}

impl cpu::Kernel for Chunk<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let (m, dim) = (self.keys, self.dim);
        let row = |j: usize| j * self.stride + self.offset..j * self.stride + self.offset + dim;
        // Four keys at a time: a query is loaded once for all, and their sums do not wait for each other.
        let blocks = m / 4 * 4;
        for j in (0..blocks).step_by(4) {
            let keys = [0, 1, 2, 3].map(|i| &self.k[row(j + i)]);
            for (g, q) in self.q.chunks_exact(dim).enumerate() {
                let dots = dot4(q, keys);
                for i in 0..4 {
                    self.scores[g * m + j + i] = self.scale * dots[i];
                }
            }
        }
        for j in blocks..m {
            let key = &self.k[row(j)];
            for (g, q) in self.q.chunks_exact(dim).enumerate() {
                self.scores[g * m + j] = self.scale * cpu::dot(q, key);
            }
        }
        for (g, p) in self.scores.chunks_exact_mut(m).enumerate() {
            let max = largest(p);
            self.part.max[g] = max;
            self.part.sum[g] = exp_sum(p, max);
        }
        for j in (0..blocks).step_by(4) {
            let [v0, v1, v2, v3] = [0, 1, 2, 3].map(|i| &self.v[row(j + i)]);
            for (g, acc) in self.part.acc.chunks_exact_mut(dim).enumerate() {
                let p = &self.scores[g * m + j..][..4];
                for d in 0..dim {
                    let near = p[0].mul_add(v0[d], p[1] * v1[d]);
                    let far = p[2].mul_add(v2[d], p[3] * v3[d]);
                    acc[d] += near + far;
                }
            }
        }
        for j in blocks..m {
            let value = &self.v[row(j)];
            for (g, acc) in self.part.acc.chunks_exact_mut(dim).enumerate() {
                let p = self.scores[g * m + j];
                for d in 0..dim {
                    acc[d] = p.mul_add(value[d], acc[d]);
                }
            }
        }
    }
}

/// Dot products of one row with four.
#[inline(always)]
fn dot4(x: &[f32], rows: [&[f32]; 4]) -> [f32; 4] {
    let n = x.len();
    let mut lanes = [[0.0f32; 16]; 4];
    let rows = rows.map(|r| &r[..n]);
    let (chunks, tail) = x.as_chunks::<16>();
    let [a, b, c, d] = rows.map(|r| r.as_chunks::<16>().0);
    for i in 0..chunks
        .len()
        .min(a.len())
        .min(b.len())
        .min(c.len())
        .min(d.len())
    {
        for (lanes, y) in lanes.iter_mut().zip([&a[i], &b[i], &c[i], &d[i]]) {
            for l in 0..16 {
                lanes[l] = chunks[i][l].mul_add(y[l], lanes[l]);
            }
        }
    }
    let mut sums = [0.0; 4];
    for i in 0..4 {
        sums[i] = cpu::sum(&lanes[i]);
        for (x, y) in tail.iter().zip(&rows[i][n - tail.len()..]) {
            sums[i] = x.mul_add(*y, sums[i]);
        }
    }
    sums
}
