//! Operations ready to run: attributes read, constants laid out.

use crate::{
    conv::{Conv, Spread},
    pointwise::{Binary, Pointwise, add_rows, apply, combine},
    shapes,
    value::{Data, Order, Value, elements},
    window::Window,
};
use llavar_tensor::{
    kernel,
    kernels::{exp, matmul},
    memory::Buffer,
};
use rayon::prelude::*;

/// An operation with its constants.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    /// Nothing but what follows.
    Pass,
    Conv(Conv),
    Spread(Spread),
    /// A product with a constant `[k, n]`, and a bias.
    Linear {
        weights: Vec<f32>,
        k: usize,
        n: usize,
        bias: Vec<f32>,
    },
    MatMul,
    Binary(Binary),
    /// The mean over trailing axes or over a picture; whether the axes stay as 1.
    Mean {
        axes: Vec<i64>,
        keep: bool,
    },
    /// The largest or the mean of a window.
    Pool {
        window: Window,
        largest: bool,
    },
    /// Every place again so many times down and across.
    Repeat([usize; 2]),
    Concat(i64),
    Softmax,
    Scale {
        scale: Vec<f32>,
        shift: Vec<f32>,
    },
    Transpose(Vec<i64>),
    Reshape,
    Squeeze(Vec<i64>),
    Unsqueeze(Vec<i64>),
    Slice,
    Shape,
    /// To integers, or to floats.
    Cast {
        integers: bool,
    },
}

/// Why an operation cannot run on its inputs.
pub(crate) type Refusal = String;

impl Op {
    /// Runs on inputs; `then` follows on every element.
    pub(crate) fn run(
        &self,
        mut inputs: Vec<Value>,
        then: &[Pointwise],
        parallel: bool,
    ) -> Result<Value, Refusal> {
        if inputs.is_empty() {
            return Err("no input".to_owned());
        }
        // A `Slice` may leave nothing; these walk over the places and channels of what they get.
        let walks = matches!(
            self,
            Self::Conv(_)
                | Self::Spread(_)
                | Self::Mean { .. }
                | Self::Pool { .. }
                | Self::Repeat(_)
        );
        if walks && inputs[0].len() == 0 {
            return Err("an input without elements".to_owned());
        }
        // Those that end in elements of their own run what follows while they are in the cache.
        match self {
            Self::Conv(conv) => {
                let (x, size) = picture(inputs.swap_remove(0), conv.inputs)?;
                let x = x.as_floats().ok_or(FLOATS)?;
                let (y, [h, w]) = conv.run(x, size, then, parallel)?;
                return Ok(Value::picture([conv.outputs, h, w], y));
            }
            Self::Spread(spread) => {
                let (x, size) = picture(inputs.swap_remove(0), spread.inputs)?;
                let x = x.as_floats().ok_or(FLOATS)?;
                let (y, [h, w]) = spread.run(x, size, then, parallel)?;
                return Ok(Value::picture([spread.outputs, h, w], y));
            }
            _ => {}
        }
        let value = self.run_alone(inputs, parallel)?;
        if then.is_empty() {
            return Ok(value);
        }
        let (dims, order) = (value.dims.clone(), value.order);
        let mut data = value.into_floats().ok_or(FLOATS)?;
        if parallel {
            data.par_chunks_mut(1 << 16)
                .for_each(|part| apply(then, part));
        } else {
            apply(then, &mut data);
        }
        Ok(Value {
            order,
            ..Value::floats(dims, data)
        })
    }

