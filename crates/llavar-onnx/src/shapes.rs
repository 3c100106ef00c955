//! Operations that move elements and compute shapes. What they work on is small.

use crate::{
    op::Refusal,
    pointwise::Binary,
    value::{Data, Order, Value, elements},
};
use llavar_tensor::kernels::matmul;
use std::sync::Arc;

/// Axes counted from the front, sorted, none of them twice.
pub(crate) fn axes(axes: &[i64], rank: usize) -> Result<Vec<usize>, Refusal> {
    let mut axes = axes
        .iter()
        .map(|&axis| axis_of(axis, rank))
        .collect::<Result<Vec<_>, _>>()?;
    axes.sort_unstable();
    if axes.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err("an axis twice".to_owned());
    }
    Ok(axes)
}

fn axis_of(axis: i64, rank: usize) -> Result<usize, Refusal> {
    let at = if axis < 0 { axis + rank as i64 } else { axis };
    usize::try_from(at)
        .ok()
        .filter(|at| *at < rank)
        .ok_or_else(|| format!("axis {axis} of {rank}"))
}

/// Elements from one place to the next on every axis.
fn strides(dims: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; dims.len()];
    for at in (1..dims.len()).rev() {
        strides[at - 1] = strides[at] * dims[at];
    }
    strides
}

/// Where each element of a tensor of `dims` lies, walking by `strides`.
fn places(dims: &[usize], strides: &[usize], start: usize) -> Vec<usize> {
    let mut places = vec![start];
    for (dim, stride) in dims.iter().zip(strides) {
        let mut next = Vec::with_capacity(places.len() * dim);
        for place in places {
            next.extend((0..*dim).map(|at| place + at * stride));
        }
        places = next;
    }
    places
}

fn picked(x: &Value, dims: Vec<usize>, places: &[usize]) -> Value {
    let data = match &x.data {
        Data::Floats(data) => {
            let picked: Vec<f32> = places.iter().map(|p| data[*p]).collect();
            Data::Floats(Arc::new(picked.into()))
        }
        Data::Ints(data) => Data::Ints(Arc::new(places.iter().map(|p| data[*p]).collect())),
    };
    Value {
        dims,
        order: Order::Plain,
        data,
    }
}

/// Axes in another order.
pub(crate) fn transpose(x: Value, order: &[i64]) -> Result<Value, Refusal> {
    let x = x.ordered(Order::Plain);
    let rank = x.dims.len();
    let order: Vec<usize> = if order.is_empty() {
        (0..rank).rev().collect()
    } else {
        // One axis in place of another would walk out of the data.
        axes(order, rank)?;
        let order: Result<_, _> = order.iter().map(|a| axis_of(*a, rank)).collect();
        order?
    };
    if order.len() != rank {
        return Err(format!("{} axes for {rank}", order.len()));
    }
    let all = strides(&x.dims);
    let dims: Vec<usize> = order.iter().map(|a| x.dims[*a]).collect();
    let turned: Vec<usize> = order.iter().map(|a| all[*a]).collect();
    let places = places(&dims, &turned, 0);
    Ok(picked(&x, dims, &places))
}

/// Another shape: 0 keeps a side, -1 takes what is left.
pub(crate) fn reshape(x: Value, to: &[i64]) -> Result<Value, Refusal> {
    let x = x.ordered(Order::Plain);
    let mut dims = Vec::with_capacity(to.len());
    for (at, &side) in to.iter().enumerate() {
        dims.push(match side {
            0 => *x.dims.get(at).ok_or("there is no side to keep")?,
            -1 => 1,
            side => usize::try_from(side).map_err(|_| "a side below -1")?,
        });
    }
    elements(&dims)?;
    if let Some(free) = to.iter().position(|side| *side == -1) {
        dims[free] = x.len() / dims.iter().product::<usize>().max(1);
    }
    if elements(&dims)? != x.len() {
        return Err(format!("{} elements do not fit {to:?}", x.len()));
    }
    Ok(x.reshaped(dims))
}

