//! Resizing: one launch an axis, tables of taps kept on the device with the plan.

use std::sync::{Arc, Mutex, PoisonError};

use super::rows::{ByRun, Rows};
use crate::{
    DType, Result, Tape, Tensor, Var,
    cuda::{Cuda, Source, args},
    ops::{Resample, resample::Taps},
};

pub(in crate::cuda) static SOURCE: Source = Source {
    name: "resample",
    code: include_str!("../kernels/resample.cu"),
};
static OPEN: ByRun = ByRun::new(&SOURCE, "open_1", "open_8");
static CLOSE: ByRun = ByRun::new(&SOURCE, "close_1", "close_8");
static WHOLE: ByRun = ByRun::new(&SOURCE, "whole_1", "whole_8");

/// Blocks of a pass, about.
const BLOCKS: usize = 132 * 16;

/// The taps of one map on the GPU that used it last: positions and weights. It is no part of the plan's
/// value: a clone starts without, and equality does not look at it.
#[derive(Debug, Default)]
pub(crate) struct TapsOnGpu(Mutex<Option<[Tensor; 2]>>);

impl Clone for TapsOnGpu {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl PartialEq for TapsOnGpu {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl TapsOnGpu {
    fn get(&self, cuda: &Arc<Cuda>, taps: &Taps) -> Result<[Tensor; 2]> {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tables) = &*slot {
            let here = tables[0].cuda().is_some_and(|on| Arc::ptr_eq(on, cuda));
            if here {
                return Ok(tables.clone());
            }
        }
        let (index, weights) = taps.packed();
        let tables = [
            cuda.upload(&index, &[index.len()])?,
            cuda.upload(&weights, &[weights.len()])?,
        ];
        Ok(slot.insert(tables).clone())
    }
}

/// As [`Tape::resample`], with a checked plan that changes something.
pub(crate) fn resample(
    tape: &Tape,
    cuda: &Arc<Cuda>,
    x: &Var,
    plan: &Arc<Resample>,
) -> Result<Var> {
    let (h, w) = plan.from();
    let (to_h, to_w) = plan.to();
    let batch = x.shape().first().copied().unwrap_or(0);
    let c = x.value().last_dim();
    let dtype = x.value().dtype();
    let pass = move |inputs, outer, inner| Pass {
        inputs,
        outer,
        inner,
        dtype,
    };
    let [rows, columns] = plan.axes();
    let mut passes = Vec::new();
    if let Some(rows) = rows {
        passes.push((&rows.forward, pass(h, batch, w * c)));
    }
    if let Some(columns) = columns {
        passes.push((&columns.forward, pass(w, batch * to_h, c)));
    }
    let out = run(cuda, &passes, x.value(), &[batch, to_h, to_w, c])?;
    if !tape.needs_grad(&[x], &[]) {
        return Ok(Var::constant(out));
    }
    let (cuda, x, plan) = (cuda.clone(), x.without_value(), plan.clone());
    Ok(tape.record(out, move |dy, grads| {
        let [rows, columns] = plan.axes();
        let mut passes = Vec::new();
        if let Some(columns) = columns {
            passes.push((&columns.backward, pass(to_w, batch * to_h, c)));
        }
        if let Some(rows) = rows {
            passes.push((&rows.backward, pass(to_h, batch, w * c)));
        }
        grads.add(&x, run(&cuda, &passes, &dy, x.shape())?)
    }))
}

/// Sizes of one axis: `[outer, inputs, inner]` and the element type of the activations.
#[derive(Clone, Copy)]
struct Pass {
    inputs: usize,
    outer: usize,
    inner: usize,
    dtype: DType,
}

/// One pass after the other, f32 between them; the last one makes `shape`.
fn run(cuda: &Arc<Cuda>, passes: &[(&Taps, Pass)], x: &Tensor, shape: &[usize]) -> Result<Tensor> {
    let mut now = x.clone();
    for (i, (taps, pass)) in passes.iter().enumerate() {
        let (is_first, is_last) = (i == 0, i + 1 == passes.len());
        let Pass {
            inputs,
            outer,
            inner,
            dtype,
        } = *pass;
        let outputs = taps.outputs();
        let mut out = if is_last {
            cuda.empty(shape, dtype)?
        } else {
            cuda.empty(&[outer, outputs, inner], DType::F32)?
        };
        let kernels = match (is_first, is_last) {
            (true, true) => &WHOLE,
            (true, false) => &OPEN,
            (false, _) => &CLOSE,
        };
        let [index, weights] = taps.on_gpu.get(cuda, taps)?;
        let rows = outer * outputs;
        let tile = Rows::new(inner, &[&now])?;
        cuda.launch(
            kernels.of(tile.width),
            dtype,
            tile.grid(tile.parts(rows, BLOCKS), 1),
            args![
                &now,
                &index,
                &weights,
                &mut out,
                rows as i64,
                inputs as i32,
                outputs as i32,
                inner as i64,
                tile.lanes as i32
            ],
        )?;
        now = out;
    }
    Ok(now)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::{cuda::testing::compare, ops::Resample, ops::testing::Rng};

    #[test]
    #[ignore = "needs a GPU"]
    fn resample_agrees_with_the_cpu() {
        let mut rng = Rng::new(570);
        let mut cases = vec![
            (
                1,
                3,
                Resample::bilinear_align_corners((768, 768), (336, 336)),
            ),
            (2, 192, Resample::bilinear_align_corners((24, 24), (48, 48))),
            (2, 1024, Resample::avg_pool((48, 48), 2)),
            (1, 1024, Resample::bicubic_antialias((24, 24), (16, 16))),
            (2, 8, Resample::bilinear_align_corners((9, 20), (9, 31))),
            (2, 7, Resample::bilinear_align_corners((9, 20), (5, 20))),
            (0, 8, Resample::bilinear_align_corners((9, 20), (5, 7))),
        ];
        for case in 0..15 {
            let from = (rng.size(1, 40), rng.size(1, 40));
            let to = (rng.size(1, 40), rng.size(1, 40));
            let plan = match case % 3 {
                0 => Resample::bilinear_align_corners(from, to),
                1 => Resample::bicubic_antialias(from, to),
                _ => Resample::avg_pool(from, rng.size(1, from.0.min(from.1))),
            };
            cases.push((rng.size(1, 3), rng.size(1, 70), plan));
        }
        for (batch, c, plan) in cases {
            let (h, w) = plan.from();
            let what = format!("resample {batch} x {h} x {w} x {c} to {:?}", plan.to());
            let plan = Arc::new(plan);
            compare(
                &what,
                &[rng.tensor(&[batch, h, w, c])],
                &[],
                |tape, x, _| Ok(vec![tape.resample(&x[0], &plan)?]),
            );
        }
    }
}
