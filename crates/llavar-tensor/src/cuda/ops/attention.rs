//! Attention on the GPU: our kernels for Hopper (`attention_hopper`) and cuDNN's flash attention where they fit; without
//! gradients our tiles on tensor cores (`attention_tiles`); plain kernels everywhere else. A checkpointed segment keeps
//! output and statistics from its first run, which so takes the way that has gradients.

mod fast;
mod plain;
mod trust;

use std::{rc::Rc, sync::Arc};

use fast::{Way, heads_of, heads_of_rows, heads_to};
#[cfg(test)]
pub(in crate::cuda) use plain::SOURCE;

use super::{
    attention_tiles::{self, Tiles},
    norm::check_gradient,
    rope::Angles,
};
use crate::{
    DType, Error, Result, Tape, Tensor, Var,
    cuda::Cuda,
    ops::attention::{PathSpec, Problem},
};

const OP: &str = "attention";

/// What the backward pass needs of the forward pass beside its inputs and output.
enum Saved {
    Fast(fast::Statistics),
    /// Log-sum-exp of the plain kernels.
    Plain(Tensor),
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
    if problem.dim > plain::MAX_DIM {
        return Err(Error::InvalidArgument {
            op: OP,
            reason: format!("head size {} is above {}", problem.dim, plain::MAX_DIM),
        });
    }
    let wants_grad = tape.needs_grad(&[q, k, v], &[]);
    let inputs = [q.value(), k.value(), v.value()];
    if !wants_grad && !tape.is_checkpointed() {
        return forward(cuda, &problem, inputs).map(Var::constant);
    }
    let (out, saved) = tape.kept(|| {
        let heads = heads_of(inputs)?;
        let (out, saved) = match Way::of(cuda, &problem, &inputs, heads, true)? {
            Some(way) => {
                let (out, statistics) = way.forward(cuda, &problem, heads)?;
                (out, Saved::Fast(statistics))
            }
            None => {
                let (out, lse) = plain::forward(cuda, &problem, inputs)?;
                (out, Saved::Plain(lse))
            }
        };
        Ok((out, Rc::new(saved)))
    })?;
    if !wants_grad {
        return Ok(Var::constant(out));
    }
    let (cuda, q, k, v, o) = (cuda.clone(), q.clone(), k.clone(), v.clone(), out.clone());
    Ok(tape.record(out, move |dout, grads| {
        check_gradient(OP, &dout, o.shape(), o.dtype())?;
        let inputs = [q.value(), k.value(), v.value()];
        let [dq, dk, dv] = match &*saved {
            Saved::Fast(statistics) => {
                let [dq, dk, dv] = inputs.map(|t| cuda.empty(t.shape(), DType::BF16));
                let mut new = [dq?, dk?, dv?];
                let (heads, to) = (heads_of(inputs)?, heads_to(&mut new)?);
                statistics.backward(&cuda, &problem, heads, [&o, &dout], to, None)?;
                new
            }
            Saved::Plain(lse) => {
                let [q, k, v] = inputs;
                plain::backward(&cuda, &problem, lse, [q, k, v, &o, &dout])?
            }
        };
        grads.add(&q, dq)?;
        grads.add(&k, dk)?;
        grads.add(&v, dv)
    }))
}

/// The output where no backward pass will come.
fn forward(cuda: &Arc<Cuda>, problem: &Problem, inputs: [&Tensor; 3]) -> Result<Tensor> {
    let heads = heads_of(inputs)?;
    if let Some(way) = Way::of(cuda, problem, &inputs, heads, false)? {
        return Ok(way.forward(cuda, problem, heads)?.0);
    }
    match attention_tiles::forward(cuda, problem, inputs)? {
        Some(out) => Ok(out),
        None => Ok(plain::forward(cuda, problem, inputs)?.0),
    }
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
    let inputs = [qkv.value()];
    let heads = heads_of_rows(inputs[0].cuda_address()?, &problem);
    let saves = wants_grad || tape.is_checkpointed();
    let Some(way) = Way::of(cuda, &problem, &inputs, heads, saves)? else {
        return Ok(Err(qkv));
    };
    let (place, mut rows) = (qkv.without_value(), qkv.into_value());
    let turned = problem.heads + problem.kv_heads;
    let all = turned + problem.kv_heads;
    angles.turn(cuda, &mut rows, [turned, all], 1.0)?;
    let heads = heads_of_rows(rows.cuda_address()?, &problem);
    let (out, statistics) = tape.kept(|| {
        let (out, statistics) = way.forward(cuda, &problem, heads)?;
        Ok((out, Rc::new(statistics)))
    })?;
    if !wants_grad {
        return Ok(Ok(Var::constant(out)));
    }
    let (cuda, angles, o) = (cuda.clone(), angles.clone(), out.clone());
    Ok(Ok(tape.record(out, move |dout, grads| {
        check_gradient(OP, &dout, o.shape(), o.dtype())?;
        let mut drows = cuda.empty(rows.shape(), DType::BF16)?;
        let heads = heads_of_rows(rows.cuda_address()?, &problem);
        let to = heads_of_rows(drows.cuda_address_mut()?, &problem);
        let outputs = [&o, &dout];
        if !statistics.backward(&cuda, &problem, heads, outputs, to, Some(&angles))? {
            angles.turn(&cuda, &mut drows, [turned, all], -1.0)?;
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
