//! Three linear layers of one input in one kernel, where there is one.

use std::sync::Arc;

use super::linear::{add_input_gradient, parameter_gradients};
use crate::{
    Param, Result, Tape, Tensor, Var,
    cuda::{Cuda, Product, WeightGradient},
};

/// As [`Tape::linear_three`], with checked shapes; nothing where they have to run one by one.
pub(crate) fn linear_three(
    tape: &Tape,
    cuda: &Arc<Cuda>,
    x: &Var,
    layers: [(&Param, Option<&Param>); 3],
    shape: &[usize],
) -> Result<Option<[Var; 3]>> {
    let (rows, k, dtype) = (x.value().rows(), x.value().last_dim(), x.value().dtype());
    let n = shape.last().copied().unwrap_or(1);
    let values = layers.map(|(weight, bias)| (weight.value(), bias.map(Param::value)));
    let product = Product {
        a: x.value(),
        layers: &values.each_ref().map(|(w, b)| (w, b.as_ref())),
        sizes: [rows, n, k],
    };
    if !tape.output_is_read() || !cuda.takes_product(&product)? {
        return Ok(None);
    }
    let mut q = cuda.empty(shape, dtype)?;
    let mut k = cuda.empty(shape, dtype)?;
    let mut v = cuda.empty(shape, dtype)?;
    cuda.product_three(&product, [&mut q, &mut k, &mut v])?;
    let params = layers
        .iter()
        .flat_map(|(weight, bias)| std::iter::once(*weight).chain(*bias));
    let params: Vec<&Param> = params.collect();
    if !tape.needs_grad(&[x], &params) {
        return Ok(Some([q, k, v].map(Var::constant)));
    }
    let x = match layers.iter().any(|(weight, _)| weight.requires_grad()) {
        true => x.clone(),
        false => x.without_value(),
    };
    let wanted = layers.map(|(weight, bias)| {
        let params: Vec<&Param> = std::iter::once(weight).chain(bias).collect();
        tape.needs_grad(&[&x], &params)
    });
    let layers = layers.map(|(weight, bias)| (weight.clone(), bias.cloned()));
    let cuda = cuda.clone();
    let made = tape.record_many(vec![q, k, v], move |dys, grads| {
        let weights_done = match dys.as_slice() {
            [Some(a), Some(b), Some(c)] => {
                let [q, k, v] = &layers;
                let layers = [(a, q), (b, k), (c, v)].map(|(dy, (weight, bias))| WeightGradient {
                    dy,
                    weight,
                    bias: bias.as_ref().filter(|bias| bias.requires_grad()),
                });
                cuda.weight_gradients(x.value(), layers)?
            }
            _ => false,
        };
        // The three parts of the input's gradient meet in the products.
        let mut dx: Option<Tensor> = None;
        for ((dy, (weight, bias)), (w, _)) in dys.into_iter().zip(&layers).zip(&values) {
            let Some(dy) = dy else { continue };
            if !weights_done {
                parameter_gradients(&cuda, &dy, x.value(), weight, bias.as_ref(), grads)?;
            }
            if x.requires_grad() {
                let beta = if dx.is_some() { 1.0 } else { 0.0 };
                let mut sum = match dx.take() {
                    Some(dx) => dx,
                    None => cuda.empty(x.shape(), dy.dtype())?,
                };
                add_input_gradient(&cuda, &dy, w, &mut sum, beta)?;
                dx = Some(sum);
            }
        }
        dx.map_or(Ok(()), |dx| grads.add(&x, dx))
    });
    // What nothing trains in stays a constant.
    let made = made.into_iter().zip(wanted);
    let made: Vec<Var> = made
        .map(|(var, wanted)| if wanted { var } else { var.detach() })
        .collect();
    Ok(<[Var; 3]>::try_from(made).ok())
}

#[cfg(test)]
mod tests {
    use crate::{
        cuda::testing::{compare, product_sizes},
        ops::testing::Rng,
    };

    #[test]
    #[ignore = "needs a GPU"]
    fn linear_three_agrees_with_the_cpu() {
        let mut rng = Rng::new(540);
        let mut sizes = product_sizes(&mut rng);
        // Gradients of the three weights together fill a card well enough, with tiles that are not whole.
        sizes.extend([[520, 1016, 1000], [640, 1024, 1024]]);
        for [rows, n, k] in sizes {
            let x = rng.tensor(&[rows, k]);
            let params: Vec<_> = (0..6)
                .map(|i| match i % 2 {
                    0 => rng.tensor(&[n, k]),
                    _ => rng.tensor(&[n]),
                })
                .collect();
            compare(
                &format!("three layers {rows} x {n} x {k}"),
                &[x],
                &params,
                |tape, x, p| {
                    let layers = [(&p[0], Some(&p[1])), (&p[2], None), (&p[4], Some(&p[5]))];
                    // The fourth parameter is used too, as every one has to have a gradient; twice, so that gradients
                    // are added to others.
                    let [q, k, v] = tape.linear_three(&x[0], layers)?;
                    let [q2, k2, v2] = tape.linear_three(&x[0], layers)?;
                    let last = tape.linear(&x[0], &p[2], Some(&p[3]))?;
                    Ok(vec![q, k, v, q2, k2, v2, last])
                },
            );
        }
    }
}
