//! Conversions, sums, and sums over rows.

use std::sync::Arc;

use super::sum_parts::sum_parts;
use crate::{
    DType, Error, Grads, Param, Result, Tensor,
    cuda::{Cuda, Grid, Kernel, Source, args},
};

pub(in crate::cuda) static SOURCE: Source = Source {
    name: "basic",
    code: include_str!("../kernels/basic.cu"),
};
const CAST_F32_BF16: Kernel = SOURCE.kernel("cast_f32_bf16");
const CAST_BF16_F32: Kernel = SOURCE.kernel("cast_bf16_f32");
const ADD_ASSIGN: Kernel = SOURCE.kernel("add_assign");
const ADD: Kernel = SOURCE.kernel("add");
const COLUMN_PARTS: Kernel = SOURCE.kernel("column_parts");
const COLUMN_PARTS_8: Kernel = SOURCE.kernel("column_parts_8");

/// Blocks of a sum over many rows, and the fewest parts that it is made in; fixed by the sizes alone, so that sums are
/// the same on every card.
const BLOCKS: usize = 264;
const FEWEST_PARTS: usize = 64;

/// `x` in another element type.
pub(crate) fn cast(cuda: &Arc<Cuda>, x: &Tensor, dtype: DType) -> Result<Tensor> {
    let kernel = match (x.dtype(), dtype) {
        (DType::F32, DType::BF16) => &CAST_F32_BF16,
        (DType::BF16, DType::F32) => &CAST_BF16_F32,
        (expected, got) => {
            return Err(Error::DTypeMismatch {
                op: "cast",
                expected,
                got,
            });
        }
    };
    let mut out = cuda.empty(x.shape(), dtype)?;
    let n = x.numel();
    cuda.launch(
        kernel,
        DType::F32,
        Grid::items(n),
        args![x, &mut out, n as i64],
    )?;
    Ok(out)
}

/// `into += from`.
pub(crate) fn add_assign(cuda: &Arc<Cuda>, into: &mut Tensor, from: &Tensor) -> Result<()> {
    let n = same(into, from)?;
    let grid = Grid::items(n.div_ceil(8));
    cuda.launch(&ADD_ASSIGN, from.dtype(), grid, args![into, from, n as i64])
}

/// `a + b` in the shape of `a`.
pub(crate) fn add(cuda: &Arc<Cuda>, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let n = same(a, b)?;
    let mut out = cuda.empty(a.shape(), a.dtype())?;
    let grid = Grid::items(n.div_ceil(8));
    cuda.launch(&ADD, a.dtype(), grid, args![a, b, &mut out, n as i64])?;
    Ok(out)
}

/// `out = beta out + sum over rows of x [rows, n]`, always in the same order.
pub(crate) fn column_sums(
    cuda: &Arc<Cuda>,
    x: &Tensor,
    n: usize,
    out: &mut Tensor,
    beta: f32,
) -> Result<()> {
    let (part, parts) = column_parts(cuda, x, n)?;
    sum_parts(cuda, &part, parts, out, beta)
}

/// Adds the sums over rows of `x [rows, n]` to the gradient of a weight, in the order of [`column_sums`].
pub(crate) fn add_column_sums(
    cuda: &Arc<Cuda>,
    x: &Tensor,
    n: usize,
    param: &Param,
    grads: &mut Grads,
) -> Result<()> {
    let (part, parts) = column_parts(cuda, x, n)?;
    grads.add_parts(param, part, parts)
}

/// Parts of the sums over rows of `x [rows, n]`, `[parts, n]`, and their number.
fn column_parts(cuda: &Arc<Cuda>, x: &Tensor, n: usize) -> Result<(Tensor, usize)> {
    let rows = x.numel() / n.max(1);
    let runs = ColumnRuns::new(rows, n);
    let mut part = cuda.empty(&[runs.parts, n], DType::F32)?;
    let aligned = n.is_multiple_of(8) && x.cuda_address()?.is_multiple_of(16);
    cuda.launch(
        if aligned {
            &COLUMN_PARTS_8
        } else {
            &COLUMN_PARTS
        },
        x.dtype(),
        runs.grid(),
        args![x, &mut part, rows as i64, n as i64, runs.each as i64],
    )?;
    Ok((part, runs.parts))
}

/// How sums over the rows of `[rows, n]` are divided into blocks: 256 columns and a run of rows each.
#[derive(Debug, Clone, Copy)]
pub(super) struct ColumnRuns {
    beside: usize,
    /// Runs of rows, each of which gives a part of every sum.
    pub(super) parts: usize,
    /// Rows of a run.
    pub(super) each: usize,
}

