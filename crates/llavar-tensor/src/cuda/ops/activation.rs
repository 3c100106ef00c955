//! Activations of every element.

use std::sync::Arc;

use super::norm::{check_gradient, check_types};
use crate::{
    Result, Tape, Var,
    cuda::{Cuda, Grid, Kernel, Source, args},
    ops::Activation,
};

const OP: &str = "activation";
pub(in crate::cuda) static SOURCE: Source = Source {
    name: "activation",
    code: include_str!("../kernels/activation.cu"),
};
const fn kernel(name: &'static str) -> Kernel {
    Kernel {
        source: &SOURCE,
        name,
    }
}
const GELU: [Kernel; 2] = [kernel("gelu"), kernel("gelu_backward")];
const QUICK_GELU: [Kernel; 2] = [kernel("quick_gelu"), kernel("quick_gelu_backward")];

/// As [`Tape::activation`].
pub(crate) fn activation(tape: &Tape, cuda: &Arc<Cuda>, x: &Var, kind: Activation) -> Result<Var> {
    let (n, dtype) = (x.value().numel(), x.value().dtype());
    check_types(OP, x.value(), &[])?;
    let [forward, backward] = match kind {
        Activation::Gelu => &GELU,
        Activation::QuickGelu => &QUICK_GELU,
    };
    let grid = Grid::items(n.div_ceil(8));
    let mut out = cuda.empty(x.shape(), dtype)?;
    cuda.launch(forward, dtype, grid, args![x.value(), &mut out, n as i64])?;
    if !tape.needs_grad(&[x], &[]) {
        return Ok(Var::constant(out));
    }
    let (x, cuda) = (x.clone(), cuda.clone());
    Ok(tape.record(out, move |mut dy, grads| {
        check_gradient(OP, &dy, x.shape(), dtype)?;
        // An element of dx needs its own of dy alone, so it may take the place of it if nobody else looks.
        let dx = if dy.is_unique() {
            let args = args![x.value(), &dy, &mut dy, n as i64];
            cuda.launch(backward, dtype, grid, args)?;
            dy
        } else {
            let mut dx = cuda.empty(x.shape(), dtype)?;
            let args = args![x.value(), &dy, &mut dx, n as i64];
            cuda.launch(backward, dtype, grid, args)?;
            dx
        };
        grads.add(&x, dx)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Tensor, cuda::testing::compare, ops::testing::Rng};

    #[test]
    #[ignore = "needs a GPU"]
    fn activations_agree_with_the_cpu() {
        let mut rng = Rng::new(514);
        for kind in [Activation::Gelu, Activation::QuickGelu] {
            for (shape, spread) in [
                ([0, 5], 1.0),
                ([1, 1], 1.0),
                ([3, 5], 4.0),
                ([64, 72], 0.1),
                ([64, 72], 1.0),
                ([64, 72], 20.0),
                ([1000, 33], 4.0),
                ([1, 4_500_001], 4.0),
            ] {
                let x = rng.vec(shape.iter().product());
                let x = x.iter().map(|x| x * spread).collect();
                let x = Tensor::from_vec::<f32>(x, &shape).unwrap();
                let what = format!("{kind:?} {shape:?} up to {spread}");
                compare(&what, std::slice::from_ref(&x), &[], |tape, x, _| {
                    Ok(vec![tape.activation(&x[0], kind)?])
                });
                // The sum hands one gradient to both of its sides: it must not be overwritten.
                compare(&format!("{what}, shared"), &[x], &[], |tape, x, _| {
                    let y = tape.activation(&x[0], kind)?;
                    Ok(vec![tape.add(&y, &x[0])?])
                });
            }
        }
    }
}
