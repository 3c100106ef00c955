//! What adapters need beside products: dropout, scaling, norms of rows, rows scaled to a magnitude.

use std::sync::Arc;

use super::rows::expect_dtype;
use crate::{
    Result, Tensor,
    cuda::{Cuda, Grid, Kernel, Source, args},
    ops::lora::Dropout,
};

pub(in crate::cuda) static SOURCE: Source = Source {
    name: "lora",
    code: include_str!("../kernels/lora.cu"),
};
const DROPOUT: Kernel = SOURCE.kernel("dropout");
const SCALE: Kernel = SOURCE.kernel("scale");
const ROW_NORMS: Kernel = SOURCE.kernel("row_norms");
const SCALE_TO: Kernel = SOURCE.kernel("scale_to");
const SCALE_TO_BACKWARD: Kernel = SOURCE.kernel("scale_to_backward");

/// `out = x` with elements dropped.
pub(crate) fn dropout(cuda: &Arc<Cuda>, x: &Tensor, out: &mut Tensor, drop: Dropout) -> Result<()> {
    let (n, threshold) = (x.numel(), i64::from(drop.threshold));
    cuda.launch(
        &DROPOUT,
        x.dtype(),
        Grid::items(n),
        // The key's bits, as a launch passes them.
        args![
            x,
            out,
            n as i64,
            drop.key.cast_signed(),
            threshold,
            drop.factor
        ],
    )
}

/// `x *= factor`.
pub(crate) fn scale(cuda: &Arc<Cuda>, x: &mut Tensor, factor: f32) -> Result<()> {
    let (n, dtype) = (x.numel(), x.dtype());
    cuda.launch(&SCALE, dtype, Grid::items(n), args![x, n as i64, factor])
}

/// Norms of the rows of `w + s b a`, from `[w, b, w a^T, b a a^T]`, the last two and the norms f32.
pub(crate) fn row_norms(
    cuda: &Arc<Cuda>,
    [w, b, p, q]: [&Tensor; 4],
    s: f32,
    norms: &mut Tensor,
) -> Result<()> {
    expect_dtype("lora row norms", w.dtype(), b)?;
    let (n, rank) = (norms.numel(), b.last_dim());
    let k = w.numel() / n.max(1);
    cuda.launch(
        &ROW_NORMS,
        w.dtype(),
        Grid::new(n, 256),
        args![w, b, p, q, norms, k as i32, rank as i32, s],
    )
}

/// `out = m / norm z + bias + residual`, from `[m, norm]`.
pub(crate) fn scale_to(
    cuda: &Arc<Cuda>,
    z: &Tensor,
    [m, norm]: [&Tensor; 2],
    bias: Option<&Tensor>,
    residual: Option<&Tensor>,
    out: &mut Tensor,
) -> Result<()> {
    for tensor in [Some(m), bias, residual].into_iter().flatten() {
        expect_dtype("lora magnitude", z.dtype(), tensor)?;
    }
    let (total, n) = (z.numel(), norm.numel());
    cuda.launch(
        &SCALE_TO,
        z.dtype(),
        Grid::items(total),
        args![z, m, norm, bias, residual, out, total as i64, n as i32],
    )
}

/// Gradients of [`scale_to`] from `[dy, z, m, norm]`: those of `z`, and the terms of those of `m`.
pub(crate) fn scale_to_backward(
    cuda: &Arc<Cuda>,
    [dy, z, m, norm]: [&Tensor; 4],
    [dz, slope]: [&mut Tensor; 2],
) -> Result<()> {
    expect_dtype("lora magnitude", z.dtype(), dy)?;
    let (total, n) = (z.numel(), norm.numel());
    cuda.launch(
        &SCALE_TO_BACKWARD,
        z.dtype(),
        Grid::items(total),
        args![dy, z, m, norm, dz, slope, total as i64, n as i32],
    )
}

#[cfg(test)]
mod tests {
    use crate::{LoraAdapter, Tape, cuda::testing::compare, ops::testing::Rng};

    #[test]
    #[ignore = "needs a GPU"]
    fn adapters_agree_with_the_cpu() {
        let mut rng = Rng::new(540);
        for (rows, n, k, rank) in [
            (1, 1, 1, 1),
            (5, 24, 9, 2),
            (64, 96, 128, 8),
            (333, 200, 65, 16),
        ] {
            for (dora, dropout) in [(false, 0.0), (false, 0.3), (true, 0.0), (true, 0.1)] {
                let inputs = [rng.tensor(&[rows, k]), rng.tensor(&[rows, n])];
                let mut params = vec![
                    rng.tensor(&[n, k]),
                    rng.tensor(&[n]),
                    rng.tensor(&[rank, k]),
                    rng.tensor(&[n, rank]),
                ];
                if dora {
                    params.push(rng.tensor(&[n]));
                }
                let what = format!("lora {rows} x {n} x {k}, rank {rank}, dora {dora}, {dropout}");
                compare(&what, &inputs, &params, |tape, x, p| {
                    let lora = LoraAdapter {
                        a: p[2].clone(),
                        b: p[3].clone(),
                        magnitude: p.get(4).cloned(),
                        scaling: 0.25,
                        dropout,
                        key: 7,
                    };
                    let y = tape.lora_linear(&x[0], &p[0], Some(&p[1]), Some(&x[1]), &lora)?;
                    Ok(vec![y])
                });
            }
        }
        // The same bits are dropped on both.
        let x = rng.tensor(&[1000, 33]);
        let drop = crate::ops::lora::Dropout::new(0.2, 5, 9);
        let there = x.to_device(&crate::cuda::testing::gpu()).unwrap();
        let (here, there) = (drop.apply(&x).unwrap(), drop.apply(&there).unwrap());
        assert_eq!(here.to_f32_vec().unwrap(), there.to_f32_vec().unwrap());
        assert!(Tape::inference().with_dropout(1).dropout_seed().is_some());
    }
}
