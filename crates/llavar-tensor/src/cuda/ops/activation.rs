//! Activations of every element.

use std::sync::Arc;

use super::{
    Before,
    basic::{ColumnRuns, add_column_sums},
    norm::{check_gradient, check_types},
};
use crate::{
    DType, Grads, Param, Result, Tape, Tensor, Var,
    cuda::{Cuda, Grid, Kernel, Source, args},
    ops::Activation,
};

const OP: &str = "activation";
pub(in crate::cuda) static SOURCE: Source = Source {
    name: "activation",
    code: concat!(
        include_str!("../kernels/activation.cuh"),
        include_str!("../kernels/activation.cu")
    ),
};
static GELU: [Kernel; 3] = [
    SOURCE.kernel("gelu"),
    SOURCE.kernel("gelu_backward"),
    SOURCE.kernel("gelu_backward_sums"),
];
static QUICK_GELU: [Kernel; 3] = [
    SOURCE.kernel("quick_gelu"),
    SOURCE.kernel("quick_gelu_backward"),
    SOURCE.kernel("quick_gelu_backward_sums"),
];

/// As [`Tape::activation`].
pub(crate) fn activation(tape: &Tape, cuda: &Arc<Cuda>, x: &Var, kind: Activation) -> Result<Var> {
    let (n, dtype) = (x.value().numel(), x.value().dtype());
    check_types(OP, x.value(), &[])?;
    let mut out = cuda.empty(x.shape(), dtype)?;
    let grid = Grid::items(n.div_ceil(8));
    let [forward, ..] = kernels(kind);
    cuda.launch(forward, dtype, grid, args![x.value(), &mut out, n as i64])?;
    Ok(record_activation(tape, cuda, x, None, out, kind))
}

/// Forward pass, backward pass, and backward pass with sums over rows.
fn kernels(kind: Activation) -> &'static [Kernel; 3] {
    match kind {
        Activation::Gelu => &GELU,
        Activation::QuickGelu => &QUICK_GELU,
    }
}

/// `out`, the activation of `x`, with its way back, which is that of a `bias` that was added to make `x`, too.
pub(super) fn record_activation(
    tape: &Tape,
    cuda: &Arc<Cuda>,
    x: &Var,
    bias: Option<&Param>,
    out: Tensor,
    kind: Activation,
) -> Var {
    let params: Vec<&Param> = bias.into_iter().collect();
    if !tape.needs_grad(&[x], &params) {
        return Var::constant(out);
    }
    let (cuda, x, bias) = (cuda.clone(), x.clone(), bias.cloned());
    let before = Before::Activation {
        x: x.clone(),
        kind,
        bias: bias.clone(),
    };
    let y = tape.record(out, move |dy, grads| {
        let dx = match bias.as_ref().filter(|bias| bias.requires_grad()) {
            Some(bias) => activation_bias_backward(&cuda, x.value(), dy, kind, bias, grads)?,
            None => activation_backward(&cuda, x.value(), dy, kind)?,
        };
        grads.add(&x, dx)
    });
    y.behind(before)
}

/// `dy f'(x)`, in the place of `dy` where nobody else looks: an element of it needs its own alone.
fn activation_backward(
    cuda: &Arc<Cuda>,
    x: &Tensor,
    mut dy: Tensor,
    kind: Activation,
) -> Result<Tensor> {
    let (n, dtype) = (x.numel(), x.dtype());
    check_gradient(OP, &dy, x.shape(), dtype)?;
    let grid = Grid::items(n.div_ceil(8));
    let [_, backward, _] = kernels(kind);
    if dy.is_unique() {
        cuda.launch(backward, dtype, grid, args![x, &dy, &mut dy, n as i64])?;
        return Ok(dy);
    }
    let mut dx = cuda.empty(x.shape(), dtype)?;
    cuda.launch(backward, dtype, grid, args![x, &dy, &mut dx, n as i64])?;
    Ok(dx)
}

