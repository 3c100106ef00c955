//! Single queries over long caches: parallel over (segment, key head, chunk of keys).
//!
//! Reading keys and values once is all the work, so they are read where they lie, and the query heads
//! of a group share each row.

use std::ops::Range;

use rayon::prelude::*;

use super::{
    forward::largest,
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
        cpu::axpy(out, weight, &part.acc[g * dim..(g + 1) * dim]);
    }
    out.iter_mut().for_each(|o| *o /= sum);
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
    let row = |x, j: usize| -> &[f32] {
        let x: &[f32] = x;
        &x[((first + j) * kv_heads + head) * dim..][..dim]
    };
    let at = (segment.q.start * problem.heads + head * group) * dim;
    let q = &q[at..at + group * dim];
    let mut part = Part {
        max: vec![0.0; group],
        sum: vec![0.0; group],
        acc: vec![0.0; group * dim],
    };
    with_scratch(group * keys.len(), |scores| {
        cpu::simd(|| {
            let m = keys.len();
            for j in 0..m {
                let key = row(k, j);
                for (g, q) in q.chunks_exact(dim).enumerate() {
                    scores[g * m + j] = problem.scale * cpu::dot(q, key);
                }
            }
            for (g, p) in scores.chunks_exact_mut(m).enumerate() {
                let max = largest(p);
                p.iter_mut().for_each(|p| *p = cpu::exp(*p - max));
                part.max[g] = max;
                part.sum[g] = cpu::sum(p);
            }
            for j in 0..m {
                let value = row(v, j);
                for (g, acc) in part.acc.chunks_exact_mut(dim).enumerate() {
                    cpu::axpy(acc, scores[g * m + j], value);
                }
            }
        });
    });
    part
}
