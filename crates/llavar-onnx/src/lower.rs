//! From nodes of a file to operations ready to run.

use crate::{
    conv::{Conv, Kernels, Spread},
    error::Result,
    model::Node,
    op::Op,
    pointwise::{Binary, Pointwise},
    value::Value,
    window::{Pads, Window},
};

/// A node as an operation, with which of its inputs are read when it runs. `constants` has the constant
/// inputs.
pub(crate) fn lower(node: &Node, constants: &[Option<&Value>]) -> Result<(Op, Vec<usize>)> {
    let constant = |at: usize| constants.get(at).copied().flatten();
    let ints = |at: usize| constant(at).and_then(Value::as_ints).map(<[i64]>::to_vec);
    let all = || (0..node.inputs.len()).collect();
    let axes = || {
        node.ints("axes")
            .map(<[i64]>::to_vec)
            .or_else(|| ints(1))
            .unwrap_or_default()
    };
    let op = match node.op.as_str() {
        "Conv" => return Ok((conv(node, constant(1), constant(2))?, vec![0])),
        "ConvTranspose" => return Ok((spread(node, constant(1), constant(2))?, vec![0])),
        "MatMul" => match constant(1) {
            Some(weights) if weights.dims.len() == 2 && constant(0).is_none() => {
                if weights.len() == 0 {
                    return Err(node.unsupported("weights without elements"));
                }
                let data = weights
                    .as_floats()
                    .ok_or_else(|| node.unsupported("integers"))?;
                let op = Op::Linear {
                    weights: data.to_vec(),
                    k: weights.dims[0],
                    n: weights.dims[1],
                    bias: Vec::new(),
                };
                return Ok((op, vec![0]));
            }
            _ => Op::MatMul,
        },
        "Add" => Op::Binary(Binary::Add),
        "Sub" => Op::Binary(Binary::Sub),
        "Mul" => Op::Binary(Binary::Mul),
        "Div" => Op::Binary(Binary::Div),
        "GlobalAveragePool" => Op::Mean {
            axes: vec![2, 3],
            keep: true,
        },
        "ReduceMean" => {
            let keep = node.int("keepdims", 1) != 0;
            return Ok((Op::Mean { axes: axes(), keep }, vec![0]));
        }
        "MaxPool" | "AveragePool" => {
            if node.int("ceil_mode", 0) != 0 || node.int("count_include_pad", 0) != 0 {
                return Err(node.unsupported("ceil_mode or count_include_pad"));
            }
            Op::Pool {
                window: window(node, None)?,
                largest: node.op == "MaxPool",
            }
        }
        "Resize" => return Ok((resize(node, constants)?, vec![0])),
        "Concat" => Op::Concat(node.int("axis", 0)),
        "Softmax" => Op::Softmax,
        "BatchNormalization" => {
            let (scale, shift) = norm(node, constants)?;
            return Ok((Op::Scale { scale, shift }, vec![0]));
        }
        "Transpose" => Op::Transpose(node.ints("perm").unwrap_or_default().to_vec()),
        "Reshape" => Op::Reshape,
        "Squeeze" => return Ok((Op::Squeeze(axes()), vec![0])),
        "Unsqueeze" => return Ok((Op::Unsqueeze(axes()), vec![0])),
        "Slice" => Op::Slice,
        "Shape" => Op::Shape,
        "Cast" => Op::Cast {
            integers: matches!(node.int("to", 1), 6 | 7),
        },
        "Identity" | "Dropout" => return Ok((Op::Pass, vec![0])),
        _ => match pointwise(node, constants) {
            Some((at, _)) => return Ok((Op::Pass, vec![at])),
            None => return Err(node.unsupported("no such operation here")),
        },
    };
    Ok((op, all()))
}

