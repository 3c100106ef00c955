//! Attention on the GPU: our kernels for Hopper (`attention_hopper`) and cuDNN's flash attention where they fit; without
//! gradients our tiles on tensor cores (`attention_tiles`); kernels for any head size, mask and type everywhere else.

mod trust;

use std::sync::Arc;

use super::{
    attention_tiles::{self, Tiles},
    rope::Angles,
};
use crate::{
    DType, Error, Result, Tape, Tensor, Var,
    cuda::{
        Cuda, Grid, Kernel, Source, args,
        attention_hopper::{self as hopper, Heads},
        cudnn,
    },
    ops::attention::{PathSpec, Problem},
};

pub(in crate::cuda) static SOURCE: Source = Source {
    name: "attention",
    code: include_str!("../kernels/attention.cu"),
};
const FORWARD: Kernel = SOURCE.kernel("attention_forward");
const DELTA: Kernel = SOURCE.kernel("attention_delta");
const DQ: Kernel = SOURCE.kernel("attention_dq");
const DKV: Kernel = SOURCE.kernel("attention_dkv");

/// Warps of a block, one row each.
const WARPS: usize = 8;

/// Largest head size of our own kernels.
const MAX_DIM: usize = 256;

/// What the backward pass needs of the forward pass beside its inputs and output.
enum Saved {
    /// Log-sum-exp `[T, Hq]` of our own kernels.
    Own(Tensor),
    /// Of our kernels for Hopper.
    Hopper(hopper::Statistics),
    /// Softmax statistics in cuDNN's layout, and the plan.
    Cudnn(cudnn::Statistics),
}

/// As [`Tape::attention`], checked.
pub(crate) fn attention(
    tape: &Tape,
    cuda: &Arc<Cuda>,
    q: &Var,
    k: &Var,
    v: &Var,
    problem: Problem,
) -> Result<Var> {
    if problem.dim > MAX_DIM {
        return Err(Error::InvalidArgument {
            op: "attention",
            reason: format!("head size {} is above {MAX_DIM}", problem.dim),
        });
    }
    let wants_grad = tape.needs_grad(&[q, k, v], &[]);
    let (qt, kt, vt) = (q.value(), k.value(), v.value());
    let hopper = match [qt, kt, vt].iter().all(|t| t.dtype() == DType::BF16) {
        true => Some(heads_of([qt, kt, vt])?),
        false => None,
    };
    let (out, saved) = if let Some(heads) = hopper
        && takes_hopper(cuda, &problem, heads)?
    {
        let (out, statistics) = hopper::forward(cuda, &problem, heads)?;
        (out, Saved::Hopper(statistics))
    } else if let Some(fit) = cudnn::fit(cuda, &problem, &[qt, kt, vt], wants_grad)? {
        let heads = [qt.cuda_address()?, kt.cuda_address()?, vt.cuda_address()?];
        let (out, statistics) = cudnn::forward(cuda, &problem, fit, heads)?;
        (out, Saved::Cudnn(statistics))
    } else {
        if !wants_grad && let Some(out) = attention_tiles::forward(cuda, &problem, [qt, kt, vt])? {
            return Ok(Var::constant(out));
        }
        let (out, lse) = forward(cuda, &problem, qt, kt, vt)?;
        (out, Saved::Own(lse))
    };
    if !wants_grad {
        return Ok(Var::constant(out));
    }
    let (cuda, q, k, v, o) = (cuda.clone(), q.clone(), k.clone(), v.clone(), out.clone());
    Ok(tape.record(out, move |dout, grads| {
        let inputs = [q.value(), k.value(), v.value()];
        let outputs = [&o, &dout];
        let fresh = || -> Result<[Tensor; 3]> {
            let [q, k, v] = inputs.map(|t| cuda.empty(t.shape(), DType::BF16));
            Ok([q?, k?, v?])
        };
        let [dq, dk, dv] = match &saved {
            Saved::Hopper(statistics) => {
                let (heads, new) = (heads_of(inputs)?, fresh()?);
                let to = heads_of([&new[0], &new[1], &new[2]])?;
                hopper::backward(&cuda, &problem, statistics, heads, outputs, to, None)?;
                new
            }
            Saved::Cudnn(statistics) => {
                let mut new = fresh()?;
                let (mut heads, mut to) = ([0; 3], [0; 3]);
                for i in 0..3 {
                    (heads[i], to[i]) = (inputs[i].cuda_address()?, new[i].cuda_address_mut()?);
                }
                cudnn::backward(&cuda, &problem, statistics, heads, outputs, to)?;
                new
            }
            Saved::Own(lse) => {
                let [q, k, v] = inputs;
                backward(&cuda, &problem, lse, [q, k, v, &o, &dout])?
            }
        };
        grads.add(&q, dq)?;
        grads.add(&k, dk)?;
        grads.add(&v, dv)
    }))
}

