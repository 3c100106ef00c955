//! Layer norm: rows in registers, everything read and written once; the gradients of weight and bias in the
//! same pass.

use std::sync::Arc;

use super::norm::{Kernels, Target, add_parts, check_gradient, check_types, kernels, width};
use crate::{
    DType, Param, Result, Tape, Var,
    cuda::{Arg, Cuda, args},
};

const OP: &str = "layer_norm";
static KERNELS: [Kernels; 11] = kernels!("layer");

/// As [`Tape::layer_norm`], with checked shapes.
pub(crate) fn layer_norm(
    tape: &Tape,
    cuda: &Arc<Cuda>,
    x: &Var,
    weight: &Param,
    bias: &Param,
    eps: f32,
) -> Result<Var> {
    let (rows, c) = (x.value().rows(), x.value().last_dim());
    let (w, b) = (weight.value(), bias.value());
    let (dtype, n) = (x.value().dtype(), width(OP, c)?);
    check_types(OP, x.value(), &[&w, &b])?;
    let mut out = cuda.empty(x.shape(), dtype)?;
    // Mean and 1/std of every row.
    let mut stats = cuda.empty(&[rows, 2], DType::F32)?;
    let kernels = Kernels::choose(&KERNELS, c, &[x.value(), &w, &b, &out])?;
    cuda.launch(
        &kernels.forward,
        dtype,
        kernels.forward_grid(rows),
        args![x.value(), &w, &b, &mut out, &mut stats, rows as i64, n, eps],
    )?;
    if !tape.needs_grad(&[x], &[weight, bias]) {
        return Ok(Var::constant(out));
    }
    let (x, weight, bias, cuda) = (x.clone(), weight.clone(), bias.clone(), cuda.clone());
    Ok(tape.record(out, move |dy, grads| {
        check_gradient(OP, &dy, x.shape(), dtype)?;
        let kernels = Kernels::choose(&KERNELS, c, &[x.value(), &w, &dy])?;
        let blocks = kernels.backward_blocks(rows);
        let mut target = Target::new(&cuda, grads, &x, dtype)?;
        // The kernel makes both sums or none.
        let wanted = weight.requires_grad() || bias.requires_grad();
        let parts = || cuda.empty(&[blocks, c], DType::F32);
        let mut dw = wanted.then(parts).transpose()?;
        let mut db = wanted.then(parts).transpose()?;
        cuda.launch(
            &kernels.backward,
            dtype,
            kernels.backward_grid(rows),
            args![
                x.value(),
                &w,
                &dy,
                &stats,
                target.dx.as_mut(),
                Arg::Address(target.arrived),
                dw.as_mut(),
                db.as_mut(),
                rows as i64,
                n
            ],
        )?;
        add_parts(grads, &weight, dw, blocks)?;
        add_parts(grads, &bias, db, blocks)?;
        target.dx.map_or(Ok(()), |dx| grads.add(&x, dx))
    }))
}

#[cfg(test)]
mod tests {
    use crate::{
        Param, Tape, Var,
        cuda::testing::{compare, gpu},
        ops::testing::{Rng, close},
    };

    #[test]
    #[ignore = "needs a GPU"]
    fn layer_norm_agrees_with_the_cpu() {
        let mut rng = Rng::new(512);
        // Rows of very few elements are left out: their gradient is the difference of equal numbers.
        let mut sizes = vec![(0, 64), (5, 7), (3, 9001), (600, 33), (2, 8200)];
        for c in [256, 512, 1024, 1536, 2048, 3072, 4096, 6144, 8192] {
            sizes.extend([(rng.size(1, 40), c), (rng.size(1, 40), c + 8)]);
        }
        sizes.extend([(5000, 192), (2500, 1024), (700, 1536), (300, 8192)]);
        sizes.extend((0..10).map(|_| (rng.size(1, 300), 8 * rng.size(2, 500))));
        sizes.extend((0..10).map(|_| (rng.size(1, 300), rng.size(7, 1000))));
        for (rows, c) in sizes {
            let x = rng.tensor(&[rows, c]);
            let (w, b) = (rng.tensor(&[c]), rng.tensor(&[c]));
            let what = format!("layer_norm {rows} x {c}");
            compare(&what, &[x], &[w, b], |tape, x, p| {
                Ok(vec![tape.layer_norm(&x[0], &p[0], &p[1], 1e-5)?])
            });
        }
    }

    /// Frozen weights around a trained input, and trained weights behind a frozen input.
    #[test]
    #[ignore = "needs a GPU"]
    fn only_what_is_wanted_is_made() {
        let device = gpu();
        let mut rng = Rng::new(513);
        for c in [24, 25] {
            let (x, seed) = (rng.tensor(&[50, c]), rng.tensor(&[50, c]));
            let (w, b) = (rng.tensor(&[c]), rng.tensor(&[c]));
            for (input, weight, bias) in [
                (true, false, false),
                (false, true, true),
                (false, false, true),
                (true, true, false),
            ] {
                let run = |device: &crate::Device| -> Vec<Option<Vec<f32>>> {
                    let place = |t: &crate::Tensor| t.to_device(device).unwrap();
                    let tape = Tape::training();
                    let x = match input {
                        true => tape.leaf(place(&x)),
                        false => Var::constant(place(&x)),
                    };
                    let (w, b) = (Param::new("w", place(&w)), Param::new("b", place(&b)));
                    w.set_requires_grad(weight);
                    b.set_requires_grad(bias);
                    let y = tape.layer_norm(&x, &w, &b, 1e-5).unwrap();
                    let dx = tape
                        .backward_from(vec![(y, place(&seed))], &[&x])
                        .unwrap()
                        .swap_remove(0);
                    let values = [dx, w.grad(), b.grad()].into_iter();
                    values.map(|t| t.map(|t| t.to_f32_vec().unwrap())).collect()
                };
                let (got, want) = (run(&device), run(&crate::Device::Cpu));
                for (got, want) in got.iter().zip(&want) {
                    assert_eq!(got.is_some(), want.is_some());
                    if let (Some(got), Some(want)) = (got, want) {
                        close(got, want, 1e-5, "layer_norm with frozen parts");
                    }
                }
            }
        }
    }
}