/// A node as functions of the elements of one of its inputs.
pub(crate) fn pointwise(
    node: &Node,
    constants: &[Option<&Value>],
) -> Option<(usize, Vec<Pointwise>)> {
    let scalar = |at: usize| constants.get(at).copied().flatten().and_then(Value::scalar);
    // A constant input that is no scalar makes it another operation.
    let is_constant = |at: usize| constants.get(at).copied().flatten().is_some();
    let one = |function| Some((0, vec![function]));
    match node.op.as_str() {
        "Relu" => one(Pointwise::Clip(0.0, f32::INFINITY)),
        "Clip" => {
            let limit = |at: usize, name: &str, none: f32| match node.inputs.get(at) {
                Some(input) if !input.is_empty() => scalar(at),
                _ => Some(node.float(name, none)),
            };
            let low = limit(1, "min", f32::NEG_INFINITY)?;
            one(Pointwise::Clip(low, limit(2, "max", f32::INFINITY)?))
        }
        "HardSigmoid" => one(Pointwise::HardSigmoid(
            node.float("alpha", 0.2),
            node.float("beta", 0.5),
        )),
        "HardSwish" => Some((0, vec![Pointwise::SixHardSwish, Pointwise::Mul(1.0 / 6.0)])),
        "Sigmoid" => one(Pointwise::Sigmoid),
        "Erf" => one(Pointwise::Erf),
        "Sqrt" => one(Pointwise::Sqrt),
        "Pow" if scalar(1) == Some(2.0) => one(Pointwise::Square),
        "Add" | "Mul" | "Sub" | "Div" => {
            let (at, value) = match (scalar(0), scalar(1)) {
                (None, Some(value)) if !is_constant(0) => (0, value),
                (Some(value), None) if !is_constant(1) => (1, value),
                _ => return None,
            };
            match (node.op.as_str(), at) {
                ("Add", at) => Some((at, vec![Pointwise::Add(value)])),
                ("Mul", at) => Some((at, vec![Pointwise::Mul(value)])),
                ("Sub", 0) => Some((0, vec![Pointwise::Add(-value)])),
                ("Sub", _) => Some((1, vec![Pointwise::Mul(-1.0), Pointwise::Add(value)])),
                ("Div", 0) => Some((0, vec![Pointwise::Mul(1.0 / value)])),
                _ => None,
            }
        }
        _ => None,
    }
}

/// A batch normalisation as scale and shift of every channel.
pub(crate) fn norm(node: &Node, constants: &[Option<&Value>]) -> Result<(Vec<f32>, Vec<f32>)> {
    let list = |at: usize| {
        constants
            .get(at)
            .copied()
            .flatten()
            .and_then(Value::as_floats)
    };
    let (Some(gamma), Some(beta), Some(mean), Some(variance)) =
        (list(1), list(2), list(3), list(4))
    else {
        return Err(node.unsupported("statistics that are not constant"));
    };
    let n = gamma.len();
    if n == 0 {
        return Err(node.unsupported("statistics of no channels"));
    }
    if [beta, mean, variance].iter().any(|list| list.len() != n) {
        return Err(node.unsupported("statistics of different length"));
    }
    let epsilon = node.float("epsilon", 1e-5);
    let scale: Vec<f32> = (0..n)
        .map(|i| gamma[i] / (variance[i] + epsilon).sqrt())
        .collect();
    let shift = (0..n).map(|i| beta[i] - mean[i] * scale[i]).collect();
    Ok((scale, shift))
}

fn window(node: &Node, kernel: Option<[usize; 2]>) -> Result<Window> {
    let pair = |name: &str| -> Result<Option<[usize; 2]>> {
        match node.ints(name) {
            None => Ok(None),
            Some([a, b]) if *a > 0 && *b > 0 => Ok(Some([*a as usize, *b as usize])),
            Some(other) => Err(node.unsupported(format!("{name} {other:?}"))),
        }
    };
    let kernel = match (kernel, pair("kernel_shape")?) {
        (Some(kernel), _) | (None, Some(kernel)) => kernel,
        _ => return Err(node.unsupported("no kernel_shape")),
    };
    if pair("dilations")?.is_some_and(|d| d != [1, 1]) {
        return Err(node.unsupported("dilations"));
    }
    let pads = match node.text("auto_pad") {
        "" | "NOTSET" => match node.ints("pads") {
            None => Pads::Given([0; 4]),
            Some([a, b, c, d]) if [a, b, c, d].iter().all(|p| **p >= 0) => {
                Pads::Given([*a, *b, *c, *d].map(|p| p as usize))
            }
            Some(other) => return Err(node.unsupported(format!("pads {other:?}"))),
        },
        "VALID" => Pads::Given([0; 4]),
        "SAME_UPPER" => Pads::SameUpper,
        other => return Err(node.unsupported(format!("auto_pad {other}"))),
    };
    Ok(Window {
        kernel,
        stride: pair("strides")?.unwrap_or([1, 1]),
        pads,
    })
}

