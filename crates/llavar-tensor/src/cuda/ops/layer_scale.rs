//! Residual with layer scale: one pass forward, one backward that also makes the parts of `d gamma`.

use std::sync::Arc;

use super::{
    rows::{ByRun, Rows, expect_dtype},
    sum_parts,
};
use crate::{
    DType, Param, Result, Tape, Var,
    cuda::{Cuda, Source, args},
};

pub(in crate::cuda) static SOURCE: Source = Source {
    name: "layer_scale",
    code: include_str!("../kernels/layer_scale.cu"),
};
static SCALE_ADD: ByRun = ByRun::new(&SOURCE, "scale_add_1", "scale_add_8");
static SCALE_BACK: ByRun = ByRun::new(&SOURCE, "scale_back_1", "scale_back_8");

/// Blocks of a pass that only copies, and of one that leaves a sum a block.
const BLOCKS: usize = 132 * 16;
const SUM_BLOCKS: usize = 132 * 4;

/// As [`Tape::layer_scale_residual`], with checked shapes.
pub(crate) fn layer_scale_residual(
    tape: &Tape,
    cuda: &Arc<Cuda>,
    x: &Var,
    branch: &Var,
    gamma: &Param,
) -> Result<Var> {
    let dtype = x.value().dtype();
    let (rows, c) = (x.value().rows(), x.value().last_dim());
    let scale = gamma.value();
    expect_dtype("layer_scale_residual branch", dtype, branch.value())?;
    expect_dtype("layer_scale_residual gamma", dtype, &scale)?;
    let mut out = cuda.empty(x.shape(), dtype)?;
    let tile = Rows::new(c, &[x.value(), branch.value(), &scale])?;
    cuda.launch(
        SCALE_ADD.of(tile.width),
        dtype,
        tile.grid(tile.parts(rows, BLOCKS), 1),
        args![
            x.value(),
            branch.value(),
            &scale,
            &mut out,
            rows as i64,
            c as i32,
            tile.lanes as i32
        ],
    )?;
    if !tape.needs_grad(&[x, branch], &[gamma]) {
        return Ok(Var::constant(out));
    }
    let (cuda, x, branch, gamma) = (cuda.clone(), x.clone(), branch.clone(), gamma.clone());
    Ok(tape.record(out, move |dy, grads| {
        let (wants_branch, wants_gamma) = (branch.requires_grad(), gamma.requires_grad());
        if wants_branch || wants_gamma {
            let tile = Rows::new(c, &[&dy, branch.value(), &scale])?;
            let parts = tile.parts(rows, SUM_BLOCKS);
            let mut dh = wants_branch
                .then(|| cuda.empty(branch.shape(), dtype))
                .transpose()?;
            let mut part = wants_gamma
                .then(|| cuda.empty(&[parts, c], DType::F32))
                .transpose()?;
            cuda.launch(
                SCALE_BACK.of(tile.width),
                dtype,
                tile.grid(parts, 1),
                args![
                    &dy,
                    branch.value(),
                    &scale,
                    dh.as_mut(),
                    part.as_mut(),
                    rows as i64,
                    c as i32,
                    tile.lanes as i32
                ],
            )?;
            if let Some(part) = part {
                gamma.accumulate_tensor(|out, beta| sum_parts(&cuda, &part, parts, out, beta))?;
            }
            if let Some(dh) = dh {
                grads.add(&branch, dh)?;
            }
        }
        grads.add(&x, dy)
    }))
}

#[cfg(test)]
mod tests {
    use crate::{cuda::testing::compare, ops::testing::Rng};

    #[test]
    #[ignore = "needs a GPU"]
    fn layer_scale_agrees_with_the_cpu() {
        let mut rng = Rng::new(510);
        let mut shapes = vec![
            vec![2, 48, 48, 192],
            vec![1, 24, 24, 1536],
            vec![5000, 8],
            vec![3, 2056],
            vec![3, 4104],
            vec![0, 16],
            vec![7, 1],
        ];
        shapes.extend((0..8).map(|_| vec![rng.size(1, 3), rng.size(1, 300), rng.size(1, 700)]));
        for shape in shapes {
            let c = shape[shape.len() - 1];
            let (x, h, gamma) = (rng.tensor(&shape), rng.tensor(&shape), rng.tensor(&[c]));
            let what = format!("layer scale {shape:?}");
            // Twice, so that gradients also add to what is there.
            compare(&what, &[x, h], &[gamma], |tape, x, p| {
                let once = tape.layer_scale_residual(&x[0], &x[1], &p[0])?;
                Ok(vec![tape.layer_scale_residual(&once, &x[1], &p[0])?])
            });
        }
    }
}