/// Without sides of 1.
pub(crate) fn squeeze(x: Value, which: &[i64]) -> Result<Value, Refusal> {
    let x = x.ordered(Order::Plain);
    let which = if which.is_empty() {
        (0..x.dims.len()).filter(|at| x.dims[*at] == 1).collect()
    } else {
        axes(which, x.dims.len())?
    };
    if which.iter().any(|at| x.dims[*at] != 1) {
        return Err("a side is not 1".to_owned());
    }
    let kept = (0..x.dims.len()).filter(|at| !which.contains(at));
    let dims = kept.map(|at| x.dims[at]).collect();
    Ok(x.reshaped(dims))
}

/// With sides of 1 at the given places of the result.
pub(crate) fn unsqueeze(x: Value, which: &[i64]) -> Result<Value, Refusal> {
    let x = x.ordered(Order::Plain);
    let mut dims = x.dims.clone();
    for at in axes(which, x.dims.len() + which.len())? {
        dims.insert(at, 1);
    }
    Ok(x.reshaped(dims))
}

/// One part of a tensor: inputs are data, starts, ends and optionally axes and steps.
pub(crate) fn slice(inputs: Vec<Value>) -> Result<Value, Refusal> {
    let lists: Vec<Vec<i64>> = inputs[1..]
        .iter()
        .map(|v| v.as_ints().map(<[i64]>::to_vec))
        .collect::<Option<_>>()
        .ok_or("bounds are integers")?;
    let x = inputs
        .into_iter()
        .next()
        .ok_or("no input")?
        .ordered(Order::Plain);
    let [starts, ends, rest @ ..] = &lists[..] else {
        return Err("starts and ends are needed".to_owned());
    };
    let which: Vec<i64> = match rest.first() {
        Some(list) => list.clone(),
        None => (0..starts.len() as i64).collect(),
    };
    if rest
        .get(1)
        .is_some_and(|steps| steps.iter().any(|step| *step != 1))
    {
        return Err("steps other than 1".to_owned());
    }
    if ends.len() != starts.len() || which.len() != starts.len() {
        return Err("starts, ends and axes differ in number".to_owned());
    }
    // Both starts of an axis that comes twice would count.
    axes(&which, x.dims.len())?;
    let (all, mut dims, mut first) = (strides(&x.dims), x.dims.clone(), 0);
    for ((start, end), axis) in starts.iter().zip(ends).zip(&which) {
        let axis = axis_of(*axis, dims.len())?;
        let side = x.dims[axis] as i64;
        let within = |at: i64| (if at < 0 { at.saturating_add(side) } else { at }).clamp(0, side);
        let (start, end) = (within(*start) as usize, within(*end) as usize);
        dims[axis] = end.saturating_sub(start);
        first += start * all[axis];
    }
    let places = places(&dims, &all, first);
    Ok(picked(&x, dims, &places))
}

/// Tensors one after the other.
pub(crate) fn concat(inputs: Vec<Value>, axis: i64) -> Result<Value, Refusal> {
    let rank = inputs[0].dims.len();
    let axis = axis_of(axis, rank)?;
    // Channels of pictures that lie last.
    let order = if rank == 4 && axis == 1 && inputs[0].order == Order::ChannelsLast {
        Order::ChannelsLast
    } else {
        Order::Plain
    };
    let inputs: Vec<Value> = inputs.into_iter().map(|x| x.ordered(order)).collect();
    let mut dims = inputs[0].dims.clone();
    for other in &inputs[1..] {
        let same = (0..rank).all(|at| at == axis || other.dims.get(at) == dims.get(at));
        if !same || other.dims.len() != rank {
            return Err("sides differ".to_owned());
        }
        dims[axis] += other.dims[axis];
    }
    elements(&dims)?;
    let run = |dims: &[usize]| match order {
        Order::ChannelsLast => dims[1],
        Order::Plain => dims[axis..].iter().product(),
    };
    let runs: Vec<usize> = inputs.iter().map(|x| run(&x.dims)).collect();
    let rows = dims.iter().product::<usize>() / run(&dims).max(1);
    if inputs.iter().all(|x| x.as_ints().is_some()) {
        let mut all = Vec::new();
        for row in 0..rows {
            for (x, run) in inputs.iter().zip(&runs) {
                all.extend_from_slice(&x.as_ints().ok_or("integers")?[row * run..(row + 1) * run]);
            }
        }
        return Ok(Value::ints(dims, all));
    }
    let parts: Vec<&[f32]> = inputs
        .iter()
        .map(Value::as_floats)
        .collect::<Option<_>>()
        .ok_or("floats and integers do not mix")?;
    let mut all = Vec::with_capacity(rows * runs.iter().sum::<usize>());
    for row in 0..rows {
        for (x, run) in parts.iter().zip(&runs) {
            all.extend_from_slice(&x[row * run..(row + 1) * run]);
        }
    }
    Ok(Value {
        order,
        ..Value::floats(dims, all)
    })
}

