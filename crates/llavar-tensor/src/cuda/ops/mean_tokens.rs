//! Mean over the tokens of each picture, in two steps of fixed order.

use std::sync::Arc;

use super::{
    rows::{ByRun, Rows},
    sum_parts::sum_parts,
    tokens,
};
use crate::{
    DType, Result, Tape, Var,
    cuda::{Cuda, args},
};

static MEAN_PARTS: ByRun = ByRun::new(&tokens::SOURCE, "mean_parts_1", "mean_parts_8");
static SPREAD: ByRun = ByRun::new(&tokens::SOURCE, "spread_1", "spread_8");

/// As [`Tape::mean_tokens`], with a checked shape `[batch, n, c]`.
pub(crate) fn mean_tokens(
    tape: &Tape,
    cuda: &Arc<Cuda>,
    x: &Var,
    [batch, n, c]: [usize; 3],
) -> Result<Var> {
    let dtype = x.value().dtype();
    let scale = 1.0 / n as f32;
    let mut out = cuda.empty(&[batch, c], dtype)?;
    let tile = Rows::new(c, &[x.value()])?;
    let parts = tile.parts(n, (132 * 4usize).div_ceil(batch.max(1)));
    let mut part = cuda.empty(&[parts, batch, c], DType::F32)?;
    let (rows, channels, lanes) = (n as i32, c as i32, tile.lanes as i32);
    cuda.launch(
        MEAN_PARTS.of(tile.width),
        dtype,
        tile.grid(parts, batch),
        args![x.value(), &mut part, rows, channels, lanes, scale],
    )?;
    sum_parts(cuda, &part, parts, &mut out, 0.0)?;
    if !tape.needs_grad(&[x], &[]) {
        return Ok(Var::constant(out));
    }
    let (cuda, x) = (cuda.clone(), x.without_value());
    Ok(tape.record(out, move |dy, grads| {
        let mut dx = cuda.empty(x.shape(), dtype)?;
        let tile = Rows::new(c, &[&dy])?;
        let parts = tile.parts(n, (132 * 16usize).div_ceil(batch.max(1)));
        cuda.launch(
            SPREAD.of(tile.width),
            dtype,
            tile.grid(parts, batch),
            args![&dy, &mut dx, rows, channels, tile.lanes as i32, scale],
        )?;
        grads.add(&x, dx)
    }))
}

#[cfg(test)]
mod tests {
    use crate::{cuda::testing::compare, ops::testing::Rng};

    #[test]
    #[ignore = "needs a GPU"]
    fn mean_tokens_agrees_with_the_cpu() {
        let mut rng = Rng::new(550);
        let mut shapes = vec![
            [8, 576, 1024],
            [1, 9216, 192],
            [2, 1, 4104],
            [0, 3, 8],
            [3, 1, 1],
        ];
        shapes.extend((0..10).map(|_| [rng.size(1, 5), rng.size(1, 300), rng.size(1, 300)]));
        for shape in shapes {
            let x = rng.tensor(&shape);
            compare(
                &format!("mean tokens {shape:?}"),
                &[x],
                &[],
                |tape, x, _| Ok(vec![tape.mean_tokens(&x[0])?]),
            );
        }
    }
}
