//! Linear layer and activation in one kernel, where there is one.

use std::sync::Arc;

use super::{activation::record_activation, linear::record_linear};
use crate::{
    Param, Result, Tape, Var,
    cuda::{Cuda, Product},
    ops::Activation,
};

/// As [`Tape::linear_activation`], with checked shapes; nothing where the two have to run one by one.
pub(crate) fn linear_activation(
    tape: &Tape,
    cuda: &Arc<Cuda>,
    x: &Var,
    weight: &Param,
    bias: Option<&Param>,
    kind: Activation,
    shape: &[usize],
) -> Result<Option<Var>> {
    let (rows, k, dtype) = (x.value().rows(), x.value().last_dim(), x.value().dtype());
    let n = shape.last().copied().unwrap_or(1);
    let params: Vec<&Param> = std::iter::once(weight).chain(bias).collect();
    let (w, b) = (weight.value(), bias.map(Param::value));
    let product = Product {
        a: x.value(),
        layers: &[(&w, b.as_ref())],
        sizes: [rows, n, k],
    };
    if !tape.output_is_read() || !cuda.takes_product(&product)? {
        return Ok(None);
    }
    let mut out = cuda.empty(shape, dtype)?;
    if !tape.needs_grad(&[x], &params) {
        cuda.product_activation(&product, kind, &mut out, None)?;
        return Ok(Some(Var::constant(out)));
    }
    // The slope is taken at the value before the activation.
    let mut before = cuda.empty(shape, dtype)?;
    cuda.product_activation(&product, kind, &mut out, Some(&mut before))?;
    // The bias's gradient is made where its terms are, so that the product is free to split its sums.
    let before = record_linear(tape, cuda, x, weight, None, None, before);
    let y = record_activation(tape, cuda, &before, bias, out, kind);
    Ok(Some(y))
}

#[cfg(test)]
mod tests {
    use crate::{
        cuda::testing::{compare, product_sizes},
        ops::{Activation, testing::Rng},
    };

    #[test]
    #[ignore = "needs a GPU"]
    fn linear_activation_agrees_with_the_cpu() {
        let mut rng = Rng::new(530);
        for [rows, n, k] in product_sizes(&mut rng) {
            let (x, w, b) = (
                rng.tensor(&[rows, k]),
                rng.tensor(&[n, k]),
                rng.tensor(&[n]),
            );
            for kind in [Activation::Gelu, Activation::QuickGelu] {
                let what = format!("linear and {kind:?} {rows} x {n} x {k}");
                compare(
                    &what,
                    std::slice::from_ref(&x),
                    &[w.clone(), b.clone()],
                    |tape, x, p| {
                        let y = tape.linear_activation(&x[0], &p[0], Some(&p[1]), kind)?;
                        Ok(vec![y])
                    },
                );
                compare(
                    &what,
                    std::slice::from_ref(&x),
                    std::slice::from_ref(&w),
                    |tape, x, p| Ok(vec![tape.linear_activation(&x[0], &p[0], None, kind)?]),
                );
            }
        }
    }
}
