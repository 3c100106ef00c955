//! Patches as rows: a permutation inside every row of patches, through shared memory.

use std::sync::Arc;

use super::rows::{ByRun, run_width};
use crate::{
    Result, Tape, Tensor, Var,
    cuda::{Cuda, Grid, Kernel, Source, args},
};

pub(in crate::cuda) static SOURCE: Source = Source {
    name: "patchify",
    code: include_str!("../kernels/patchify.cu"),
};

/// Largest tile, elements.
const TILE: usize = 8192;

/// One direction: compiled for the patch sizes of the models, for any size, and without a tile.
struct Direction {
    by_size: [(usize, ByRun); 3],
    general: ByRun,
    direct: Kernel,
}

static PACK: Direction = Direction {
    by_size: [
        (2, ByRun::new(&SOURCE, "pack_2_1", "pack_2_8")),
        (4, ByRun::new(&SOURCE, "pack_4_1", "pack_4_8")),
        (14, ByRun::new(&SOURCE, "pack_14_1", "pack_14_8")),
    ],
    general: ByRun::new(&SOURCE, "pack_0_1", "pack_0_8"),
    direct: SOURCE.kernel("pack_any"),
};
static UNPACK: Direction = Direction {
    by_size: [
        (2, ByRun::new(&SOURCE, "unpack_2_1", "unpack_2_8")),
        (4, ByRun::new(&SOURCE, "unpack_4_1", "unpack_4_8")),
        (14, ByRun::new(&SOURCE, "unpack_14_1", "unpack_14_8")),
    ],
    general: ByRun::new(&SOURCE, "unpack_0_1", "unpack_0_8"),
    direct: SOURCE.kernel("unpack_any"),
};

/// Patches of a batch.
#[derive(Clone, Copy)]
struct Patches {
    /// Rows of patches in the whole batch.
    rows: usize,
    /// Patches of a row.
    width: usize,
    channels: usize,
    size: usize,
}

/// As [`Tape::patchify`], with checked shapes.
pub(crate) fn patchify(tape: &Tape, cuda: &Arc<Cuda>, x: &Var, patch: usize) -> Result<Var> {
    let &[batch, height, width, channels] = x.shape() else {
        return Ok(x.clone());
    };
    let patches = Patches {
        rows: batch * (height / patch),
        width: width / patch,
        channels,
        size: patch,
    };
    let shape = [
        batch,
        height / patch,
        width / patch,
        channels * patch * patch,
    ];
    let out = patches.permute(cuda, &PACK, x.value(), &shape)?;
    if !tape.needs_grad(&[x], &[]) {
        return Ok(Var::constant(out));
    }
    let (cuda, x) = (cuda.clone(), x.without_value());
    Ok(tape.record(out, move |dy, grads| {
        grads.add(&x, patches.permute(&cuda, &UNPACK, &dy, x.shape())?)
    }))
}

impl Patches {
    fn permute(
        self,
        cuda: &Arc<Cuda>,
        direction: &'static Direction,
        from: &Tensor,
        shape: &[usize],
    ) -> Result<Tensor> {
        let Self {
            rows,
            width,
            channels,
            size,
        } = self;
        let dtype = from.dtype();
        let mut to = cuda.empty(shape, dtype)?;
        let n = to.numel();
        if n == 0 {
            return Ok(to);
        }
        let each = size * size * channels;
        if each > TILE {
            cuda.launch(
                &direction.direct,
                dtype,
                Grid::items(n),
                args![
                    from,
                    &mut to,
                    n as i64,
                    width as i32,
                    channels as i32,
                    size as i32
                ],
            )?;
            return Ok(to);
        }
        // As many patches as fit, evenly spread; tiles of whole runs of eight where that is possible.
        let segment = size * channels;
        let whole = (1..=8)
            .find(|patches| (patches * segment).is_multiple_of(8))
            .unwrap_or(8);
        let tiles = width.div_ceil((TILE / each).min(width));
        let even = width.div_ceil(tiles);
        let rounded = even.next_multiple_of(whole);
        let group = if rounded * each <= TILE {
            rounded
        } else {
            even
        };
        let tiles = width.div_ceil(group);
        // Where row and tile are whole runs of eight, so is the last tile of a row.
        let runs = if (group * segment).is_multiple_of(8) {
            run_width(width * segment, &[from])?
        } else {
            1
        };
        let kernels = direction
            .by_size
            .iter()
            .find(|(of, _)| *of == size)
            .map_or(&direction.general, |(_, kernels)| kernels);
        // Padding takes one word in sixteen.
        let bytes = (group * each * dtype.size()).next_multiple_of(64) / 16 * 17;
        cuda.launch(
            kernels.of(runs),
            dtype,
            Grid::new(rows * tiles, 256).shared(bytes),
            args![
                from,
                &mut to,
                width as i32,
                channels as i32,
                group as i32,
                tiles as i32,
                size as i32
            ],
        )?;
        Ok(to)
    }
}

#[cfg(test)]
mod tests {
    use crate::{cuda::testing::compare, ops::testing::Rng};

    #[test]
    #[ignore = "needs a GPU"]
    fn patchify_agrees_with_the_cpu() {
        let mut rng = Rng::new(520);
        // [batch, rows of patches, patches of a row, channels, patch size]
        let mut sizes = vec![
            [2, 48, 192, 3, 4],
            [2, 24, 48, 192, 2],
            [1, 12, 12, 768, 2],
            [2, 24, 24, 3, 14],
            [1, 2, 3, 40, 16],
            [1, 1, 2, 100, 32],
            [1, 3, 7, 3, 4],
            [0, 2, 2, 3, 4],
            [1, 2, 5, 8, 1],
        ];
        for patch in [1, 2, 3, 4, 5, 8, 14, 16] {
            sizes.extend((0..4).map(|_| {
                [
                    rng.size(1, 2),
                    rng.size(1, 4),
                    rng.size(1, 40),
                    rng.size(1, 30),
                    patch,
                ]
            }));
        }
        for [b, gh, gw, c, p] in sizes {
            let x = rng.tensor(&[b, gh * p, gw * p, c]);
            compare(
                &format!("patchify {b} x {gh} x {gw} x {c} by {p}"),
                &[x],
                &[],
                |tape, x, _| Ok(vec![tape.patchify(&x[0], p)?]),
            );
        }
    }
}
