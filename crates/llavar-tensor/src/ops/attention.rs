//! Scaled dot-product attention over packed samples: `o = softmax(scale q k^T + mask) v`.
//!
//! Flash attention (Dao et al. 2022): blocks of queries meet blocks of keys with a running softmax, so
//! that no `n x m` matrix exists; the backward pass recomputes probabilities from the log-sum-exp of
//! every row. `forward` and `backward` hold the blocked passes, `decode` the pass for single queries
//! over a long cache, `paths` the pass over texts that share their beginnings, `layout` the mask and the
//! copies of strided heads.
//!
//! Shapes: `q`, `o` `[T, Hq, D]`, `k`, `v` `[S, Hkv, D]`, Hq a multiple of Hkv: query head `h` attends
//! to key head `h / (Hq / Hkv)`. Segment `i` of the queries meets segment `i` of the keys only.
//! Saved for the backward pass: inputs, output, log-sum-exp `[T, Hq]`. A checkpointed segment keeps the last two
//! from its first run to its second, so that the forward pass runs once.
//!
//! Gradients, with probabilities `p` and `delta = sum_d do o`: `dv = p^T do`, `ds = p (do v^T - delta)`,
//! `dq = scale ds k`, `dk = scale ds^T q`. Every sum has a fixed order, so that results do not depend on
//! the number of threads.

mod backward;
mod decode;
mod forward;
mod layout;
pub(crate) mod paths;

use crate::{
    Error, Result, Segments, Tape, Tensor, Var, cuda, error::ensure_shape, memory::Buffer,
};
pub(crate) use layout::{Problem, Segment};
pub use paths::PathSpec;

/// Who attends to whom.
#[derive(Debug, Clone, PartialEq)]
pub struct AttentionSpec {
    /// Samples of the query stream.
    pub q_segments: Segments,
    /// Samples of the key stream, as many as of the query stream.
    pub k_segments: Segments,
    /// Whether a query sees no later key. Queries are aligned to the end of their key segment: query
    /// `i` of `n` over `m` keys stands at position `m - n + i`, so that a cached decoding step is one
    /// query over all keys. A query before the first key sees nothing and its output is zero.
    pub causal: bool,
    /// Sliding window `w` (causal only): the query at position `p` sees keys `p - w ..= p`.
    pub window: Option<usize>,
    /// Factor of the scores, usually `1 / sqrt(D)`.
    pub scale: f32,
}

impl AttentionSpec {
    /// Every sample attends to itself, with `scale = 1 / sqrt(dim)`.
    pub fn within(segments: Segments, causal: bool, dim: usize) -> Self {
        Self {
            k_segments: segments.clone(),
            q_segments: segments,
            causal,
            window: None,
            scale: 1.0 / (dim as f32).sqrt(),
        }
    }
}

const OP: &str = "attention";

/// Checks everything that the kernels rely on.
fn problem(q: &Var, k: &Var, v: &Var, spec: &AttentionSpec) -> Result<Problem> {
    let invalid = |reason: String| Error::InvalidArgument { op: OP, reason };
    let (&[tokens, heads, dim], &[keys, kv_heads, _]) = (q.shape(), k.shape()) else {
        let got = if q.shape().len() == 3 { k } else { q };
        ensure_shape(OP, false, || "[tokens, heads, D]".into(), got.shape())?;
        return Err(invalid("inputs must have three axes".into()));
    };
    let kv = || format!("[{keys}, {kv_heads}, {dim}]");
    ensure_shape(OP, k.shape() == [keys, kv_heads, dim], kv, k.shape())?;
    ensure_shape(OP, v.shape() == [keys, kv_heads, dim], kv, v.shape())?;
    if kv_heads == 0 || dim == 0 || heads % kv_heads != 0 {
        return Err(invalid(format!(
            "{heads} query heads of size {dim} cannot share {kv_heads} key heads"
        )));
    }
    let (q_segments, k_segments) = (&spec.q_segments, &spec.k_segments);
    if q_segments.count() != k_segments.count()
        || q_segments.total() != tokens
        || k_segments.total() != keys
    {
        return Err(invalid(format!(
            "{} query segments of {} tokens and {} key segments of {} tokens do not fit {tokens} \
             queries and {keys} keys",
            q_segments.count(),
            q_segments.total(),
            k_segments.count(),
            k_segments.total()
        )));
    }
    if spec.window.is_some() && !spec.causal {
        return Err(invalid("a sliding window needs causal attention".into()));
    }
    Ok(Problem::of(spec, heads, kv_heads, dim))
}

impl Tape {
    /// Attention within each sample of a packed stream, with grouped key heads.
    ///
    /// # Shapes
    /// `q [T, Hq, D]`, `k` and `v` `[S, Hkv, D]` with Hq a multiple of Hkv -> `[T, Hq, D]`. A query
    /// that sees no key gives zeros.
    ///
    /// # Errors
    /// When shapes, heads or segments do not fit, an input is not f32, or a window is asked for
    /// without `causal`.
    pub fn attention(&self, q: &Var, k: &Var, v: &Var, spec: &AttentionSpec) -> Result<Var> {
        let problem = problem(q, k, v, spec)?;
        if let Some(cuda) = q.value().cuda() {
            return cuda::ops::attention(self, cuda, q, k, v, problem);
        }
        let (out, lse) = self.kept(|| {
            let (queries, keys, values) = (
                q.value().data::<f32>()?,
                k.value().data::<f32>()?,
                v.value().data::<f32>()?,
            );
            let rows = q.value().rows();
            let mut out = Buffer::<f32>::unspecified(q.value().numel());
            let mut lse = Buffer::<f32>::unspecified(rows);
            if problem.is_decoding() {
                decode::run(&problem, queries, keys, values, &mut out, &mut lse);
            } else {
                forward::run(&problem, queries, keys, values, &mut out, &mut lse);
            }
            let lse = Tensor::from_buffer(lse, &[rows]);
            Ok((Tensor::from_buffer(out, q.shape()), lse))
        })?;
        if !self.needs_grad(&[q, k, v], &[]) {
            return Ok(Var::constant(out));
        }
        let (q, k, v, saved) = (q.clone(), k.clone(), v.clone(), out.clone());
        Ok(self.record(out, move |dout, grads| {
            let (queries, keys, values) = (
                q.value().data::<f32>()?,
                k.value().data::<f32>()?,
                v.value().data::<f32>()?,
            );
            let mut dq = Buffer::<f32>::unspecified(queries.len());
            let mut dk = Buffer::<f32>::unspecified(keys.len());
            let mut dv = Buffer::<f32>::unspecified(keys.len());
            backward::run(
                &problem,
                backward::Saved {
                    q: queries,
                    k: keys,
                    v: values,
                    out: saved.data::<f32>()?,
                    lse: lse.data::<f32>()?,
                    dout: dout.data::<f32>()?,
                },
                &mut dq,
                &mut dk,
                &mut dv,
            );
            grads.add(&q, Tensor::from_buffer(dq, q.shape()))?;
            grads.add(&k, Tensor::from_buffer(dk, k.shape()))?;
            grads.add(&v, Tensor::from_buffer(dv, v.shape()))
        }))
    }
}

#[cfg(test)]
mod tests;
