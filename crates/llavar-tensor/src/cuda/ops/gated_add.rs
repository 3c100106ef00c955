//! Gated sum of the MR-Adapter; the gate is computed where it is used.

use std::sync::Arc;

use super::{
    rows::{ByRun, expect_dtype, run_width},
    tokens,
};
use crate::{
    DType, Result, Tape, Var,
    cuda::{Cuda, Grid, Kernel, args},
};

static GATED_ADD: ByRun = ByRun::new(&tokens::SOURCE, "gated_add_1", "gated_add_8");
static GATED_BACK: ByRun = ByRun::new(&tokens::SOURCE, "gated_back_1", "gated_back_8");
static GATE_SLOPE: Kernel = tokens::SOURCE.kernel("gate_slope");

/// As [`Tape::gated_add`], with checked shapes.
pub(crate) fn gated_add(
    tape: &Tape,
    cuda: &Arc<Cuda>,
    u: &Var,
    h: &Var,
    logit: &Var,
) -> Result<Var> {
    let dtype = u.value().dtype();
    expect_dtype("gated_add h", dtype, h.value())?;
    expect_dtype("gated_add logit", dtype, logit.value())?;
    let batch = logit.value().numel();
    let each = u.value().numel() / batch.max(1);
    // Blocks of a picture, so that the batch has about `blocks`.
    let parts = move |width: usize, blocks: usize| {
        let most = blocks.div_ceil(batch.max(1));
        (each / width).div_ceil(256).clamp(1, most)
    };
    let mut out = cuda.empty(u.shape(), dtype)?;
    let width = run_width(each, &[u.value(), h.value()])?;
    cuda.launch(
        GATED_ADD.of(width),
        dtype,
        Grid::cube([parts(width, 132 * 16), 1, batch], 256),
        args![u.value(), h.value(), logit.value(), &mut out, each as i64],
    )?;
    if !tape.needs_grad(&[u, h, logit], &[]) {
        return Ok(Var::constant(out));
    }
    let (cuda, u, h, logit) = (cuda.clone(), u.clone(), h.clone(), logit.clone());
    Ok(tape.record(out, move |dy, grads| {
        let (wants_h, wants_logit) = (h.requires_grad(), logit.requires_grad());
        if wants_h || wants_logit {
            let width = run_width(each, &[&dy, h.value()])?;
            let parts = parts(width, 132 * 8);
            let mut dh = wants_h.then(|| cuda.empty(h.shape(), dtype)).transpose()?;
            let mut part = wants_logit
                .then(|| cuda.empty(&[batch, parts], DType::F32))
                .transpose()?;
            cuda.launch(
                GATED_BACK.of(width),
                dtype,
                Grid::cube([parts, 1, batch], 256),
                args![
                    &dy,
                    h.value(),
                    logit.value(),
                    dh.as_mut(),
                    part.as_mut(),
                    each as i64
                ],
            )?;
            if let Some(part) = part {
                let mut slope = cuda.empty(logit.shape(), dtype)?;
                cuda.launch(
                    &GATE_SLOPE,
                    dtype,
                    Grid::new(batch, 256),
                    args![&part, logit.value(), &mut slope, parts as i32],
                )?;
                grads.add(&logit, slope)?;
            }
            if let Some(dh) = dh {
                grads.add(&h, dh)?;
            }
        }
        grads.add(&u, dy)
    }))
}

#[cfg(test)]
mod tests {
    use crate::{cuda::testing::compare, ops::testing::Rng};

    #[test]
    #[ignore = "needs a GPU"]
    fn gated_add_agrees_with_the_cpu() {
        let mut rng = Rng::new(560);
        let mut shapes = vec![[8, 576, 1024], [4, 1, 5], [9, 7, 8], [0, 3, 8]];
        shapes.extend((0..10).map(|_| [rng.size(3, 9), rng.size(1, 200), rng.size(1, 90)]));
        for shape in shapes {
            let (u, h) = (rng.tensor(&shape), rng.tensor(&shape));
            let logit = rng.tensor(&[shape[0], 1]);
            let what = format!("gated add {shape:?}");
            compare(&what, &[u, h, logit], &[], |tape, x, _| {
                Ok(vec![tape.gated_add(&x[0], &x[1], &x[2])?])
            });
        }
    }
}
