//! Linear layer: one cuBLASLt product with bias and residual in its epilogue.

mod fp8;

use std::sync::Arc;

use super::{add_assign, add_column_sums, widened};
use crate::{
    Grads, Param, Result, Tape, Tensor, Var,
    cpu::Layout,
    cuda::{Cuda, Epilogue, WeightGradient},
};

/// As [`Tape::linear_residual`], with checked shapes: `x [rows, k]`, `weight [n, k]` -> `shape`.
pub(crate) fn linear(
    tape: &Tape,
    cuda: &Arc<Cuda>,
    x: &Var,
    weight: &Param,
    bias: Option<&Param>,
    residual: Option<&Var>,
    shape: &[usize],
) -> Result<Var> {
    let rows = x.value().rows();
    let n = weight.shape().first().copied().unwrap_or(1);
    let k = x.value().last_dim();
    let w = weight.value();
    if bias.is_none() && fp8::can(x.value(), weight, &w) {
        return fp8::linear(tape, cuda, x, weight, &w, residual, shape);
    }
    let b = bias.map(Param::value);
    let mut out = cuda.empty(shape, x.value().dtype())?;
    let epilogue = Epilogue {
        bias: b.as_ref(),
        residual: residual.map(Var::value),
    };
    if tape.output_is_read() {
        let sizes = [rows, n, k];
        let w = widened(cuda, &w, x.value().dtype())?;
        cuda.gemm_epilogue(Layout::NT, sizes, x.value(), &w, &mut out, 0.0, epilogue)?;
    }
    Ok(record_linear(tape, cuda, x, weight, bias, residual, out))
}

/// `out`, the linear layer of `x`, with its way back.
pub(super) fn record_linear(
    tape: &Tape,
    cuda: &Arc<Cuda>,
    x: &Var,
    weight: &Param,
    bias: Option<&Param>,
    residual: Option<&Var>,
    out: Tensor,
) -> Var {
    let w = weight.value();
    let mut inputs = vec![x];
    inputs.extend(residual);
    let params: Vec<&Param> = std::iter::once(weight).chain(bias).collect();
    if !tape.needs_grad(&inputs, &params) {
        return Var::constant(out);
    }
    // A frozen weight needs no gradient, and its input is not kept for one.
    let x = if weight.requires_grad() {
        x.clone()
    } else {
        x.without_value()
    };
    let (weight, bias) = (weight.clone(), bias.cloned());
    let residual = residual.map(Var::without_value);
    let cuda = cuda.clone();
    tape.record(out, move |dy, grads| {
        parameter_gradients(&cuda, &dy, x.value(), &weight, bias.as_ref(), grads)?;
        input_gradient(&cuda, &dy, &x, &w, grads)?;
        residual_gradient(residual.as_ref(), &dy, grads)
    })
}

/// `dx = dy W`; where `x` is an activation, the gradient before it.
pub(super) fn input_gradient(
    cuda: &Arc<Cuda>,
    dy: &Tensor,
    x: &Var,
    w: &Tensor,
    grads: &mut Grads,
) -> Result<()> {
    if !x.requires_grad() {
        return Ok(());
    }
    if let Some(before) = x.before()
        && before.add_gradient(cuda, dy, w, grads)?
    {
        return Ok(());
    }
    let mut dx = cuda.empty(x.shape(), dy.dtype())?;
    add_input_gradient(cuda, dy, w, &mut dx, 0.0)?;
    grads.add(x, dx)
}

/// `dx = dy W + beta dx`.
pub(super) fn add_input_gradient(
    cuda: &Arc<Cuda>,
    dy: &Tensor,
    w: &Tensor,
    dx: &mut Tensor,
    beta: f32,
) -> Result<()> {
    let sizes = [dy.rows(), dx.last_dim(), dy.last_dim()];
    let w = widened(cuda, w, dy.dtype())?;
    cuda.gemm(Layout::NN, sizes, dy, &w, dx, beta)
}

/// `d residual = dy`, where there is a residual.
fn residual_gradient(residual: Option<&Var>, dy: &Tensor, grads: &mut Grads) -> Result<()> {
    match residual {
        Some(r) => grads.add(r, dy.reshape(r.shape())?),
        None => Ok(()),
    }
}