/// Where the heads of tensors `[T, heads, D]` lie.
fn heads_of(tensors: [&Tensor; 3]) -> Result<[Heads; 3]> {
    let mut all = [Heads {
        address: 0,
        stride: 0,
    }; 3];
    for (heads, tensor) in all.iter_mut().zip(tensors) {
        heads.address = tensor.cuda_address()?;
        heads.stride = tensor.shape().iter().skip(1).product();
    }
    Ok(all)
}

/// Where query, key and value heads lie that are side by side in the row of a token.
fn heads_of_rows(rows: &Tensor, problem: &Problem) -> Result<[Heads; 3]> {
    let stride = rows.shape().iter().skip(1).product();
    let addresses = cudnn::heads_of_rows(rows.cuda_address()?, problem);
    Ok(addresses.map(|address| Heads { address, stride }))
}

/// Whether our kernels for Hopper take a problem.
fn takes_hopper(cuda: &Arc<Cuda>, problem: &Problem, heads: [Heads; 3]) -> Result<bool> {
    Ok(hopper::fits(cuda, problem, heads) && trust::trusted(cuda, problem.dim)?)
}

/// As [`Tape::rope_attention`], checked: heads are turned and attended to where they lie in their row. Gives the
/// row back where that cannot be.
pub(crate) fn rope_attention(
    tape: &Tape,
    cuda: &Arc<Cuda>,
    qkv: Var,
    angles: &Angles,
    problem: Problem,
) -> Result<std::result::Result<Var, Var>> {
    let wants_grad = tape.needs_grad(&[&qkv], &[]);
    let by_hopper = qkv.value().dtype() == DType::BF16 && {
        let heads = heads_of_rows(qkv.value(), &problem)?;
        takes_hopper(cuda, &problem, heads)?
    };
    let fit = match by_hopper {
        true => None,
        false => match cudnn::fit(cuda, &problem, &[qkv.value()], wants_grad)? {
            None => return Ok(Err(qkv)),
            fit => fit,
        },
    };
    let (place, mut rows) = (qkv.without_value(), qkv.into_value());
    let turned = problem.heads + problem.kv_heads;
    let all = turned + problem.kv_heads;
    angles.turn(cuda, &mut rows, [turned, all], 1.0)?;
    let (out, saved) = match fit {
        None => {
            let heads = heads_of_rows(&rows, &problem)?;
            let (out, statistics) = hopper::forward(cuda, &problem, heads)?;
            (out, Saved::Hopper(statistics))
        }
        Some(fit) => {
            let heads = cudnn::heads_of_rows(rows.cuda_address()?, &problem);
            let (out, statistics) = cudnn::forward(cuda, &problem, fit, heads)?;
            (out, Saved::Cudnn(statistics))
        }
    };
    if !wants_grad {
        return Ok(Ok(Var::constant(out)));
    }
    let (cuda, angles, o) = (cuda.clone(), angles.clone(), out.clone());
    Ok(Ok(tape.record(out, move |dout, grads| {
        let mut drows = cuda.empty(rows.shape(), DType::BF16)?;
        let outputs = [&o, &dout];
        match &saved {
            Saved::Hopper(statistics) => {
                let heads = heads_of_rows(&rows, &problem)?;
                let to = heads_of_rows(&drows, &problem)?;
                let angles = Some(&angles);
                hopper::backward(&cuda, &problem, statistics, heads, outputs, to, angles)?;
            }
            Saved::Cudnn(statistics) => {
                let heads = cudnn::heads_of_rows(rows.cuda_address()?, &problem);
                let to = cudnn::heads_of_rows(drows.cuda_address_mut()?, &problem);
                cudnn::backward(&cuda, &problem, statistics, heads, outputs, to)?;
                angles.turn(&cuda, &mut drows, [turned, all], -1.0)?;
            }
            Saved::Own(_) => {}
        }
        grads.add(&place, drows)
    })))
}

/// As [`Tape::path_attention`], checked; `None` where keys have to be copied for every path.
pub(crate) fn path_attention(
    cuda: &Arc<Cuda>,
    inputs: [&Tensor; 3],
    dim: usize,
    spec: &PathSpec,
) -> Result<Option<Tensor>> {
    if !attention_tiles::fits(inputs, dim) {
        return Ok(None);
    }
    let tiles = Tiles::of_paths(spec);
    let out = tiles.map(|tiles| attention_tiles::attend(cuda, &tiles, spec.scale, inputs));
    out.transpose()
}

/// Output and log-sum-exp by our own kernels.
fn forward(
    cuda: &Arc<Cuda>,
    problem: &Problem,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
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

/// Gradients of q, k and v by our own kernels; `inputs` are q, k, v, o and do.
fn backward(
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
