//! Products of our own for Hopper in tiles that fill the card: `c = a b + bias + residual`.
//!
//! cuBLASLt's tiles leave a third of the card idle at the end of CLIP's output layers (4,608 tokens by 1,024 columns) and
//! a tenth behind the layers of a language model that end in its width (6,400 by 3,072). The kernel
//! (`kernels/product_wide.cu`) has tiles of 144 and of 200 rows by 256 columns, which fit them.

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

/// The kernel with tiles of one height.
struct Tiling {
    rows: usize,
    /// Steps of the ring.
    steps: usize,
    rowwise: Kernel,
    columnwise: Kernel,
}

/// As in the source file: for products of one round, and for others.
const LOW: Tiling = Tiling {
    rows: 144,
    steps: 4,
    rowwise: SOURCE.kernel("product_wide_144"),
    columnwise: SOURCE.kernel("product_wide_144_columnwise"),
};
const HIGH: Tiling = Tiling {
    rows: 200,
    steps: 3,
    rowwise: SOURCE.kernel("product_wide_200"),
    columnwise: SOURCE.kernel("product_wide_200_columnwise"),
};
/// Columns of a tile, rows of a box of weights that are `[k, n]`: as in the source file.
const COLUMNS: usize = 256;
const BOX: usize = 64;
/// What of the rounds must be used, and the inner axis that makes up for ends of tiles nobody multiplies beside.
const FILL_LOW: f64 = 0.9;
const FILL_HIGH: f64 = 0.93;
const MIN_K_HIGH: usize = 2048;
/// Rows of cuBLASLt's tile for large products.
const LIBRARY_ROWS: usize = 128;

impl Tiling {
    /// The one that beats cuBLASLt on so many multiprocessors.
    fn choose([m, n, k]: [usize; 3], cards: usize) -> Option<&'static Self> {
        let rounds = |rows: usize| (m.div_ceil(rows) * n.div_ceil(COLUMNS)).div_ceil(cards);
        // Elements of c over those of all tiles that the rounds have room for.
        let fill = |rows: usize| (m * n) as f64 / (rounds(rows) * cards * rows * COLUMNS) as f64;
        if m * n == 0 {
            return None;
        }
        if rounds(LOW.rows) == 1 && fill(LOW.rows) >= FILL_LOW {
            return Some(&LOW);
        }
        let fits = k >= MIN_K_HIGH
            && fill(HIGH.rows) >= FILL_HIGH
            && fill(HIGH.rows) >= fill(LIBRARY_ROWS);
        fits.then_some(&HIGH)
    }

    /// Tiles, barriers, and what it takes to begin at a multiple of 1,024.
    const fn shared(&self) -> usize {
        self.steps * ((self.rows + COLUMNS) * LINE_BYTES + 16) + 1024
    }
}

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
        let cards = self.info().multiprocessors;
        let Some(tiling) = Tiling::choose([m, n, k], cards) else {
            return Ok(false);
        };
        let mut fits = self.info().is_hopper()
            && layout != Layout::TN
            && m >= MIN_ROWS
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
        let of_c = Matrix::of(c, [m, n])?.boxes(tiling.rows)?;
        let (of_residual, added) = match epilogue.residual {
            Some(residual) => (Matrix::of(residual, [m, n])?.boxes(tiling.rows)?, true),
            None => (of_c, beta != 0.0),
        };
        let (kernel, of_b) = match layout {
            Layout::NN => (&tiling.columnwise, Matrix::of(b, [k, n])?.boxes(BOX)?),
            _ => (&tiling.rowwise, Matrix::of(b, [n, k])?.boxes(COLUMNS)?),
        };
        let arguments = args![
            Matrix::of(a, [m, k])?.boxes(tiling.rows)?,
            of_b,
            of_residual,
            of_c,
            epilogue.bias,
            i32::from(added),
            m as i32,
            n as i32,
            k as i32
        ];
        let tiles = m.div_ceil(tiling.rows) * n.div_ceil(COLUMNS);
        let grid = Grid::new(tiles.min(cards), THREADS).shared(tiling.shared());
        self.launch(kernel, DType::BF16, grid, arguments)?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::Tiling;
    use crate::{
        DType, Tensor,
        cpu::Layout,
        cuda::{
            Epilogue,
            testing::{compare, gpu},
        },
        ops::testing::{Rng, close},
    };

    #[test]
    fn heights_are_those_that_fill_the_card() {
        let rows = |sizes| Tiling::choose(sizes, 132).map(|tiling| tiling.rows);
        // CLIP's output layers, a language model's of 6,400 tokens there and back.
        assert_eq!(rows([4608, 1024, 4096]), Some(144));
        for k in [3072, 8192, 16384] {
            assert_eq!(rows([6400, 3072, k]), Some(200));
        }
        // Nothing to gain; too little to do behind a tile's end; nothing at all.
        assert_eq!(rows([6400, 9216, 3072]), None);
        assert_eq!(rows([6400, 3072, 1024]), None);
        assert_eq!(rows([0, 3072, 4096]), None);
        // Two rounds of which the second is nearly empty.
        assert_eq!(rows([2500, 3072, 4096]), None);
    }

    /// Whole tiles and others on a card of 132 multiprocessors, of one round and of three, forward with and without bias
    /// and residual, and the gradient of the input, alone and added to.
    #[test]
    #[ignore = "needs a GPU"]
    fn products_of_full_rounds_agree_with_the_cpu() {
        let mut rng = Rng::new(540);
        for [rows, n, k] in [
            [4608, 1024, 64],
            [4603, 1016, 200],
            [571, 8000, 72],
            [715, 6504, 8],
            [2197, 3064, 2056],
            [6391, 3072, 2048],
        ] {
            let x = rng.tensor(&[rows, k]);
            let (r, w, b) = (
                rng.tensor(&[rows, n]),
                rng.tensor(&[n, k]),
                rng.tensor(&[n]),
            );
            let what = format!("product of full rounds {rows} x {n} x {k}");
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
        let low = [64, 128, 192, 256, 320, 448, 1024, 4096].map(|k| [4608, 1024, k]);
        let high = [2048, 2112, 2176].map(|k| [6400, 3072, k]);
        for [m, n, k] in low.into_iter().chain(high) {
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
                    assert!(!whole, "{layout:?} {m} x {n} x {k}");
                    continue;
                }
                let first = c.to_f32_vec().unwrap();
                let mut want = cuda.empty(&[m, n], DType::F32).unwrap();
                run(&mut want, false);
                let want = want.to_f32_vec().unwrap();
                let r = r.to_f32_vec().unwrap();
                let want: Vec<f32> = want.iter().zip(&r).map(|(c, r)| c + r).collect();
                // By tiles: one that is wrong is little of the whole.
                let tile = Tiling::choose([m, n, k], 132).unwrap().rows * n;
                for (i, (got, want)) in first.chunks(tile).zip(want.chunks(tile)).enumerate() {
                    let what = format!("{layout:?} {m} x {n} x {k}, rows of tile {i}");
                    close(got, want, 3e-3, &what);
                }
                for time in 0..if m == 4608 { 60 } else { 12 } {
                    cuda.clear(&mut c).unwrap();
                    run(&mut c, true);
                    let again = c.to_f32_vec().unwrap();
                    assert!(again == first, "{layout:?} {m} x {n} x {k}, time {time}");
                }
            }
        }
    }
}
