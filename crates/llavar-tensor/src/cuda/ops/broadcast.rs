//! Weights as values, slices of the first axis, sums that repeat one side, rows side by side.

use std::sync::Arc;

use super::{
    column_sums,
    rows::{ByRun, expect_dtype, run_width},
};
use crate::{
    DType, Error, Param, Result, Tape, Tensor, Var,
    cuda::{Cuda, Grid, Source, args},
};

pub(in crate::cuda) static SOURCE: Source = Source {
    name: "broadcast",
    code: include_str!("../kernels/broadcast.cu"),
};
static ACCUMULATE_F32: ByRun = ByRun::new(&SOURCE, "accumulate_f32_1", "accumulate_f32_8");
static ACCUMULATE_BF16: ByRun = ByRun::new(&SOURCE, "accumulate_bf16_1", "accumulate_bf16_8");
static PLACE: ByRun = ByRun::new(&SOURCE, "place_1", "place_8");
static ADD_BROADCAST: ByRun = ByRun::new(&SOURCE, "add_broadcast_1", "add_broadcast_8");
static JOIN: ByRun = ByRun::new(&SOURCE, "join_1", "join_8");
static SPLIT: ByRun = ByRun::new(&SOURCE, "split_1", "split_8");

/// As [`Tape::param`]: the weight's own tensor, in its own element type.
pub(crate) fn param(tape: &Tape, cuda: &Arc<Cuda>, value: Tensor, p: &Param) -> Result<Var> {
    if !tape.needs_grad(&[], &[p]) {
        return Ok(Var::constant(value));
    }
    let (cuda, p) = (cuda.clone(), p.clone());
    Ok(tape.record(value, move |dy, _| {
        p.accumulate_tensor(|grad, beta| {
            let kernels = match grad.dtype() {
                DType::F32 => &ACCUMULATE_F32,
                DType::BF16 => &ACCUMULATE_BF16,
                got => {
                    return Err(Error::DTypeMismatch {
                        op: "param",
                        expected: DType::F32,
                        got,
                    });
                }
            };
            let n = dy.numel();
            let width = run_width(n, &[&dy, grad])?;
            cuda.launch(
                kernels.of(width),
                dy.dtype(),
                Grid::items(n / width),
                args![&dy, grad, n as i64, beta],
            )
        })
    }))
}

/// Gradient of [`Tape::narrow`]: `dy` at entries `start..` of a tensor of zeros.
pub(crate) fn narrow_backward(
    cuda: &Arc<Cuda>,
    dy: &Tensor,
    shape: &[usize],
    start: usize,
) -> Result<Tensor> {
    let mut dx = cuda.empty(shape, dy.dtype())?;
    let first = start * shape.iter().skip(1).product::<usize>();
    let (n, len) = (dx.numel(), dy.numel());
    let whole = [n, first, len].iter().all(|size| size.is_multiple_of(8));
    let width = if whole { run_width(n, &[dy])? } else { 1 };
    cuda.launch(
        PLACE.of(width),
        dy.dtype(),
        Grid::items(n / width),
        args![dy, &mut dx, n as i64, first as i64, len as i64],
    )?;
    Ok(dx)
}

/// As [`Tape::add_broadcast`], with checked shapes.
pub(crate) fn add_broadcast(tape: &Tape, cuda: &Arc<Cuda>, x: &Var, y: &Var) -> Result<Var> {
    let dtype = x.value().dtype();
    expect_dtype("add_broadcast", dtype, y.value())?;
    let each = y.value().numel();
    let batch = x.shape().first().copied().unwrap_or(1);
    let mut out = cuda.empty(x.shape(), dtype)?;
    let width = run_width(each, &[x.value(), y.value()])?;
    // Few blocks along the batch: each reads its part of `y` once.
    let across = (each / width).div_ceil(256).clamp(1, 132 * 16);
    let along = batch.min((132 * 16usize).div_ceil(across));
    cuda.launch(
        ADD_BROADCAST.of(width),
        dtype,
        Grid::cube([across, along, 1], 256),
        args![x.value(), y.value(), &mut out, batch as i32, each as i64],
    )?;
    if !tape.needs_grad(&[x, y], &[]) {
        return Ok(Var::constant(out));
    }
    let (cuda, x, y) = (cuda.clone(), x.without_value(), y.without_value());
    Ok(tape.record(out, move |dy, grads| {
        if y.requires_grad() {
            let mut sum = cuda.empty(y.shape(), dtype)?;
            column_sums(&cuda, &dy, each, &mut sum, 0.0)?;
            grads.add(&y, sum)?;
        }
        grads.add(&x, dy)
    }))
}

