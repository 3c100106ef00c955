//! One query a sequence over its cached keys and values, with the rotation of both and the append in front.

use std::sync::Arc;

use super::{
    products::Launcher,
    weights::{DecodeRope, DecodeShape},
};
use crate::{
    DType, Result, Tensor,
    cuda::{Arg, Cuda, Grid, Kernel, SHARED_OF_THE_SYSTEM, Source},
};

#[cfg(test)]
mod tests;

/// A source for each width of a head in units of 32, so that only the one in use is compiled.
macro_rules! by_width {
    ($($name:ident $vectors:literal),*) => {
        $(
            static $name: Source = Source {
                name: concat!("decode_attention_", $vectors),
                code: concat!(
                    "#define WIDTH ", $vectors, "\n",
                    include_str!("../kernels/mma.cuh"),
                    include_str!("../kernels/decode.cuh"),
                    include_str!("../kernels/decode_attention.cuh"),
                    include_str!("../kernels/decode_attention.cu"),
                    include_str!("../kernels/decode_own.cuh"),
                    include_str!("../kernels/decode_units.cu"),
                    include_str!("../kernels/decode_warps.cu")
                ),
            };
        )*
        /// The sources, narrowest first.
        #[cfg(test)]
        pub(super) const SOURCES: [&Source; 5] = [$(&$name),*];
        /// By width of a head in units of 32 (the last is 8 of them), then by query heads of a block
        /// (1, in f32 alone, 2, 4).
        const ATTEND: [[Kernel; 3]; 5] = [$([
            $name.kernel("attend_1"),
            $name.kernel("attend_2"),
            $name.kernel("attend_4"),
        ]),*];
        /// The same for runs of chunks, the next one under way in shared memory (2, 4); bf16 alone.
        const ATTEND_RUNS: [[Kernel; 2]; 5] = [$([
            $name.kernel("attend_runs_2"),
            $name.kernel("attend_runs_4"),
        ]),*];
        /// For query heads that have keys of their own, bf16 alone: a block a unit, and runs of units.
        const OWN_UNITS: [Kernel; 5] = [$($name.kernel("attend_own_units")),*];
        const OWN_RUNS: [Kernel; 5] = [$($name.kernel("attend_own_runs")),*];
    };
}
by_width!(WIDTH_1 1, WIDTH_2 2, WIDTH_3 3, WIDTH_4 4, WIDTH_8 8);

/// Keys of a chunk, largest number of units of a sequence, and threads of a block, as in the kernels.
const CHUNK: usize = 64;
const MAX_UNITS: usize = 128;
const THREADS: usize = 128;

/// Of the runs of query heads that have keys of their own, as in the kernel: warps of a block, keys of a group of lanes
/// in a step, steps under way, and blocks of a multiprocessor that have registers.
const STRANDS: usize = 2;
const STEP_KEYS: usize = 4;
const STEPS_AHEAD: usize = 4;
const MOST_OWN_BLOCKS: usize = 8;

/// Working memory of the attention of a step, and its tables.
#[derive(Debug)]
pub(super) struct Attention {
    /// `[rows, heads, units, head_dim]`.
    part_out: Tensor,
    /// `[rows, heads, units, 2]`.
    part_stats: Tensor,
    /// Blocks that are done, `[rows, blocks]`; zero between kernels.
    counters: Tensor,
    /// Cosines and sines of short texts, then of long ones, `[positions, head_dim / 2]`.
    tables: [Tensor; 4],
    switch_at: i32,
    /// Blocks of runs that the card holds at once; 0: not one.
    at_once: usize,
}

/// Where queries, keys and values of the new tokens lie: addresses, and elements between rows.
#[derive(Clone, Copy)]
pub(super) struct Projected {
    pub(super) q: u64,
    pub(super) k: u64,
    pub(super) v: u64,
    pub(super) q_stride: usize,
    pub(super) kv_stride: usize,
}

/// The rows of a step: positions and slots, `[rows]` i32 each.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) positions: &'a Tensor,
    pub(super) slots: &'a Tensor,
    pub(super) count: usize,
    /// No position is as large as this.
    pub(super) span: usize,
}

/// Query heads of a block and blocks of a key head.
fn heads_of_a_block(shape: &DecodeShape) -> (usize, usize) {
    let group = shape.heads / shape.kv_heads;
    let heads = match group {
        1 => 1,
        2 => 2,
        _ => 4,
    };
    (heads, group.div_ceil(heads))
}

/// Units of a sequence that has no position as large as this.
fn units(span: usize) -> usize {
    span.div_ceil(CHUNK).clamp(1, MAX_UNITS)
}

/// Index of the kernels for a width of a head.
fn width_index(head_dim: usize) -> usize {
    match head_dim.div_ceil(32) {
        n @ 1..=4 => n - 1,
        _ => 4,
    }
}

/// Shared memory of a block that reads runs in bf16, bytes: what its launch asks for, and what the kernel has.
fn shared(head_dim: usize, heads: usize) -> [usize; 2] {
    let width = [1, 2, 3, 4, 8][width_index(head_dim)];
    let padded = 32 * width;
    if heads == 1 {
        // A ring a warp; the query, the strands, the new key and value.
        let rings = STRANDS * STEP_KEYS * STEPS_AHEAD * 16 * padded;
        return [rings, 4 * (padded * (STRANDS + 2) + 2 * STRANDS + 1)];
    }
    // Two chunks of keys and values.
    let (keys, values) = (2 * width * THREADS, CHUNK * head_dim / 8);
    // Queries, scores, sums of the threads, units; the new key and value.
    let own = heads * (padded + CHUNK + 8 * THREADS + 3 * MAX_UNITS + 7) + 2 * padded + 4;
    [2 * 16 * (keys + values), 4 * own]
}

