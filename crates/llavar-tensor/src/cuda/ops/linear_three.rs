//! Three linear layers of one input in one kernel, where there is one.

use std::sync::Arc;

use super::linear::record_linear;
use crate::{
    Param, Result, Tape, Var,
    cuda::{Cuda, Product},
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
    let [of_q, of_k, of_v] = layers;
    let record =
        |(weight, bias): (&Param, _), out| record_linear(tape, cuda, x, weight, bias, None, out);
    Ok(Some([record(of_q, q), record(of_k, k), record(of_v, v)]))
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
        for [rows, n, k] in product_sizes(&mut rng) {
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
                    // The fourth parameter is used too, as every one has to have a gradient.
                    let [q, k, v] = tape.linear_three(&x[0], layers)?;
                    Ok(vec![q, k, v, tape.linear(&x[0], &p[2], Some(&p[3]))?])
                },
            );
        }
    }
}
