//! Products of our own for Hopper that fill the card with one round of tiles: `c = a b + bias + residual`.
//!
//! cuBLASLt's tiles leave a third of the card idle at the end of CLIP's output layers (4,608 tokens by 1,024 columns).
//! The kernel (`kernels/product_wide.cu`) has tiles of 144 rows by 256 columns, which fit them.

use std::sync::Arc;

use super::{
    Cuda, Epilogue, Grid, Kernel, Source, args,
    product::{LINE_BYTES, MIN_ROWS, Matrix, THREADS},
};
use crate::{DType, Result, Tensor, cpu::Layout};

pub(super) static SOURCE: Source = Source {
    name: "product_wide",
    code: concat!(
        include_str!("kernels/activation.cuh"),
        include_str!("kernels/hopper.cuh"),
        include_str!("kernels/product_wide.cu")
    ),
};
const ROWWISE: Kernel = SOURCE.kernel("product_wide");
const COLUMNWISE: Kernel = SOURCE.kernel("product_wide_columnwise");

/// Rows and columns of a tile, steps of the ring, rows of a box of weights that are `[k, n]`: as in the source file.
const TILE: [usize; 2] = [144, 256];
const STEPS: usize = 4;
const BOX: usize = 64;
/// Tiles, barriers, and what it takes to begin at a multiple of 1,024.
const SHARED: usize = STEPS * (TILE[0] + TILE[1]) * LINE_BYTES + 16 * STEPS + 1024;

impl Cuda {
    /// Queues the product as [`Cuda::gemm_epilogue`] does, with checked sizes. Nothing is done, and it says so, where
    /// cuBLASLt's is the faster one or there is no kernel.
    pub(super) fn product_wide(
        self: &Arc<Self>,
        layout: Layout,
        [m, n, k]: [usize; 3],
        [a, b]: [&Tensor; 2],
        c: &mut Tensor,
        beta: f32,
        epilogue: Epilogue<'_>,
    ) -> Result<bool> {
        let tiles = m.div_ceil(TILE[0]) * n.div_ceil(TILE[1]);
        let cards = self.info().multiprocessors;
        let mut fits = self.info().is_hopper()
            && layout != Layout::TN
            && m >= MIN_ROWS
            && tiles <= cards
            && 10 * tiles >= 9 * cards
            && n.is_multiple_of(8)
            && k.is_multiple_of(8)
            && m.max(n).max(k) < 1 << 28;
        let others = [
            Some(a),
            Some(b),
            Some(&*c),
            epilogue.bias,
            epilogue.residual,
        ];
        for tensor in others.into_iter().flatten() {
            fits =
                fits && tensor.dtype() == DType::BF16 && tensor.cuda_address()?.is_multiple_of(16);
        }
        if !fits {
            return Ok(false);
        }
        // An output that somebody else looks at moves.
        c.cuda_address_mut()?;
        let of_c = Matrix::of(c, [m, n])?.boxes(TILE[0])?;
        let (of_residual, added) = match epilogue.residual {
            Some(residual) => (Matrix::of(residual, [m, n])?.boxes(TILE[0])?, true),
            None => (of_c, beta != 0.0),
        };
        let (kernel, of_b) = match layout {
            Layout::NN => (&COLUMNWISE, Matrix::of(b, [k, n])?.boxes(BOX)?),
            _ => (&ROWWISE, Matrix::of(b, [n, k])?.boxes(TILE[1])?),
        };
        let arguments = args![
            Matrix::of(a, [m, k])?.boxes(TILE[0])?,
            of_b,
            of_residual,
            of_c,
            epilogue.bias,
            i32::from(added),
            m as i32,
            n as i32,
            k as i32
        ];
        let grid = Grid::new(tiles, THREADS).shared(SHARED);
        self.launch(kernel, DType::BF16, grid, arguments)?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        DType, Tensor,
        cpu::Layout,
        cuda::{
            Epilogue,
            testing::{compare, gpu},
        },
        ops::testing::{Rng, close},
    };