/// As [`activation_backward`] behind a linear layer, whose bias gets its gradient, the sums over rows, in the same
/// pass.
fn activation_bias_backward(
    cuda: &Arc<Cuda>,
    x: &Tensor,
    dy: Tensor,
    kind: Activation,
    bias: &Param,
    grads: &mut Grads,
) -> Result<Tensor> {
    let (c, dtype) = (x.last_dim(), x.dtype());
    let mut aligned = c.is_multiple_of(8);
    for tensor in [x, &dy] {
        aligned &= tensor.cuda_address()?.is_multiple_of(16);
    }
    if !aligned {
        let dx = activation_backward(cuda, x, dy, kind)?;
        add_column_sums(cuda, &dx, c, bias, grads)?;
        return Ok(dx);
    }
    check_gradient(OP, &dy, x.shape(), dtype)?;
    let runs = ColumnRuns::new(x.rows(), c);
    let mut parts = cuda.empty(&[runs.parts, c], DType::F32)?;
    let mut dx = match dy.is_unique() {
        true => dy,
        false => {
            let mut copy = cuda.empty(x.shape(), dtype)?;
            cuda.copy(&dy, &mut copy)?;
            copy
        }
    };
    let [_, _, backward] = kernels(kind);
    let arguments = args![
        x,
        &mut dx,
        &mut parts,
        x.rows() as i64,
        c as i64,
        runs.each as i64
    ];
    cuda.launch(backward, dtype, runs.grid(), arguments)?;
    grads.add_parts(bias, parts, runs.parts)?;
    Ok(dx)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cpu::erfc_f64, cuda::testing::compare, ops::testing::Rng};

    /// The arithmetic of `normal_cdf` with the numbers of its source, each step rounded to f32; the two
    /// operations of the special function unit off by as much as they may be, up or down.
    fn gelu_of_the_kernel(x: f32, numbers: &[f32], off: f32) -> f32 {
        let &[a, root, one, b, p4, p3, p2, p1, p0, ..] = numbers else {
            unreachable!("{numbers:?}")
        };
        let t = 1.0 / (a * root).mul_add(x.abs(), one) * (1.0 + off * 2f32.powi(-23));
        let e = (b * x * x).exp2() * (1.0 + off * 2f32.powi(-22));
        let e = if e.is_subnormal() { 0.0 } else { e };
        let p = [p3, p2, p1, p0].iter().fold(p4, |p, c| p.mul_add(t, *c));
        let tail = p * t * e;
        x * if x < 0.0 { tail } else { 1.0 - tail }
    }

    /// The numbers of the kernels' source from `begin` to `end`.
    fn numbers_of(begin: &str, end: &str) -> Vec<f32> {
        let source = include_str!("../kernels/activation.cuh");
        let body = source.split(begin).nth(1).unwrap();
        let body = body.split(end).next().unwrap();
        body.split(|c: char| !(c.is_ascii_digit() || "-.e".contains(c)))
            .filter(|word| word.contains('.') && word.contains(|c: char| c.is_ascii_digit()))
            .map(|word| word.parse().unwrap())
            .collect()
    }

    /// Every finite bf16, and its GELU.
    fn gelu_of_all_bf16() -> impl Iterator<Item = (f32, f64)> {
        let all = (0..=u16::MAX).map(|bits| f32::from_bits(u32::from(bits) << 16));
        all.filter(|x| x.is_finite()).map(|x| {
            let wide = f64::from(x);
            let cdf = 0.5 * erfc_f64(-wide * std::f64::consts::FRAC_1_SQRT_2);
            (x, wide * cdf)
        })
    }

    #[test]
    fn the_kernels_gelu_is_closer_than_bf16_rounds() {
        let numbers = numbers_of("float normal_cdf(", "\n}");
        assert_eq!(numbers.len(), 11, "{numbers:?}");
        for (x, want) in gelu_of_all_bf16() {
            for off in [-1.0, 0.0, 1.0] {
                let got = f64::from(gelu_of_the_kernel(x, &numbers, off));
                let error = (got - want).abs();
                assert!(
                    error <= 2.5e-7 + want.abs() * 2f64.powi(-20),
                    "{x:e}: {got:e}, exactly {want:e}"
                );
                // bf16 rounds by up to this.
                assert!(
                    want.abs() < 1e-6 || error < want.abs() * 2f64.powi(-9),
                    "{x:e}: {got:e}, exactly {want:e}"
                );
            }
        }
    }

    /// The arithmetic of `ShortGelu`, as above.
    fn short_gelu_of_the_kernel(x: f32, numbers: &[f32], off: f32) -> f32 {
        let &[highest, ref others @ .., _zero] = numbers else {
            unreachable!("{numbers:?}")
        };
        let power = others
            .iter()
            .fold(highest, |power, c| power.mul_add(x.abs(), *c));
        let tail = power.exp2() * (1.0 + off * 2f32.powi(-22));
        let tail = if tail.is_subnormal() { 0.0 } else { tail };
        (-x.abs()).mul_add(tail, x.max(0.0))
    }

    #[test]
    fn the_short_gelu_of_products_is_the_nearest_bf16_or_one_beside_it() {
        let numbers = numbers_of("struct ShortGelu", "\n};");
        assert_eq!(numbers.len(), 9, "{numbers:?}");
        let step = |x: f32| i32::from(half::bf16::from_f32(x).to_bits());
        let (mut apart, mut seen) = (0, 0);
        for (x, want) in gelu_of_all_bf16() {
            let bound = match x {
                -5.3.. => want.abs() * 2f64.powi(-14),
                -9.0.. => want.abs() * 2f64.powi(-12),
                _ => 2e-18,
            };
            for off in [-1.0, 0.0, 1.0] {
                let got = short_gelu_of_the_kernel(x, &numbers, off);
                let error = (f64::from(got) - want).abs();
                assert!(error <= bound, "{x:e}: {got:e}, exactly {want:e}");
                // Not where bf16 has fewer bits, or nothing is left of x.
                if want.abs() > 1e-17 {
                    let steps = (step(got) - step(want as f32)).abs();
                    assert!(steps <= 1, "{x:e}: {got:e}, exactly {want:e}");
                    apart += steps;
                    seen += 1;
                }
            }
        }
        // 16 of 31,002: values next to the middle between two.
        assert!(seen > 90_000 && apart < 60, "{apart} of {seen}");
    }

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