    fn run_alone(&self, mut inputs: Vec<Value>, parallel: bool) -> Result<Value, Refusal> {
        match self {
            Self::Pass => Ok(inputs.swap_remove(0)),
            Self::Conv(_) | Self::Spread(_) => Err("runs with what follows".to_owned()),
            Self::Linear {
                weights,
                k,
                n,
                bias,
            } => {
                let x = inputs.swap_remove(0).ordered(Order::Plain);
                let mut dims = x.dims.clone();
                if dims.last() != Some(k) {
                    return Err(format!("the last side is not {k}"));
                }
                let rows = x.len() / k;
                let mut y = Buffer::unspecified(elements(&[rows, *n])?);
                matmul(
                    [rows, *n, *k],
                    x.as_floats().ok_or(FLOATS)?,
                    weights,
                    &mut y,
                    *n,
                    false,
                );
                if !bias.is_empty() {
                    add_rows(&mut y, bias);
                }
                *dims.last_mut().ok_or(FLOATS)? = *n;
                Ok(Value::floats(dims, y))
            }
            Self::MatMul => {
                let [a, b] = two(inputs)?;
                shapes::batched_product(a.ordered(Order::Plain), b.ordered(Order::Plain))
            }
            Self::Binary(function) => {
                let [a, b] = two(inputs)?;
                binary(*function, a, b)
            }
            Self::Mean { axes, keep } => mean(inputs.swap_remove(0), axes, *keep),
            Self::Pool { window, largest } => {
                pool(inputs.swap_remove(0), window, *largest, parallel)
            }
            Self::Repeat(times) => repeat(inputs.swap_remove(0), *times),
            Self::Concat(axis) => shapes::concat(inputs, *axis),
            Self::Softmax => {
                let x = inputs.swap_remove(0).ordered(Order::Plain);
                let (dims, n) = (x.dims.clone(), x.dims.last().copied().unwrap_or(1));
                let mut data = x.into_floats().ok_or(FLOATS)?;
                softmax(&mut data, n.max(1));
                Ok(Value::floats(dims, data))
            }
            Self::Scale { scale, shift } => {
                let x = inputs.swap_remove(0);
                let dims = x.dims.clone();
                if dims.get(1) != Some(&scale.len()) {
                    return Err(format!("not {} channels", scale.len()));
                }
                if let [n, c, w] = dims[..] {
                    // A row of a picture: the same with a height of 1.
                    let y = scaled(x.reshaped(vec![n, c, 1, w]), scale, shift)?;
                    return Ok(y.ordered(Order::Plain).reshaped(dims));
                }
                scaled(x, scale, shift)
            }
            Self::Transpose(axes) => shapes::transpose(inputs.swap_remove(0), axes),
            Self::Reshape => {
                let [x, to] = two(inputs)?;
                shapes::reshape(x, to.as_ints().ok_or("a shape is of integers")?)
            }
            Self::Squeeze(axes) => shapes::squeeze(inputs.swap_remove(0), axes),
            Self::Unsqueeze(axes) => shapes::unsqueeze(inputs.swap_remove(0), axes),
            Self::Slice => shapes::slice(inputs),
            Self::Shape => {
                let dims: Vec<i64> = inputs[0].dims.iter().map(|d| *d as i64).collect();
                Ok(Value::ints(vec![dims.len()], dims))
            }
            Self::Cast { integers } => {
                let x = inputs.swap_remove(0);
                Ok(match (&x.data, integers) {
                    (Data::Floats(data), true) => {
                        let x = x.clone().ordered(Order::Plain);
                        Value::ints(x.dims, data.iter().map(|x| *x as i64).collect())
                    }
                    (Data::Ints(data), false) => Value::floats(
                        x.dims.clone(),
                        data.iter().map(|x| *x as f32).collect::<Vec<_>>(),
                    ),
                    _ => x,
                })
            }
        }
    }
}

const FLOATS: &str = "floats are needed";

fn two(inputs: Vec<Value>) -> Result<[Value; 2], Refusal> {
    inputs
        .try_into()
        .map_err(|_| "two inputs are needed".to_owned())
}

