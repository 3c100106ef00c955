//! One query a sequence over its cached keys and values, with the rotation of both and the append in front.

use std::sync::Arc;

use super::{
    products::Launcher,
    weights::{DecodeRope, DecodeShape},
};
use crate::{
    DType, Result, Tensor,
    cuda::{Arg, Cuda, Grid, Kernel, Source},
};

/// A source for each width of a head in units of 32, so that only the one in use is compiled.
macro_rules! by_width {
    ($($name:ident $vectors:literal),*) => {
        $(
            static $name: Source = Source {
                name: concat!("decode_attention_", $vectors),
                code: concat!(
                    "#define WIDTH ", $vectors, "\n",
                    include_str!("../kernels/decode.cuh"),
                    include_str!("../kernels/decode_attention.cu")
                ),
            };
        )*
        /// The sources, narrowest first.
        #[cfg(test)]
        pub(super) const SOURCES: [&Source; 5] = [$(&$name),*];
        /// By width of a head in units of 32 (the last is 8 of them), then by query heads of a block
        /// (1, 2, 4).
        const ATTEND: [[Kernel; 3]; 5] = [$([
            Kernel { source: &$name, name: "attend_1" },
            Kernel { source: &$name, name: "attend_2" },
            Kernel { source: &$name, name: "attend_4" },
        ]),*];
    };
}
by_width!(WIDTH_1 1, WIDTH_2 2, WIDTH_3 3, WIDTH_4 4, WIDTH_8 8);

/// Keys of a chunk and largest number of runs of chunks, as in the kernel.
const CHUNK: usize = 64;
const MAX_PARTS: usize = 128;

/// Working memory of the attention of a step, and its tables.
#[derive(Debug)]
pub(super) struct Attention {
    /// `[rows, heads, parts, head_dim]`.
    part_out: Tensor,
    /// `[rows, heads, parts, 2]`.
    part_stats: Tensor,
    /// Blocks that are done, `[rows, blocks]`; zero between kernels.
    counters: Tensor,
    /// Cosines and sines of short texts, then of long ones, `[positions, head_dim / 2]`.
    tables: [Tensor; 4],
    switch_at: i32,
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

fn parts(span: usize) -> usize {
    span.div_ceil(CHUNK).clamp(1, MAX_PARTS)
}

impl Attention {
    pub(super) fn new(
        cuda: &Arc<Cuda>,
        shape: &DecodeShape,
        rope: &DecodeRope,
        rows: usize,
        capacity: usize,
    ) -> Result<Self> {
        let (heads, parts) = (shape.heads, parts(capacity));
        let (_, blocks) = heads_of_a_block(shape);
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
            part_out: cuda.empty(&[rows, heads, parts, shape.head_dim], DType::F32)?,
            part_stats: cuda.empty(&[rows, heads, parts, 2], DType::F32)?,
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
        let by_heads = match heads {
            1 => 0,
            2 => 1,
            _ => 2,
        };
        let width = match shape.head_dim.div_ceil(32) {
            n @ 1..=4 => n - 1,
            _ => 4,
        };
        let grid = Grid::cube([shape.kv_heads * blocks, parts(rows.span), rows.count], 128);
        let window = shape
            .window
            .and_then(|w| i32::try_from(w).ok())
            .unwrap_or(-1);
        let int = |n: usize| Arg::I32(n as i32);
        let [keys, values] = cache;
        let [short_cos, short_sin, long_cos, long_sin] = &self.tables;
        launcher.launch(
            &ATTEND[width][by_heads],
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
                (&mut self.part_out).into(),
                (&mut self.part_stats).into(),
                (&mut self.counters).into(),
                out.into(),
            ],
        )
    }
}