/// As [`Tape::concat_last`], with checked shapes.
pub(crate) fn concat_last(tape: &Tape, cuda: &Arc<Cuda>, a: &Var, b: &Var) -> Result<Var> {
    let dtype = a.value().dtype();
    expect_dtype("concat_last", dtype, b.value())?;
    let sizes = (a.value().rows(), a.value().last_dim(), b.value().last_dim());
    let (rows, m, n) = sizes;
    let mut out = cuda.empty(&[rows, m + n], dtype)?;
    let width = run_width(m | n, &[a.value(), b.value()])?;
    let args = args![
        a.value(),
        b.value(),
        &mut out,
        rows as i64,
        m as i32,
        n as i32
    ];
    cuda.launch(JOIN.of(width), dtype, warp_rows(rows), args)?;
    if !tape.needs_grad(&[a, b], &[]) {
        return Ok(Var::constant(out));
    }
    let (cuda, a, b) = (cuda.clone(), a.clone(), b.clone());
    Ok(tape.record(out, move |dy, grads| {
        let room = |side: &Var| -> Result<Option<Tensor>> {
            let wanted = side.requires_grad();
            wanted.then(|| cuda.empty(side.shape(), dtype)).transpose()
        };
        let (mut da, mut db) = (room(&a)?, room(&b)?);
        let width = run_width(m | n, &[&dy])?;
        let args = args![
            da.as_mut(),
            db.as_mut(),
            &dy,
            rows as i64,
            m as i32,
            n as i32
        ];
        cuda.launch(SPLIT.of(width), dtype, warp_rows(rows), args)?;
        for (side, grad) in [(&a, da), (&b, db)] {
            if let Some(grad) = grad {
                grads.add(side, grad)?;
            }
        }
        Ok(())
    }))
}

/// A warp a row.
fn warp_rows(rows: usize) -> Grid {
    Grid::new(rows.div_ceil(8).min(132 * 16), 256)
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use crate::{cuda::testing::compare, ops::testing::Rng};

    #[test]
    #[ignore = "needs a GPU"]
    fn broadcast_agrees_with_the_cpu() {
        let mut rng = Rng::new(540);
        let mut sizes = vec![
            (8, 576, 1024, 1),
            (3, 1, 1, 0),
            (2, 16, 24, 2),
            (300, 2, 3, 1),
            (0, 4, 8, 1),
        ];
        sizes.extend((0..10).map(|_| {
            let (b, n, c) = (rng.size(1, 5), rng.size(1, 60), rng.size(1, 90));
            (b, n, c, rng.size(0, 3))
        }));
        for (b, n, c, skip) in sizes {
            let x = rng.tensor(&[b, n, c]);
            let positions = rng.tensor(&[n + skip + 1, c]);
            let what = format!("add broadcast {b} x {n} x {c} from {skip}");
            let (input, weight) = (from_ref(&x), from_ref(&positions));
            compare(&what, input, weight, |tape, x, p| {
                let rows = tape.narrow(&tape.param(&p[0])?, skip, n)?;
                Ok(vec![tape.add_broadcast(&x[0], &rows)?])
            });
            // The weight as two values, so that its gradient is also added to.
            compare(&what, &[x], &[positions], |tape, x, p| {
                let (a, b) = (tape.param(&p[0])?, tape.param(&p[0])?);
                let a = tape.narrow(&a, skip, n)?;
                let once = tape.add_broadcast(&x[0], &a)?;
                Ok(vec![once, tape.narrow(&b, skip + 1, n)?])
            });
        }
    }

    #[test]
    #[ignore = "needs a GPU"]
    fn concat_agrees_with_the_cpu() {
        let mut rng = Rng::new(541);
        let mut sizes = vec![
            (1000, 1024, 1536),
            (20_000, 8, 16),
            (5, 3, 8),
            (5, 8, 3),
            (0, 8, 8),
        ];
        sizes.extend((0..10).map(|_| (rng.size(1, 100), rng.size(1, 300), rng.size(1, 300))));
        for (rows, m, n) in sizes {
            let (a, b) = (rng.tensor(&[rows, m]), rng.tensor(&[rows, n]));
            compare(
                &format!("concat {rows} x {m} + {n}"),
                &[a.clone(), b],
                &[],
                |tape, x, _| {
                    // One side without a gradient as well.
                    let half = tape.concat_last(&x[0].detach(), &x[1])?;
                    Ok(vec![tape.concat_last(&x[0], &x[1])?, half])
                },
            );
        }
    }
}