/// One picture of `channels`, channels last, with height and width.
fn picture(x: Value, channels: usize) -> Result<(Value, [usize; 2]), Refusal> {
    match x.nchw() {
        Some([1, c, h, w]) if c == channels => Ok((x.ordered(Order::ChannelsLast), [h, w])),
        _ => Err(format!("one picture of {channels} channels is needed")),
    }
}

fn binary(function: Binary, a: Value, b: Value) -> Result<Value, Refusal> {
    // Two pictures meet with their channels last.
    let last = [&a, &b].iter().any(|v| v.order == Order::ChannelsLast);
    let order = if last && a.dims.len() == 4 && b.dims.len() == 4 {
        Order::ChannelsLast
    } else {
        Order::Plain
    };
    let (a, b) = (a.ordered(order), b.ordered(order));
    let repeats = |long: &Value, short: &Value| {
        long.dims == short.dims
            // Channels of a picture, or the last side of anything.
            || (order == Order::ChannelsLast && short.dims[..] == [1, long.dims[1], 1, 1])
            || (order == Order::Plain
                && short.len() == long.dims.last().copied().unwrap_or(0)
                && short.dims.last() == long.dims.last())
            || short.len() == 1
    };
    if let (Some(x), Some(y)) = (a.as_ints(), b.as_ints()) {
        return shapes::binary_ints(function, &a.dims, x, &b.dims, y);
    }
    let commutes = matches!(function, Binary::Add | Binary::Mul);
    if repeats(&a, &b) {
        return combined(function, a, &b);
    }
    if commutes && repeats(&b, &a) {
        return combined(function, b, &a);
    }
    shapes::broadcast(function, a.ordered(Order::Plain), b.ordered(Order::Plain))
}

fn combined(function: Binary, a: Value, b: &Value) -> Result<Value, Refusal> {
    let (dims, order) = (a.dims.clone(), a.order);
    let mut data = a.into_floats().ok_or(FLOATS)?;
    combine(function, &mut data, b.as_floats().ok_or(FLOATS)?);
    Ok(Value {
        order,
        ..Value::floats(dims, data)
    })
}

/// Scale and shift of every channel of a picture.
fn scaled(x: Value, scale: &[f32], shift: &[f32]) -> Result<Value, Refusal> {
    let x = x.ordered(Order::ChannelsLast);
    if x.nchw().is_none() {
        return Err("a picture is needed".to_owned());
    }
    let dims = x.dims.clone();
    let mut data = x.into_floats().ok_or(FLOATS)?;
    combine(Binary::Mul, &mut data, scale);
    combine(Binary::Add, &mut data, shift);
    Ok(Value {
        order: Order::ChannelsLast,
        ..Value::floats(dims, data)
    })
}

fn mean(x: Value, axes: &[i64], keep: bool) -> Result<Value, Refusal> {
    let rank = x.dims.len();
    let axes = shapes::axes(axes, rank)?;
    if rank == 4 && axes == [2, 3] {
        let x = x.ordered(Order::ChannelsLast);
        let [n, c, h, w] = x.nchw().ok_or("a picture is needed")?;
        let data = x.as_floats().ok_or(FLOATS)?;
        let mut means = vec![0.0; n * c];
        for (part, mean) in data.chunks_exact(h * w * c).zip(means.chunks_exact_mut(c)) {
            sum_rows(part, mean);
        }
        let scale = 1.0 / (h * w) as f32;
        means.iter_mut().for_each(|x| *x *= scale);
        let dims = if keep { vec![n, c, 1, 1] } else { vec![n, c] };
        return Ok(Value::floats(dims, means));
    }
    if rank > 0 && axes == [rank - 1] {
        let x = x.ordered(Order::Plain);
        let n = x.dims[rank - 1];
        let rows = x.as_floats().ok_or(FLOATS)?.chunks_exact(n);
        let means: Vec<_> = rows.map(|row| row.iter().sum::<f32>() / n as f32).collect();
        let mut dims = x.dims.clone();
        if keep {
            dims[rank - 1] = 1;
        } else {
            dims.pop();
        }
        return Ok(Value::floats(dims, means));
    }
    Err(format!("a mean over axes {axes:?}"))
}