    /// One round of tiles on a card of 132 multiprocessors, whole ones and others, forward with and without bias and
    /// residual, and the gradient of the input, alone and added to.
    #[test]
    #[ignore = "needs a GPU"]
    fn products_of_one_round_agree_with_the_cpu() {
        let mut rng = Rng::new(540);
        for [rows, n, k] in [
            [4608, 1024, 64],
            [4603, 1016, 200],
            [513, 8000, 72],
            [600, 6504, 8],
        ] {
            let x = rng.tensor(&[rows, k]);
            let (r, w, b) = (
                rng.tensor(&[rows, n]),
                rng.tensor(&[n, k]),
                rng.tensor(&[n]),
            );
            let what = format!("product of one round {rows} x {n} x {k}");
            compare(&what, &[x.clone(), r], &[w.clone(), b], |tape, x, p| {
                Ok(vec![
                    tape.linear_residual(&x[0], &p[0], Some(&p[1]), Some(&x[1]))?,
                    tape.linear(&x[0], &p[0], None)?,
                ])
            });
            // The gradient of `n` columns comes from a layer the other way.
            let x = rng.tensor(&[rows, n]);
            let layers = [
                rng.tensor(&[k, n]),
                rng.tensor(&[k, n]),
                rng.tensor(&[k, n]),
            ];
            compare(&what, &[x], &layers, |tape, x, p| {
                let none = |i: usize| (&p[i], None);
                let three = tape.linear_three(&x[0], [none(0), none(1), none(2)])?;
                Ok(three.to_vec())
            });
        }
    }

    /// Fewer steps than the ring has and many more, ends at every place of the ring, over and over: the groups that
    /// multiply keep no pace, so what one does to the other's entries shows in some runs alone.
    #[test]
    #[ignore = "needs a GPU"]
    fn every_run_gives_the_same() {
        let (device, mut rng) = (gpu(), Rng::new(541));
        let cuda = device.as_cuda().unwrap();
        let whole = cuda.info().is_hopper() && cuda.info().multiprocessors == 132;
        let (m, n) = (4608, 1024);
        for k in [64, 128, 192, 256, 320, 448, 1024, 4096] {
            for layout in [Layout::NT, Layout::NN] {
                // As averages, so that sums stay near one.
                let scaled = |t: Tensor| {
                    let values = t.to_f32_vec().unwrap();
                    let values = values.iter().map(|v| v / (k as f32).sqrt()).collect();
                    Tensor::from_vec(values, t.shape()).unwrap()
                };
                let host = [
                    rng.tensor(&[m, k]),
                    scaled(rng.tensor(&[k, n])),
                    rng.tensor(&[m, n]),
                ];
                let place = |t: &Tensor| t.cast(DType::BF16).unwrap().to_device(&device).unwrap();
                let [a, b, r] = host.each_ref().map(place);
                let run = |c: &mut Tensor, own: bool| {
                    let epilogue = Epilogue {
                        bias: None,
                        residual: Some(&r),
                    };
                    let done = match own {
                        true => cuda.product_wide(layout, [m, n, k], [&a, &b], c, 0.0, epilogue),
                        // In f32 out of cuBLASLt.
                        false => cuda.gemm(layout, [m, n, k], &a, &b, c, 0.0).map(|()| true),
                    };
                    done.unwrap()
                };
                let mut c = cuda.empty(&[m, n], DType::BF16).unwrap();
                if !run(&mut c, true) {
                    assert!(!whole, "{layout:?} {k}");
                    continue;
                }
                let first = c.to_f32_vec().unwrap();
                let mut want = cuda.empty(&[m, n], DType::F32).unwrap();
                run(&mut want, false);
                let want = want.to_f32_vec().unwrap();
                let r = r.to_f32_vec().unwrap();
                let want: Vec<f32> = want.iter().zip(&r).map(|(c, r)| c + r).collect();
                // By tiles: one that is wrong is little of the whole.
                for (i, (got, want)) in first.chunks(144 * n).zip(want.chunks(144 * n)).enumerate()
                {
                    close(
                        got,
                        want,
                        3e-3,
                        &format!("{layout:?} {k}, rows of tile {i}"),
                    );
                }
                for time in 0..60 {
                    cuda.clear(&mut c).unwrap();
                    run(&mut c, true);
                    let again = c.to_f32_vec().unwrap();
                    assert!(again == first, "{layout:?} {k}, time {time}");
                }
            }
        }
    }
}
