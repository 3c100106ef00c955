//! The kernels for up to 16 rows on tensor cores: which one, and how many blocks with how much memory.

use super::Input;
use crate::{
    DType,
    cuda::{Grid, Kernel, SHARED_OF_THE_SYSTEM, Source},
};

pub(in crate::cuda::decode) static SOURCE: Source = Source {
    name: "decode_wide",
    code: concat!(
        include_str!("../../kernels/mma.cuh"),
        include_str!("../../kernels/decode.cuh"),
        include_str!("../../kernels/decode_wide.cu")
    ),
};

/// For up to 8 rows and up to 16.
const PLAIN: [Kernel; 2] = [SOURCE.kernel("wide_8"), SOURCE.kernel("wide_16")];
const LOGITS: [Kernel; 2] = [
    SOURCE.kernel("wide_8_logits"),
    SOURCE.kernel("wide_16_logits"),
];
const GATED: [Kernel; 2] = [
    SOURCE.kernel("wide_8_gated"),
    SOURCE.kernel("wide_16_gated"),
];
/// With less under way, for an x that leaves no room.
const GATED_3: Kernel = SOURCE.kernel("wide_16_gated_3");
const PAIRS: [Kernel; 2] = [SOURCE.kernel("wide_8_pair"), SOURCE.kernel("wide_16_pair")];
const PAIRS_LOGITS: [Kernel; 2] = [
    SOURCE.kernel("wide_8_pair_logits"),
    SOURCE.kernel("wide_16_pair_logits"),
];

/// Rows that these kernels are for. One row alone is faster with plain arithmetic, where two blocks of a
/// multiprocessor take turns; more than 16 are cuBLASLt's.
///
/// 3.8B shape on an H100 after 660 to 788 tokens, ms a step: 1 row 3.2 instead of 2.96; 2 rows 3.45 instead of 3.85
/// and 4 rows 3.79 instead of 4.21 with the kernels for up to four; 16 rows 4.88 instead of 5.33 with cuBLASLt.
const ROWS: std::ops::RangeInclusive<usize> = 2..=16;

/// As in the kernels: threads of a block, its warps, weight rows of a tile, elements of a line of 128 bytes,
/// vectors of eight between rows of x beyond the row, and tiles of a pair of blocks.
const THREADS: usize = 512;
const WARPS: usize = THREADS / 32;
const TILE: usize = 8;
const LINE: usize = 64;
const GAP: usize = 4;
const PAIR_TILES: usize = 16;

/// How a product is cut up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wide {
    /// Eights of rows, 1 or 2.
    eights: usize,
    /// Lines of a warp under way.
    depth: usize,
    /// Two blocks share k, because x has no room in one.
    in_pairs: bool,
    /// Blocks of the grid.
    blocks: usize,
    /// Dynamic shared memory of a block, bytes.
    shared: usize,
}

impl Wide {
    /// `None` for other numbers of rows, other types, and an x that has no room in shared memory.
    pub(super) fn of(input: &Input<'_>) -> Option<Self> {
        let info = input.x.cuda()?.info();
        if !ROWS.contains(&input.rows)
            || !input.k.is_multiple_of(8)
            || input.x.dtype() != DType::BF16
        {
            return None;
        }
        let most = info.shared_memory.checked_sub(SHARED_OF_THE_SYSTEM)?;
        Self::fitting(input, [info.multiprocessors, most], info.capability.0 >= 9)
    }

    /// The first way that fits a card of so many multiprocessors and so much shared memory a block.
    fn fitting(
        input: &Input<'_>,
        [multiprocessors, most]: [usize; 2],
        has_pairs: bool,
    ) -> Option<Self> {
        let (eights, tiles) = (input.rows.div_ceil(8), input.outputs().div_ceil(TILE));
        let pairs = multiprocessors / 2;
        let whole = |depth| (depth, false, tiles.min(multiprocessors));
        let mut ways = vec![whole(4)];
        if input.is_gate && eights == 2 {
            ways.push(whole(3));
        }
        // The blocks of a pair see half of a row each, which is too little for its norm.
        if has_pairs && input.norm.is_none() && !input.is_gate && tiles <= PAIR_TILES * pairs {
            ways.push((4, true, 2 * tiles.min(pairs)));
        }
        ways.into_iter().find_map(|(depth, in_pairs, blocks)| {
            let shared = shared(input, eights, depth, in_pairs);
            (shared.iter().sum::<usize>() <= most).then_some(Self {
                eights,
                depth,
                in_pairs,
                blocks,
                shared: shared[0],
            })
        })
    }

    pub(super) fn kernel(&self, input: &Input<'_>, is_logits: bool) -> &'static Kernel {
        let i = self.eights - 1;
        match (self.in_pairs, input.is_gate, is_logits) {
            (true, _, true) => &PAIRS_LOGITS[i],
            (true, ..) => &PAIRS[i],
            (_, true, _) if self.depth == 3 => &GATED_3,
            (_, true, _) => &GATED[i],
            (_, _, true) => &LOGITS[i],
            _ => &PLAIN[i],
        }
    }

    pub(super) fn grid(&self) -> Grid {
        Grid::new(self.blocks, THREADS).shared(self.shared)
    }
}

/// Shared memory of a block, bytes: what it is launched with, and what its kernel has beside that.
fn shared(input: &Input<'_>, eights: usize, depth: usize, in_pairs: bool) -> [usize; 2] {
    let (vector, float) = (16, 4);
    let lines = input.k.div_ceil(LINE);
    let lines = if in_pairs { lines.div_ceil(2) } else { lines };
    let x = TILE * eights * (lines * LINE / 8 + GAP);
    let gain = if input.norm.is_some() { input.k / 8 } else { 0 };
    let outputs = TILE * TILE * eights;
    // Sums of the warps for two tiles, squares; sums of a pair's tiles.
    let sides = if input.is_gate { 2 } else { 1 };
    let sums = 2 * sides * WARPS * outputs + WARPS;
    let of_pairs = if in_pairs { PAIR_TILES * outputs } else { 0 };
    [
        vector * (x + 2 * depth * THREADS + gain),
        float * (sums + of_pairs),
    ]
}

#[cfg(test)]
mod tests;