kernel! {
    fn sum_rows(rows: &[f32], sums: &mut [f32]) {
        for row in rows.chunks_exact(sums.len()) {
            for (sum, x) in sums.iter_mut().zip(row) {
                *sum += x;
            }
        }
    }
}

fn pool(x: Value, window: &Window, largest: bool, parallel: bool) -> Result<Value, Refusal> {
    let x = x.ordered(Order::ChannelsLast);
    let [1, c, h, w] = x.nchw().ok_or("a picture is needed")? else {
        return Err("one picture is needed".to_owned());
    };
    let placed = window
        .on([h, w])
        .ok_or("the window does not fit the picture")?;
    let data = x.as_floats().ok_or(FLOATS)?;
    let count = elements(&[placed.out[0], placed.out[1], c])?;
    let mut out = vec![if largest { f32::NEG_INFINITY } else { 0.0 }; count];
    let row = |(y, out): (usize, &mut [f32])| {
        let [kh, kw] = window.kernel;
        let (_, iy, down) = crate::window::overlap(y * window.stride[0], placed.before[0], kh, h);
        for (at, out) in out.chunks_exact_mut(c).enumerate() {
            let (_, ix, across) =
                crate::window::overlap(at * window.stride[1], placed.before[1], kw, w);
            // A window in the padding alone begins outside of the picture.
            let down = if across == 0 { 0 } else { down };
            for dy in 0..down {
                let from = ((iy + dy) * w + ix) * c;
                let places = &data[from..from + across * c];
                if largest {
                    max_rows(places, out)
                } else {
                    sum_rows(places, out)
                }
            }
            if !largest {
                let scale = 1.0 / (down * across).max(1) as f32;
                out.iter_mut().for_each(|x| *x *= scale);
            }
        }
    };
    let wide = placed.out[1] * c;
    if parallel {
        out.par_chunks_mut(wide).enumerate().for_each(row);
    } else {
        out.chunks_mut(wide).enumerate().for_each(row);
    }
    Ok(Value::picture([c, placed.out[0], placed.out[1]], out))
}

kernel! {
    fn max_rows(rows: &[f32], largest: &mut [f32]) {
        for row in rows.chunks_exact(largest.len()) {
            for (most, x) in largest.iter_mut().zip(row) {
                *most = if *x > *most { *x } else { *most };
            }
        }
    }
}

/// Nearest neighbours by whole factors.
fn repeat(x: Value, [down, across]: [usize; 2]) -> Result<Value, Refusal> {
    let x = x.ordered(Order::ChannelsLast);
    let [1, c, h, w] = x.nchw().ok_or("a picture is needed")? else {
        return Err("one picture is needed".to_owned());
    };
    let mut out = Vec::with_capacity(elements(&[c, h, down, w, across])?);
    for row in x.as_floats().ok_or(FLOATS)?.chunks_exact(w * c) {
        let first = out.len();
        for place in row.chunks_exact(c) {
            (0..across).for_each(|_| out.extend_from_slice(place));
        }
        let end = out.len();
        (1..down).for_each(|_| out.extend_from_within(first..end));
    }
    Ok(Value::picture([c, h * down, w * across], out))
}

kernel! {
    fn softmax(data: &mut [f32], n: usize) {
        for row in data.chunks_exact_mut(n) {
            let mut most = f32::NEG_INFINITY;
            for x in row.iter() {
                most = if *x > most { *x } else { most };
            }
            let mut sum = 0.0;
            for x in row.iter_mut() {
                *x = exp(*x - most);
            }
            for x in row.iter() {
                sum += *x;
            }
            let scale = 1.0 / sum;
            for x in row.iter_mut() {
                *x *= scale;
            }
        }
    }
}
