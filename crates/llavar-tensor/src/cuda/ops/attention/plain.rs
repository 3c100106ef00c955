//! Attention by plain kernels, for any head size up to [`MAX_DIM`], any mask and both types.

use std::sync::Arc;

use crate::{
    DType, Result, Tensor,
    cuda::{Cuda, Grid, Kernel, Source, args},
    ops::attention::Problem,
};

pub(in crate::cuda) static SOURCE: Source = Source {
    name: "attention",
    code: include_str!("../../kernels/attention.cu"),
};
const FORWARD: Kernel = SOURCE.kernel("attention_forward");
const DELTA: Kernel = SOURCE.kernel("attention_delta");
const DQ: Kernel = SOURCE.kernel("attention_dq");
const DKV: Kernel = SOURCE.kernel("attention_dkv");

/// Warps of a block, one row each.
const WARPS: usize = 8;

/// Largest head size.
pub(super) const MAX_DIM: usize = 256;

/// Output, and log-sum-exp `[T, Hq]`.
pub(super) fn forward(
    cuda: &Arc<Cuda>,
    problem: &Problem,
    [q, k, v]: [&Tensor; 3],
) -> Result<(Tensor, Tensor)> {
    let (tokens, dtype) = (problem.queries(), q.dtype());
    let mut out = cuda.empty(q.shape(), dtype)?;
    let mut lse = cuda.empty(&[tokens, problem.heads], DType::F32)?;
    let seen = cuda.constant(&problem.seen_keys())?;
    let wide = i32::from(wide(problem, &[k, v]));
    cuda.launch(
        &FORWARD,
        dtype,
        Grid::cube([tokens.div_ceil(WARPS), problem.heads, 1], WARPS * 32),
        args![
            q,
            k,
            v,
            &mut out,
            &mut lse,
            &seen,
            tokens as i32,
            problem.heads as i32,
            problem.kv_heads as i32,
            problem.dim as i32,
            problem.scale,
            wide,
        ],
    )?;
    Ok((out, lse))
}

/// Gradients of q, k and v; `inputs` are q, k, v, o and do.
pub(super) fn backward(
    cuda: &Arc<Cuda>,
    problem: &Problem,
    lse: &Tensor,
    inputs: [&Tensor; 5],
) -> Result<[Tensor; 3]> {
    let [q, k, v, o, dout] = inputs;
    let (tokens, keys, dtype) = (problem.queries(), problem.keys(), q.dtype());
    let (heads, kv_heads, dim) = (
        problem.heads as i32,
        problem.kv_heads as i32,
        problem.dim as i32,
    );
    let rows = tokens * problem.heads;
    let mut delta = cuda.empty(&[tokens, problem.heads], DType::F32)?;
    cuda.launch(
        &DELTA,
        dtype,
        Grid::new(rows.div_ceil(WARPS), WARPS * 32),
        args![o, dout, &mut delta, rows as i64, dim],
    )?;
    let mut dq = cuda.empty(q.shape(), dtype)?;
    let (mut dk, mut dv) = (cuda.empty(k.shape(), dtype)?, cuda.empty(v.shape(), dtype)?);
    let seen = cuda.constant(&problem.seen_keys())?;
    let seen_by = cuda.constant(&problem.seeing_queries())?;
    let by_keys = i32::from(wide(problem, &[k, v]));
    let by_queries = i32::from(wide(problem, &[q, dout]));
    cuda.launch(
        &DQ,
        dtype,
        Grid::cube([tokens.div_ceil(WARPS), problem.heads, 1], WARPS * 32),
        args![
            q,
            k,
            v,
            dout,
            lse,
            &delta,
            &mut dq,
            &seen,
            tokens as i32,
            heads,
            kv_heads,
            dim,
            problem.scale,
            by_keys
        ],
    )?;
    cuda.launch(
        &DKV,
        dtype,
        Grid::cube([keys.div_ceil(WARPS), problem.kv_heads, 1], WARPS * 32),
        args![
            q,
            k,
            v,
            dout,
            lse,
            &delta,
            &mut dk,
            &mut dv,
            &seen_by,
            keys as i32,
            heads,
            kv_heads,
            dim,
            problem.scale,
            by_queries,
        ],
    )?;
    Ok([dq, dk, dv])
}

/// Whether rows of these tensors can be read eight elements at a time.
fn wide(problem: &Problem, tensors: &[&Tensor]) -> bool {
    let aligned = |t: &&Tensor| t.cuda_address().is_ok_and(|a| a.is_multiple_of(16));
    problem.dim.is_multiple_of(8) && tensors.iter().all(aligned)
}