/// `dW += dy^T x` and `db += sum over rows of dy`, the latter inside the product where the library can.
pub(super) fn parameter_gradients(
    cuda: &Arc<Cuda>,
    dy: &Tensor,
    x: &Tensor,
    weight: &Param,
    bias: Option<&Param>,
    grads: &mut Grads,
) -> Result<()> {
    let (n, k) = (dy.last_dim(), x.last_dim());
    let sizes = [n, k, dy.rows()];
    let bias = bias.filter(|b| b.requires_grad());
    let layer = WeightGradient { dy, weight, bias };
    if weight.requires_grad() && cuda.weight_gradients(x, [layer])? {
        return Ok(());
    }
    let Some(bias) = bias else {
        if weight.requires_grad() {
            weight.accumulate_tensor(|dw, beta| cuda.gemm(Layout::TN, sizes, dy, x, dw, beta))?;
        }
        return Ok(());
    };
    if !weight.requires_grad() {
        return add_column_sums(cuda, dy, n, bias, grads);
    }
    // In the order in which `weight_gradients` opens them.
    let (mut dw, mut db) = (weight.accumulation()?, bias.accumulation()?);
    // The product overwrites the sums.
    let mut sums = match db.beta == 0.0 && db.grad.dtype() == dw.grad.dtype() {
        true => None,
        false => Some(cuda.empty(&[n], dw.grad.dtype())?),
    };
    let target = sums.as_mut().unwrap_or(&mut db.grad);
    if !cuda.gemm_with_sums(sizes, dy, x, &mut dw.grad, dw.beta, target)? {
        cuda.gemm(Layout::TN, sizes, dy, x, &mut dw.grad, dw.beta)?;
        dw.finish(None);
        db.leave();
        return add_column_sums(cuda, dy, n, bias, grads);
    }
    match sums {
        None => {}
        Some(sums) if db.beta == 0.0 => cuda.copy(&sums, &mut db.grad)?,
        Some(sums) => add_assign(cuda, &mut db.grad, &sums)?,
    }
    dw.finish(None);
    db.finish(None);
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::{
        DType, Param, Tape, Tensor,
        cuda::testing::{compare, gpu},
        memory,
        ops::testing::Rng,
        optim::global_grad_norm,
    };

    /// Rows, columns and inner axis of weights whose gradients fill a card of 132 multiprocessors, the last tiles not
    /// whole, and one that leaves half of a round idle.
    const FULL: [[usize; 3]; 3] = [[520, 1528, 2808], [700, 128, 33_536], [513, 1024, 2560]];

    #[test]
    #[ignore = "needs a GPU"]
    fn gradients_of_large_weights_agree_with_the_cpu() {
        let mut rng = Rng::new(502);
        for [rows, n, k] in FULL {
            let (x, w) = (rng.tensor(&[rows, k]), rng.tensor(&[n, k]));
            let what = format!("gradient of a weight {rows} x {n} x {k}");
            let params = [w, rng.tensor(&[n])];
            for params in [&params[..1], &params] {
                compare(&what, std::slice::from_ref(&x), params, |tape, x, p| {
                    // Twice, so that the second is added to the first.
                    let y = tape.linear(&x[0], &p[0], p.get(1))?;
                    Ok(vec![tape.linear(&x[0], &p[0], p.get(1))?, y])
                });
            }
        }
    }

    /// Squares that products leave, those of gradients read again, and both beside a sum on the host; they do not
    /// outlive a change of the gradient.
    #[test]
    #[ignore = "needs a GPU"]
    fn squares_of_gradients_are_those_of_what_is_written() {
        memory::set_poison(true);
        let (device, mut rng) = (gpu(), Rng::new(503));
        let place = |t: &Tensor| t.cast(DType::BF16).unwrap().to_device(&device).unwrap();
        let info = device.as_cuda().unwrap().info();
        let fills = info.is_hopper() && info.multiprocessors == 132;
        for [rows, n, k] in FULL {
            let param = Param::new("w", rng.tensor(&[n, k]));
            param.to_device(&device, DType::BF16, DType::BF16).unwrap();
            param.set_requires_grad(true);
            let (x, dy) = (rng.tensor(&[rows, k]), rng.tensor(&[rows, n]));
            let bias = Param::new("b", rng.tensor(&[n]));
            bias.to_device(&device, DType::BF16, DType::BF16).unwrap();
            bias.set_requires_grad(true);
            let pass = |bias: Option<&Param>| {
                let tape = Tape::training();
                let y = tape.linear(&tape.leaf(place(&x)), &param, bias).unwrap();
                tape.backward_from(vec![(y, place(&dy))], &[]).unwrap();
            };
            let on_host = |param: &Param| {
                let grad = param.grad().unwrap().to_f32_vec().unwrap();
                grad.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>()
            };
            let check = |squares: f64, what: &str| {
                let norm = f64::from(global_grad_norm([&param]).unwrap());
                let off = norm / squares.sqrt() - 1.0;
                assert!(
                    off.abs() < 2e-7,
                    "{rows} x {n} x {k}, {what}: off by {off:e}"
                );
            };
            for (what, bias) in [
                ("first", None),
                ("added", None),
                ("beside a bias", Some(&bias)),
            ] {
                pass(bias);
                let measured = param.measured_grad().unwrap().1.is_some();
                assert_eq!(measured, fills && n != 1024, "{n} x {k}");
                check(on_host(&param), what);
            }
            let more = Tensor::from_vec(vec![0.5; n * k], &[n, k]).unwrap();
            param.add_grad(place(&more)).unwrap();
            assert!(param.measured_grad().unwrap().1.is_none());
            check(on_host(&param), "changed");
            param.zero_grad();
            assert_eq!(global_grad_norm([&param]).unwrap(), 0.0);
            pass(None);
            check(on_host(&param), "after zero");
        }
    }

    #[test]
    #[ignore = "needs a GPU"]
    fn linear_agrees_with_the_cpu() {
        let mut rng = Rng::new(501);
        let mut sizes = vec![
            (1, 1, 1),
            (64, 96, 128),
            (7, 333, 65),
            (513, 24, 9),
            (0, 5, 7),
        ];
        sizes.extend((0..12).map(|_| (rng.size(1, 200), rng.size(1, 300), rng.size(1, 300))));
        for (rows, n, k) in sizes {
            // Averages keep the values of a long sum near one.
            let x = rng.tensor(&[rows, k]);
            let (r, w, b) = (
                rng.tensor(&[rows, n]),
                rng.tensor(&[n, k]),
                rng.tensor(&[n]),
            );
            let what = format!("linear {rows} x {n} x {k}");
            compare(&what, &[x.clone(), r], &[w.clone(), b], |tape, x, p| {
                Ok(vec![tape.linear_residual(
                    &x[0],
                    &p[0],
                    Some(&p[1]),
                    Some(&x[1]),
                )?])
            });
            compare(&what, &[x], &[w], |tape, x, p| {
                Ok(vec![tape.linear(&x[0], &p[0], None)?])
            });
        }
    }
}
