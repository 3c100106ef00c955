//! Gate, up and SwiGLU in one kernel, where there is one.

use std::sync::Arc;

use super::{
    linear::record_linear,
    swiglu::{record_swiglu, record_swiglu_fused},
};
use crate::{
    Param, Result, Tape, Tensor, Var,
    cuda::{Cuda, Product},
};

/// As [`Tape::linear_swiglu`], of one weight `[2 f, k]` or two `[f, k]` with checked shapes; nothing where
/// products and SwiGLU have to run one by one.
pub(crate) fn linear_swiglu(
    tape: &Tape,
    cuda: &Arc<Cuda>,
    x: &Var,
    weights: &[&Param],
    shape: &[usize],
) -> Result<Option<Var>> {
    let (rows, k, dtype) = (x.value().rows(), x.value().last_dim(), x.value().dtype());
    let f = shape.last().copied().unwrap_or(1);
    let values: Vec<Tensor> = weights.iter().map(|weight| weight.value()).collect();
    let layers: Vec<_> = values.iter().map(|value| (value, None)).collect();
    let product = Product {
        a: x.value(),
        layers: &layers,
        sizes: [rows, f, k],
    };
    let in_fp8 = weights.iter().any(|weight| weight.is_fp8());
    if in_fp8 || !tape.output_is_read() || !cuda.takes_product(&product)? {
        return Ok(None);
    }
    let mut y = cuda.empty(shape, dtype)?;
    if !tape.needs_grad(&[x], weights) {
        cuda.product_swiglu(&product, &mut y, &mut [])?;
        return Ok(Some(Var::constant(y)));
    }
    // The way back needs what is before SwiGLU, where it has no other name.
    let before = |width| {
        let mut shape = shape.to_vec();
        shape.pop();
        shape.push(width);
        cuda.empty(&shape, dtype)
    };
    let record = |weight: &Param, before| record_linear(tape, cuda, x, weight, None, None, before);
    Ok(match weights {
        [gate_up] => {
            let mut kept = [before(2 * f)?];
            cuda.product_swiglu(&product, &mut y, &mut kept)?;
            let [both] = kept.map(|kept| record(gate_up, kept));
            Some(record_swiglu_fused(tape, cuda, &both, y))
        }
        [gate, up] => {
            let mut kept = [before(f)?, before(f)?];
            cuda.product_swiglu(&product, &mut y, &mut kept)?;
            let [of_gate, of_up] = kept;
            let (of_gate, of_up) = (record(gate, of_gate), record(up, of_up));
            Some(record_swiglu(tape, cuda, &of_gate, &of_up, y))
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use crate::{
        cuda::testing::{compare, product_sizes},
        ops::{GateUp, testing::Rng},
    };

    #[test]
    #[ignore = "needs a GPU"]
    fn linear_swiglu_agrees_with_the_cpu() {
        let mut rng = Rng::new(550);
        for [rows, f, k] in product_sizes(&mut rng) {
            let x = rng.tensor(&[rows, k]);
            let (gate, up) = (rng.tensor(&[f, k]), rng.tensor(&[f, k]));
            let what = format!("gate, up and SwiGLU {rows} x {f} x {k}");
            compare(
                &what,
                std::slice::from_ref(&x),
                &[gate, up],
                |tape, x, p| {
                    let weights = GateUp::Split {
                        gate: &p[0],
                        up: &p[1],
                    };
                    Ok(vec![tape.linear_swiglu(&x[0], weights)?])
                },
            );
            let what = format!("gate and up in one, and SwiGLU {rows} x {f} x {k}");
            let both = [rng.tensor(&[2 * f, k])];
            compare(&what, &[x], &both, |tape, x, p| {
                Ok(vec![tape.linear_swiglu(&x[0], GateUp::Fused(&p[0]))?])
            });
        }
    }
}