/// Products of the last two axes; the axes before them are equal, or missing on the right.
pub(crate) fn batched_product(a: Value, b: Value) -> Result<Value, Refusal> {
    let ([a_batch @ .., m, k], [b_batch @ .., k2, n]) = (&a.dims[..], &b.dims[..]) else {
        return Err("matrices are needed".to_owned());
    };
    if k != k2 || !(a_batch == b_batch || b_batch.is_empty()) {
        return Err("sides do not fit".to_owned());
    }
    let (x, y) = a
        .as_floats()
        .zip(b.as_floats())
        .ok_or("floats are needed")?;
    let count: usize = a_batch.iter().product();
    let mut out = vec![0.0; elements(&[count, *m, *n])?];
    for at in 0..count {
        let y = if b_batch.is_empty() {
            y
        } else {
            &y[at * k * n..(at + 1) * k * n]
        };
        let (x, out) = (
            &x[at * m * k..(at + 1) * m * k],
            &mut out[at * m * n..(at + 1) * m * n],
        );
        matmul([*m, *n, *k], x, y, out, *n, false);
    }
    let dims = [a_batch, &[*m, *n]].concat();
    Ok(Value::floats(dims, out))
}

/// Shape of a result, and where each of its elements lies in both operands.
type Common = (Vec<usize>, Vec<usize>, Vec<usize>);

fn common(a: &[usize], b: &[usize]) -> Result<Common, Refusal> {
    let rank = a.len().max(b.len());
    let padded = |dims: &[usize]| [vec![1; rank - dims.len()], dims.to_vec()].concat();
    let (a, b) = (padded(a), padded(b));
    let mut dims = Vec::with_capacity(rank);
    for (x, y) in a.iter().zip(&b) {
        dims.push(match (*x, *y) {
            (x, y) if x == y => x,
            (1, side) | (side, 1) => side,
            _ => return Err("sides do not fit".to_owned()),
        });
    }
    elements(&dims)?;
    let walk = |own: &[usize]| -> Vec<usize> {
        let all = strides(own);
        (0..rank)
            .map(|at| if own[at] == 1 { 0 } else { all[at] })
            .collect()
    };
    let (a, b) = (places(&dims, &walk(&a), 0), places(&dims, &walk(&b), 0));
    Ok((dims, a, b))
}

/// A function of two tensors whose sides are equal or 1.
pub(crate) fn broadcast(function: Binary, a: Value, b: Value) -> Result<Value, Refusal> {
    let (x, y) = a
        .as_floats()
        .zip(b.as_floats())
        .ok_or("floats are needed")?;
    let (dims, at_a, at_b) = common(&a.dims, &b.dims)?;
    let of = |x: f32, y: f32| match function {
        Binary::Add => x + y,
        Binary::Sub => x - y,
        Binary::Mul => x * y,
        Binary::Div => x / y,
    };
    let data: Vec<f32> = at_a
        .iter()
        .zip(&at_b)
        .map(|(i, j)| of(x[*i], y[*j]))
        .collect();
    Ok(Value::floats(dims, data))
}

/// The same on integers, which only shapes are made of.
pub(crate) fn binary_ints(
    function: Binary,
    a_dims: &[usize],
    a: &[i64],
    b_dims: &[usize],
    b: &[i64],
) -> Result<Value, Refusal> {
    let (dims, at_a, at_b) = common(a_dims, b_dims)?;
    let of = |x: i64, y: i64| match function {
        Binary::Add => x.checked_add(y),
        Binary::Sub => x.checked_sub(y),
        Binary::Mul => x.checked_mul(y),
        Binary::Div => x.checked_div(y),
    };
    let data: Option<Vec<i64>> = at_a
        .iter()
        .zip(&at_b)
        .map(|(i, j)| of(a[*i], b[*j]))
        .collect();
    Ok(Value::ints(dims, data.ok_or("integers out of range")?))
}
