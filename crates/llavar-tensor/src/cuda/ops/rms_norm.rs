//! RMS norm: rows in registers, everything read and written once; the weight's gradient in the same pass.

use std::sync::Arc;

use super::norm::{Kernels, Target, add_parts, check_gradient, check_types, kernels, width};
use crate::{
    DType, Param, Result, Tape, Var,
    cuda::{Arg, Cuda, args},
};

const OP: &str = "rms_norm";
static KERNELS: [Kernels; 11] = kernels!("rms");

/// As [`Tape::rms_norm`], with checked shapes.
pub(crate) fn rms_norm(
    tape: &Tape,
    cuda: &Arc<Cuda>,
    x: &Var,
    weight: &Param,
    eps: f32,
) -> Result<Var> {
    let (rows, c) = (x.value().rows(), x.value().last_dim());
    let (w, dtype, n) = (weight.value(), x.value().dtype(), width(OP, c)?);
    check_types(OP, x.value(), &[&w])?;
    let mut out = cuda.empty(x.shape(), dtype)?;
    let mut inverse = cuda.empty(&[rows], DType::F32)?;
    let kernels = Kernels::choose(&KERNELS, c, &[x.value(), &w, &out])?;
    cuda.launch(
        &kernels.forward,
        dtype,
        kernels.forward_grid(rows),
        args![x.value(), &w, &mut out, &mut inverse, rows as i64, n, eps],
    )?;
    if !tape.needs_grad(&[x], &[weight]) {
        return Ok(Var::constant(out));
    }
    let (x, weight, cuda) = (x.clone(), weight.clone(), cuda.clone());
    Ok(tape.record(out, move |dy, grads| {
        check_gradient(OP, &dy, x.shape(), dtype)?;
        let kernels = Kernels::choose(&KERNELS, c, &[x.value(), &w, &dy])?;
        let blocks = kernels.backward_blocks(rows);
        let mut target = Target::new(&cuda, grads, &x, dtype)?;
        let wanted = weight.requires_grad();
        let mut dw = wanted
            .then(|| cuda.empty(&[blocks, c], DType::F32))
            .transpose()?;
        cuda.launch(
            &kernels.backward,
            dtype,
            kernels.backward_grid(rows),
            args![
                x.value(),
                &w,
                &dy,
                &inverse,
                target.dx.as_mut(),
                Arg::Address(target.arrived),
                dw.as_mut(),
                rows as i64,
                n
            ],
        )?;
        add_parts(grads, &weight, dw, blocks)?;
        target.dx.map_or(Ok(()), |dx| grads.add(&x, dx))
    }))
}

#[cfg(test)]
mod tests {
    use crate::{
        cuda::testing::compare,
        ops::{Activation, testing::Rng},
    };

    #[test]
    #[ignore = "needs a GPU"]
    fn rms_norm_agrees_with_the_cpu() {
        let mut rng = Rng::new(510);
        // Every kernel at its widest and at its narrowest, odd widths, more rows than groups of threads.
        let mut sizes = vec![(0, 64), (1, 1), (5, 7), (3, 9001), (600, 33), (2, 8200)];
        for c in [256, 512, 1024, 1536, 2048, 3072, 4096, 6144, 8192] {
            sizes.extend([(rng.size(1, 40), c), (rng.size(1, 40), c + 8)]);
        }
        sizes.extend([(5000, 64), (2500, 1024), (700, 3072), (300, 8192)]);
        sizes.extend((0..10).map(|_| (rng.size(1, 300), 8 * rng.size(1, 500))));
        sizes.extend((0..10).map(|_| (rng.size(1, 300), rng.size(5, 1000))));
        for (rows, c) in sizes {
            let (x, w) = (rng.tensor(&[rows, c]), rng.tensor(&[c]));
            // Without the constant, the gradient of a row of one element is a difference near zero.
            let eps = if c < 5 { 1.0 } else { 1e-5 };
            compare(
                &format!("rms_norm {rows} x {c}"),
                &[x],
                &[w],
                |tape, x, p| Ok(vec![tape.rms_norm(&x[0], &p[0], eps)?]),
            );
        }
    }

    /// The gradient of the other branch has arrived when the norm adds its own: in a buffer of its own
    /// (the activation's) and in one that others hold (the sum's).
    #[test]
    #[ignore = "needs a GPU"]
    fn the_gradient_of_a_residual_stream_agrees_with_the_cpu() {
        let mut rng = Rng::new(515);
        for (rows, c) in [(1, 8), (70, 3072), (333, 192), (5, 7), (2, 8200)] {
            let (x, w) = (rng.tensor(&[rows, c]), rng.tensor(&[c]));
            let inputs = [x];
            for (name, own) in [("own", true), ("shared", false)] {
                let what = format!("rms_norm in a residual stream {rows} x {c}, {name}");
                compare(&what, &inputs, std::slice::from_ref(&w), |tape, x, p| {
                    let y = tape.rms_norm(&x[0], &p[0], 1e-2)?;
                    let other = match own {
                        true => tape.activation(&x[0], Activation::QuickGelu)?,
                        false => x[0].clone(),
                    };
                    Ok(vec![tape.add(&y, &other)?])
                });
                let what = format!("layer_norm in a residual stream {rows} x {c}, {name}");
                compare(&what, &inputs, &[w.clone(), w.clone()], |tape, x, p| {
                    let y = tape.layer_norm(&x[0], &p[0], &p[1], 1e-2)?;
                    let other = match own {
                        true => tape.activation(&x[0], Activation::QuickGelu)?,
                        false => x[0].clone(),
                    };
                    Ok(vec![tape.add(&y, &other)?])
                });
            }
        }
    }

    #[test]
    #[ignore = "needs a GPU"]
    fn a_view_that_is_not_aligned_agrees_with_the_cpu() {
        let mut rng = Rng::new(511);
        let (x, w) = (rng.tensor(&[1 + 9 * 16]), rng.tensor(&[16]));
        compare("rms_norm of a view", &[x], &[w], |tape, x, p| {
            let view = x[0].value().narrow(1, 9 * 16)?.reshape(&[9, 16])?;
            Ok(vec![tape.rms_norm(&tape.leaf(view), &p[0], 1e-5)?])
        });
    }
}