/// Dimensions, none of them 0, and elements of constant kernels.
fn kernels<'a>(node: &Node, weights: Option<&'a Value>) -> Result<([usize; 4], &'a [f32])> {
    let (sides, data) = weights
        .and_then(|w| w.nchw().zip(w.as_floats()))
        .ok_or_else(|| node.unsupported("kernels that are no constant of four sides"))?;
    if sides.contains(&0) {
        return Err(node.unsupported("kernels without elements"));
    }
    Ok((sides, data))
}

/// The bias, or zeros for `outputs`.
fn bias_or_zeros(node: &Node, bias: Option<&Value>, outputs: usize) -> Result<Vec<f32>> {
    let wrong = || node.unsupported("a bias of another length");
    match bias {
        None => Ok(vec![0.0; outputs]),
        Some(bias) => {
            let bias = bias.as_floats().filter(|b| b.len() == outputs);
            Ok(bias.ok_or_else(wrong)?.to_vec())
        }
    }
}

fn conv(node: &Node, weights: Option<&Value>, bias: Option<&Value>) -> Result<Op> {
    let ([outputs, per_group, kh, kw], data) = kernels(node, weights)?;
    let groups = node.int("group", 1);
    let taps = kh * kw;
    let (inputs, kernels) = if groups == 1 {
        let mut laid = vec![0.0; data.len()];
        for (out, kernel) in data.chunks_exact(per_group * taps).enumerate() {
            for (input, kernel) in kernel.chunks_exact(taps).enumerate() {
                for (tap, weight) in kernel.iter().enumerate() {
                    laid[(tap * per_group + input) * outputs + out] = *weight;
                }
            }
        }
        (per_group, Kernels::Dense(laid))
    } else if groups == outputs as i64 && per_group == 1 {
        let mut laid = vec![0.0; data.len()];
        for (channel, kernel) in data.chunks_exact(taps).enumerate() {
            for (tap, weight) in kernel.iter().enumerate() {
                laid[tap * outputs + channel] = *weight;
            }
        }
        (outputs, Kernels::Depthwise(laid))
    } else {
        return Err(node.unsupported(format!("{groups} groups of {outputs} channels")));
    };
    Ok(Op::Conv(Conv {
        window: window(node, Some([kh, kw]))?,
        inputs,
        outputs,
        kernels,
        bias: bias_or_zeros(node, bias, outputs)?,
    }))
}

fn spread(node: &Node, weights: Option<&Value>, bias: Option<&Value>) -> Result<Op> {
    let ([inputs, outputs, kh, kw], data) = kernels(node, weights)?;
    let window = window(node, Some([kh, kw]))?;
    let plain = window.stride == window.kernel && window.pads == Pads::Given([0; 4]);
    let padded = node
        .ints("output_padding")
        .is_some_and(|p| p.iter().any(|p| *p != 0));
    if !plain || padded || node.int("group", 1) != 1 {
        return Err(node.unsupported("stride and kernel differ"));
    }
    let mut laid = vec![0.0; data.len()];
    for (at, weight) in data.iter().enumerate() {
        let (tap, rest) = (at % (kh * kw), at / (kh * kw));
        let (output, input) = (rest % outputs, rest / outputs);
        laid[(input * kh * kw + tap) * outputs + output] = *weight;
    }
    Ok(Op::Spread(Spread {
        kernel: [kh, kw],
        inputs,
        outputs,
        weights: laid,
        bias: bias_or_zeros(node, bias, outputs)?,
    }))
}

/// Nearest neighbours by whole factors, in which all ways of rounding agree.
fn resize(node: &Node, constants: &[Option<&Value>]) -> Result<Op> {
    let scales = constants
        .get(2)
        .copied()
        .flatten()
        .and_then(Value::as_floats);
    let (Some([batch, channels, down, across]), "nearest") = (scales, node.text("mode")) else {
        return Err(node.unsupported("anything but nearest neighbours by constant factors"));
    };
    let whole = |x: f32| x >= 1.0 && x.fract() == 0.0;
    if *batch != 1.0 || *channels != 1.0 || !whole(*down) || !whole(*across) {
        return Err(node.unsupported("factors that are not whole"));
    }
    Ok(Op::Repeat([*down as usize, *across as usize]))
}