/// Blocks of runs that a multiprocessor with so much shared memory holds.
fn blocks_at_once(head_dim: usize, heads: usize, shared_memory: usize) -> usize {
    let block = shared(head_dim, heads).iter().sum::<usize>() + SHARED_OF_THE_SYSTEM;
    let blocks = shared_memory / block;
    if heads == 1 {
        blocks.min(MOST_OWN_BLOCKS)
    } else {
        blocks
    }
}

/// Blocks that share the units of a row, each a run of them, for `blocks` blocks of heads in each of `rows` rows on
/// a card that holds `at_once` blocks of runs: as many as it holds at once. No sum depends on it.
///
/// 3.8B shape on an H100 after 660 to 788 tokens, one block a unit against this: 4 rows 3.76 and 3.48 ms a step,
/// 8 rows 4.55 and 4.00.
fn blocks_of_a_row(at_once: usize, blocks: usize, rows: usize, units: usize) -> usize {
    if at_once == 0 {
        return units;
    }
    (at_once / (blocks * rows).max(1)).clamp(1, units)
}

impl Attention {
    pub(super) fn new(
        cuda: &Arc<Cuda>,
        shape: &DecodeShape,
        rope: &DecodeRope,
        rows: usize,
        capacity: usize,
    ) -> Result<Self> {
        let (heads, units) = (shape.heads, units(capacity));
        let (heads_each, blocks) = heads_of_a_block(shape);
        for table in [&rope.short, &rope.long] {
            if table.dim() != shape.head_dim || table.positions() < capacity {
                return Err(super::invalid(format!(
                    "a rotary table of {} positions and heads of {} for {capacity} positions and heads of {}",
                    table.positions(),
                    table.dim(),
                    shape.head_dim
                )));
            }
        }
        let upload = |angles: &[f32]| {
            let half = shape.head_dim / 2;
            cuda.upload(&angles[..capacity * half], &[capacity, half])
        };
        let ((short_cos, short_sin), (long_cos, long_sin)) =
            (rope.short.angles(), rope.long.angles());
        Ok(Self {
            part_out: cuda.empty(&[rows, heads, units, shape.head_dim], DType::F32)?,
            part_stats: cuda.empty(&[rows, heads, units, 2], DType::F32)?,
            counters: cuda.zeros(&[rows, shape.kv_heads * blocks], DType::I32)?,
            tables: [
                upload(short_cos)?,
                upload(short_sin)?,
                upload(long_cos)?,
                upload(long_sin)?,
            ],
            switch_at: rope
                .switch_at
                .map_or(i32::MAX, |n| i32::try_from(n).unwrap_or(i32::MAX)),
            at_once: cuda.info().multiprocessors
                * blocks_at_once(shape.head_dim, heads_each, cuda.info().shared_memory),
        })
    }

    /// `out [rows, heads * head_dim]`: attention of the newest token of each row, whose key and value go to
    /// the cache (addresses of keys and values of this layer).
    pub(super) fn run(
        &mut self,
        launcher: &Launcher,
        shape: &DecodeShape,
        new: Projected,
        cache: [u64; 2],
        rows: Rows<'_>,
        capacity: usize,
        out: &mut Tensor,
    ) -> Result<()> {
        let (heads, blocks) = heads_of_a_block(shape);
        let width = width_index(shape.head_dim);
        let (key_blocks, most_units) = (shape.kv_heads * blocks, units(rows.span));
        let parts = blocks_of_a_row(self.at_once, key_blocks, rows.count, most_units);
        let grid = |parts, threads| Grid::cube([key_blocks, parts, rows.count], threads);
        let [memory, _] = shared(shape.head_dim, heads);
        let (in_bf16, in_runs) = (launcher.dtype == DType::BF16, parts < most_units);
        let (kernel, grid) = match (heads, in_bf16, in_runs) {
            (1, true, false) => {
                let threads = if width < 4 { THREADS } else { 2 * THREADS };
                (&OWN_UNITS[width], grid(parts, threads))
            }
            (1, true, true) => {
                // A unit for every warp at least.
                let parts = parts.min(most_units.div_ceil(STRANDS));
                (&OWN_RUNS[width], grid(parts, 32 * STRANDS).shared(memory))
            }
            (_, true, true) => {
                let kernel = &ATTEND_RUNS[width][usize::from(heads == 4)];
                (kernel, grid(parts, THREADS).shared(memory))
            }
            _ => (&ATTEND[width][heads.ilog2() as usize], grid(parts, THREADS)),
        };
        let window = shape
            .window
            .and_then(|w| i32::try_from(w).ok())
            .unwrap_or(-1);
        let int = |n: usize| Arg::I32(n as i32);
        let [keys, values] = cache;
        let [short_cos, short_sin, long_cos, long_sin] = &self.tables;
        launcher.launch(
            kernel,
            grid,
            &[
                Arg::Address(new.q),
                Arg::Address(new.k),
                Arg::Address(new.v),
                int(new.q_stride),
                int(new.kv_stride),
                Arg::Address(keys),
                Arg::Address(values),
                short_cos.into(),
                short_sin.into(),
                long_cos.into(),
                long_sin.into(),
                self.switch_at.into(),
                rows.positions.into(),
                rows.slots.into(),
                int(shape.heads),
                int(shape.kv_heads),
                int(shape.head_dim),
                int(capacity),
                window.into(),
                shape.scale.into(),
                int(most_units),
                (&mut self.part_out).into(),
                (&mut self.part_stats).into(),
                (&mut self.counters).into(),
                out.into(),
            ],
        )
    }
}
