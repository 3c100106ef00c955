//! Gradients of weights in one kernel for Hopper: `dw = dy^T x`, or added to `dw`, with sums of its squares.
//!
//! The kernel (`kernels/product_weight.cu`) is at least as fast as cuBLASLt's product where its tiles fill the card, and
//! the norm of all gradients, which a step must know before it changes a weight, need not read these again. Three
//! layers of one input that do not fill the card one by one do so together.

use std::sync::Arc;

use super::{
    Arg, Cuda, Grid, Kernel, Source, args,
    product::{LINE_BYTES, MIN_ROWS, Matrix, THREADS},
};
use crate::{DType, Param, Result, Tensor, param::Accumulation};

pub(super) static SOURCE: Source = Source {
    name: "product_weight",
    code: concat!(
        include_str!("kernels/activation.cuh"),
        include_str!("kernels/hopper.cuh"),
        include_str!("kernels/product_weight.cu")
    ),
};
const ONE: Kernel = SOURCE.kernel("product_weight");
const THREE: Kernel = SOURCE.kernel("product_weights");

/// Rows and columns of a tile, steps of the ring, buffers, rows and columns of a box, rows of ones: as in the source.
const TILE: [usize; 2] = [128, 256];
const STEPS: usize = 4;
const BUFFERS: usize = 2;
const BOX: usize = 64;
const ONES: usize = 8;
/// Sums of squares of a tile.
const SQUARES: usize = 8;
/// Tiles, barriers, and what it takes to begin at a multiple of 1,024.
const SHARED: usize = (STEPS * (TILE[0] + TILE[1]) + 2 * BUFFERS * BOX + ONES) * LINE_BYTES
    + 16 * STEPS
    + 16 * BUFFERS
    + 1024;

/// A linear layer and the gradient behind it.
pub(crate) struct WeightGradient<'a> {
    /// `[m, n]`
    pub(crate) dy: &'a Tensor,
    /// `[n, k]`
    pub(crate) weight: &'a Param,
    /// `[n]`
    pub(crate) bias: Option<&'a Param>,
}

/// Gradients of a layer that are being written.
struct Open<'a> {
    dw: Accumulation<'a>,
    db: Option<Accumulation<'a>>,
    squares: Tensor,
}

impl Cuda {
    /// Queues `dw += dy^T x` and `db += sum over rows of dy` of one layer, or of three that read `x`, all of which are
    /// wanted. Nothing is done, and it says so, where cuBLASLt's products are the faster ones or there is no kernel.
    pub(crate) fn weight_gradients<const COUNT: usize>(
        self: &Arc<Self>,
        x: &Tensor,
        layers: [WeightGradient<'_>; COUNT],
    ) -> Result<bool> {
        let kernel = match COUNT {
            1 => &ONE,
            3 => &THREE,
            _ => return Ok(false),
        };
        if !self.takes_weights(x, &layers)? {
            return Ok(false);
        }
        let (m, n, k) = (x.rows(), layers[0].dy.last_dim(), x.last_dim());
        let tiles = tiles(n, k);
        let Some(mut open) = open(self, &layers, SQUARES * tiles)? else {
            return Ok(false);
        };
        let mut arguments: Vec<Arg> = Vec::with_capacity(19);
        for layer in &layers {
            arguments.push(Matrix::of(layer.dy, [m, n])?.boxes(BOX)?.into());
        }
        arguments.push(Matrix::of(x, [m, k])?.boxes(BOX)?.into());
        for Open { dw, .. } in &mut open {
            // A gradient that somebody else looks at moves.
            dw.grad.cuda_address_mut()?;
            arguments.push(Matrix::of(&dw.grad, [n, k])?.boxes(BOX)?.into());
        }
        for Open { db, .. } in &mut open {
            arguments.push(db.as_mut().map(|db| &mut db.grad).into());
        }
        for Open { squares, .. } in &mut open {
            arguments.push(squares.into());
        }
        for Open { dw, db, .. } in &open {
            let added = |gradient: &Accumulation<'_>| i64::from(gradient.beta != 0.0);
            arguments.push((added(dw) + 2 * db.as_ref().map_or(0, added)).into());
        }
        arguments.extend_from_slice(args![m as i32, n as i32, k as i32]);
        let blocks = self.info().multiprocessors.min(COUNT * tiles);
        let grid = Grid::new(blocks, THREADS).shared(SHARED);
        self.launch(kernel, DType::BF16, grid, &arguments)?;
        for Open { dw, db, squares } in open {
            dw.finish(Some(squares));
            db.into_iter().for_each(|db| db.finish(None));
        }
        Ok(true)
    }

    /// Whether the kernel is the one to take for layers of `x`, as far as can be said before gradients are open.
    fn takes_weights(&self, x: &Tensor, layers: &[WeightGradient<'_>]) -> Result<bool> {
        let mut seen: Vec<&Param> = Vec::with_capacity(2 * layers.len());
        for layer in layers {
            for param in std::iter::once(layer.weight).chain(layer.bias) {
                // Each gradient is held while it is written.
                let again = seen.iter().any(|other| other.is(param));
                if again || !param.requires_grad() || param.grad_dtype() != DType::BF16 {
                    return Ok(false);
                }
                seen.push(param);
            }
        }
        let Some(first) = layers.first() else {
            return Ok(false);
        };
        let (m, n, k) = (x.rows(), first.dy.last_dim(), x.last_dim());
        let (tiles, cards) = (layers.len() * tiles(n, k), self.info().multiprocessors);
        // The last round of tiles has to be nearly full; that of three products never is, one by one.
        let share = if layers.len() == 1 { 9 } else { 6 };
        let mut fits = self.info().is_hopper()
            && m >= MIN_ROWS
            && tiles > 0
            && 10 * tiles >= share * cards * tiles.div_ceil(cards)
            && n.is_multiple_of(8)
            && k.is_multiple_of(8)
            && m.max(n).max(k) < 1 << 28
            && is_aligned(x)?;
        for layer in layers {
            fits = fits && layer.dy.numel() == m * n && is_aligned(layer.dy)?;
        }
        Ok(fits)
    }
}

/// Opens the gradients of layers, with room for so many sums of squares each; nothing where one lies as the kernel
/// does not write it.
fn open<'a>(
    cuda: &Arc<Cuda>,
    layers: &[WeightGradient<'a>],
    sums: usize,
) -> Result<Option<Vec<Open<'a>>>> {
    let mut open = Vec::with_capacity(layers.len());
    let mut fits = true;
    for layer in layers {
        let mut dw = layer.weight.accumulation()?;
        let db = layer.bias.map(Param::accumulation).transpose()?;
        for gradient in std::iter::once(&dw).chain(&db) {
            fits &= is_aligned(&gradient.grad)?;
        }
        let squares = dw.squares(cuda, sums)?;
        open.push(Open { dw, db, squares });
    }
    if fits {
        return Ok(Some(open));
    }
    for Open { dw, db, .. } in open {
        dw.leave();
        db.into_iter().for_each(Accumulation::leave);
    }
    Ok(None)
}

/// Tiles of a gradient.
fn tiles(n: usize, k: usize) -> usize {
    n.div_ceil(TILE[0]) * k.div_ceil(TILE[1])
}

fn is_aligned(tensor: &Tensor) -> Result<bool> {
    Ok(tensor.dtype() == DType::BF16 && tensor.cuda_address()?.is_multiple_of(16))
}