impl ColumnRuns {
    pub(super) fn new(rows: usize, n: usize) -> Self {
        let beside = n.div_ceil(256).max(1);
        let most = (BLOCKS / beside).max(FEWEST_PARTS);
        let parts = rows.div_ceil(32).clamp(1, most);
        let each = rows.div_ceil(parts).max(1);
        Self {
            beside,
            parts: rows.div_ceil(each).max(1),
            each,
        }
    }

    pub(super) fn grid(self) -> Grid {
        Grid::cube([self.beside, self.parts, 1], 256)
    }
}

fn same(a: &Tensor, b: &Tensor) -> Result<usize> {
    if a.dtype() != b.dtype() {
        return Err(Error::DTypeMismatch {
            op: "add",
            expected: a.dtype(),
            got: b.dtype(),
        });
    }
    Ok(a.numel().min(b.numel()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cuda::testing::{compare, gpu},
        ops::testing::{Rng, close},
    };

    #[test]
    #[ignore = "needs a GPU"]
    fn tensors_come_back_as_they_went() {
        let device = gpu();
        let mut rng = Rng::new(502);
        for len in [0, 1, 7, 8, 1000, 65_537] {
            let x = rng.tensor(&[len]);
            for dtype in [DType::F32, DType::BF16] {
                let want = x.cast(dtype).unwrap().to_f32_vec().unwrap();
                let there = x.to_device(&device).unwrap().cast(dtype).unwrap();
                assert_eq!(there.dtype(), dtype);
                assert_eq!(there.to_f32_vec().unwrap(), want, "{len} {dtype}");
                let back = there.cast(DType::F32).unwrap().to_f32_vec().unwrap();
                assert_eq!(back, want, "{len} {dtype} widened");
            }
        }
        let cuda = device.as_cuda().unwrap();
        let ids: Vec<i32> = (0..100).collect();
        let (a, b) = (cuda.constant(&ids).unwrap(), cuda.constant(&ids).unwrap());
        assert_eq!(a.cuda_address().unwrap(), b.cuda_address().unwrap());
        assert_eq!(a.to_f32_vec().unwrap()[99], 99.0);
        let readback = cuda.read_back(&rng.tensor(&[3]).to_device(&device).unwrap());
        assert_eq!(readback.unwrap().wait().unwrap().len(), 3);
    }

    #[test]
    #[ignore = "needs a GPU"]
    fn add_agrees_with_the_cpu() {
        let mut rng = Rng::new(503);
        for shape in [[1, 1], [3, 5], [64, 72], [1000, 33]] {
            let (a, b) = (rng.tensor(&shape), rng.tensor(&shape));
            // `a` twice, so that two gradients meet.
            compare("add", &[a, b], &[], |tape, x, _| {
                Ok(vec![tape.add(&tape.add(&x[0], &x[1])?, &x[0])?])
            });
        }
    }

    #[test]
    #[ignore = "needs a GPU"]
    fn sums_over_rows_agree_with_f64_and_repeat() {
        crate::memory::set_poison(true);
        let device = gpu();
        let cuda = device.as_cuda().unwrap();
        let mut rng = Rng::new(519);
        for (rows, n, first) in [
            (0, 8, 0),
            (1, 1, 0),
            (31, 7, 0),
            (33, 8, 0),
            (1000, 264, 0),
            (18_432, 192, 0),
            (5000, 768, 0),
            (999, 771, 0),
            // A view that is not aligned.
            (400, 24, 3),
            (300, 20_000, 0),
        ] {
            for dtype in [DType::F32, DType::BF16] {
                let whole = rng.tensor(&[first + rows * n]).cast(dtype).unwrap();
                let x = whole.to_f32_vec().unwrap();
                let x = &x[first..];
                let on_gpu = whole
                    .to_device(&device)
                    .unwrap()
                    .narrow(first, rows * n)
                    .unwrap();
                let on_gpu = on_gpu.reshape(&[rows, n]).unwrap();
                let before = rng.tensor(&[n]);
                let run = |beta: f32| {
                    let mut out = before.to_device(&device).unwrap();
                    column_sums(cuda, &on_gpu, n, &mut out, beta).unwrap();
                    out.to_f32_vec().unwrap()
                };
                for beta in [0.0, 1.0] {
                    let want: Vec<f32> = (0..n)
                        .map(|c| {
                            let own = f64::from(beta * before.data::<f32>().unwrap()[c]);
                            (own + (0..rows).map(|r| f64::from(x[r * n + c])).sum::<f64>()) as f32
                        })
                        .collect();
                    let what = format!("{rows} x {n} {dtype} beta {beta}");
                    let got = run(beta);
                    close(&got, &want, 1e-5, &what);
                    assert_eq!(got, run(beta), "{what}: two runs differ");
                }
            }
        }
    }
}
