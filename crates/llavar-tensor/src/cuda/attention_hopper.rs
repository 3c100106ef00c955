//! Attention for Hopper, forward and backward, of samples that attend to themselves: bf16, heads of 64, 96 or 128.
//!
//! The kernels (`kernels/attention_hopper*.cu`) read and write heads where they lie in the rows of tokens. The backward
//! pass makes scores twice, for queries and for keys, so that every sum has one order and nothing of the size of the
//! scores is in memory. What a sample gives does not depend on those beside it, as long as they are finite.

mod schedule;

use std::sync::Arc;

use cudarc::driver::sys::{CUtensorMap, CUtensorMapSwizzle_enum as Swizzle};
use schedule::{BLOCK, ROWS, Schedule, TILE, Work};

use super::{Arg, Cuda, Grid, Kernel, Source, args, ops::Angles, tensor_map::TensorMap};
use crate::{DType, Error, Result, Tensor, ops::attention::Problem};

/// Sources for a head size, so that only those in use are compiled: forward, and gradients of queries, of keys and
/// values.
macro_rules! by_head {
    ($($name:ident $head:literal),*) => {
        $(static $name: [Source; 3] = [
            by_head!(@ $head, "attention_hopper"),
            by_head!(@ $head, "attention_hopper_dq"),
            by_head!(@ $head, "attention_hopper_dkv"),
        ];)*
        /// All of them.
        #[cfg(test)]
        pub(super) static SOURCES: [&[Source; 3]; 3] = [$(&$name),*];
        const KERNELS: [(usize, [Kernel; 3]); 3] = [$(($head, [
            $name[0].kernel("attention_hopper"),
            $name[1].kernel("attention_hopper_dq"),
            $name[2].kernel("attention_hopper_dkv"),
        ])),*];
    };
    (@ $head:literal, $file:literal) => {
        Source {
            name: concat!($file, "_", $head),
            code: concat!(
                "#define HEAD ", $head, "\n",
                include_str!("kernels/activation.cuh"),
                include_str!("kernels/hopper.cuh"),
                include_str!("kernels/attention_hopper.cuh"),
                include_str!(concat!("kernels/", $file, ".cu"))
            ),
        }
    };
}
by_head!(OF_64 64, OF_96 96, OF_128 128);

/// Heads of tokens: the address of the first, and elements from one token to the next.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heads {
    pub(super) address: u64,
    pub(super) stride: usize,
}

/// What the backward pass needs of a forward pass.
pub(super) struct Statistics {
    /// Logarithms (base two) of the sums of rows `[heads, padded]`.
    logs: Tensor,
    schedule: Arc<Schedule>,
}

/// Whether the kernels take a problem; `heads` are its queries, keys and values in bf16.
pub(super) fn fits(cuda: &Cuda, problem: &Problem, heads: [Heads; 3]) -> bool {
    let itself = |s: &crate::ops::attention::Segment| s.q == s.k && !s.has_window();
    let aligned = |h: &Heads| h.address.is_multiple_of(16) && h.stride.is_multiple_of(8);
    // Places in statistics are 32-bit numbers.
    let places = problem.queries() + BLOCK * problem.segments.len();
    cuda.info().is_hopper()
        && KERNELS.iter().any(|(dim, _)| *dim == problem.dim)
        // The largest score of a row is that of the largest product.
        && problem.scale > 0.0
        && problem.heads > 0
        && problem.queries() > 0
        && places < 1 << 31
        && heads.iter().all(aligned)
        && problem.segments.iter().all(itself)
}

/// Output `[T, heads, D]`, and what the backward pass needs.
pub(super) fn forward(
    cuda: &Arc<Cuda>,
    problem: &Problem,
    [q, k, v]: [Heads; 3],
) -> Result<(Tensor, Statistics)> {
    let schedule = Schedule::of(cuda, problem)?;
    let sizes = Sizes::of(problem);
    let shape = [problem.queries(), problem.heads, problem.dim];
    let mut out = cuda.empty(&shape, DType::BF16)?;
    let mut logs = cuda.empty(&[problem.heads, schedule.padded], DType::F32)?;
    let work = &schedule.forward;
    let (plan, tiles) = (cuda.constant(&work.plan)?, cuda.constant(&work.tiles)?);
    let arguments = args![
        sizes.map(q, problem.heads, ROWS)?,
        sizes.map(k, problem.kv_heads, BLOCK)?,
        sizes.map(v, problem.kv_heads, BLOCK)?,
        &mut out,
        &mut logs,
        &plan,
        &tiles,
        problem.heads as i32,
        problem.group() as i32,
        schedule.padded as i32,
        problem.scale * std::f32::consts::LOG2_E,
        i32::from(sizes.causal),
    ];
    let entries = if problem.dim == 128 { 4 } else { 8 };
    let shared = 2 * sizes.bytes(ROWS) + entries * (sizes.bytes(BLOCK) + 16) + 16;
    let grid = grid(work, shared);
    cuda.launch(sizes.kernel(0)?, DType::BF16, grid, arguments)?;
    Ok((out, Statistics { logs, schedule }))
}

/// Writes the gradients of queries, keys and values to `to`, where those of keys and of values have one stride. With
/// angles, queries and keys were turned by them, and gradients are of those before.
pub(super) fn backward(
    cuda: &Arc<Cuda>,
    problem: &Problem,
    Statistics { logs, schedule }: &Statistics,
    [q, k, v]: [Heads; 3],
    [o, dout]: [&Tensor; 2],
    [to_q, to_k, to_v]: [Heads; 3],
    angles: Option<&Angles>,
) -> Result<()> {
    let (sizes, padded) = (Sizes::of(problem), schedule.padded);
    let (heads, kv_heads, group) = (problem.heads, problem.kv_heads, problem.group() as i32);
    let rows = |t: &Tensor| -> Result<Heads> {
        Ok(Heads {
            address: t.cuda_address()?,
            stride: heads * problem.dim,
        })
    };
    let (o, dout) = (rows(o)?, rows(dout)?);
    let mut delta = cuda.empty(&[heads, padded], DType::F32)?;
    let turned = match angles {
        Some(angles) => angles.arguments().to_vec(),
        None => args![None::<&Tensor>, None::<&Tensor>, 0i64].to_vec(),
    };
    let launch = |which: usize, work: &Work, heads: usize, first: &[Arg], shared: usize| {
        let (plan, tiles) = (cuda.constant(&work.plan)?, cuda.constant(&work.tiles)?);
        let last = args![
            &plan,
            &tiles,
            heads as i32,
            group,
            padded as i32,
            problem.scale,
            i32::from(sizes.causal)
        ];
        let all = [first, &turned, last].concat();
        let kernel = sizes.kernel(which)?;
        cuda.launch(kernel, DType::BF16, grid(work, shared), &all)
    };
    let [queries, keys] = schedule.backward(cuda);
    let (tile, block) = (sizes.bytes(TILE), sizes.bytes(BLOCK));
    let entries = if problem.dim == 128 { 2 } else { 4 };
    let of_queries = args![
        sizes.map(q, heads, TILE)?,
        sizes.map(k, kv_heads, BLOCK)?,
        sizes.map(v, kv_heads, BLOCK)?,
        sizes.map(o, heads, TILE)?,
        sizes.map(dout, heads, TILE)?,
        Arg::Address(to_q.address),
        to_q.stride as i64,
        logs,
        &mut delta,
    ];
    let shared = 4 * tile + entries * (2 * block + 16) + 16;
    launch(1, queries, heads, of_queries, shared)?;
    let of_keys = args![
        sizes.map(q, heads, BLOCK)?,
        sizes.map(k, kv_heads, TILE)?,
        sizes.map(v, kv_heads, TILE)?,
        sizes.map(dout, heads, BLOCK)?,
        Arg::Address(to_k.address),
        Arg::Address(to_v.address),
        to_k.stride as i64,
        logs,
        &delta,
    ];
    let shared = 4 * tile + entries * (2 * block + 1024 + 16) + 32;
    launch(2, keys, kv_heads, of_keys, shared)
}

/// A group of threads for 64 tokens of a tile, one that copies, and 1,024 bytes, which is what it takes to begin at a
/// multiple of as many.
fn grid(work: &Work, shared: usize) -> Grid {
    Grid::new(work.blocks, 128 * (work.tile / BLOCK + 1)).shared(shared + 1024)
}

/// What the kernels know of a problem before they run.
struct Sizes {
    tokens: usize,
    dim: usize,
    causal: bool,
}

impl Sizes {
    fn of(problem: &Problem) -> Self {
        Self {
            tokens: problem.queries(),
            dim: problem.dim,
            causal: problem.is_causal(),
        }
    }

    /// Forward, gradients of queries, of keys and values.
    fn kernel(&self, which: usize) -> Result<&'static Kernel> {
        let of = |(dim, _): &&(usize, [Kernel; 3])| *dim == self.dim;
        let found = KERNELS.iter().find(of);
        let kernel = found.map(|(_, kernels)| &kernels[which]);
        kernel.ok_or_else(|| Error::InvalidArgument {
            op: "attention",
            reason: format!("no kernel for heads of {}", self.dim),
        })
    }

    /// Of so many tokens of one head in shared memory.
    fn bytes(&self, tokens: usize) -> usize {
        2 * tokens * self.dim
    }

    /// Boxes of so many tokens of one head: lines of 64 or 32 elements, those of a head side by side.
    fn map(&self, at: Heads, heads: usize, tokens: usize) -> Result<CUtensorMap> {
        let (line, swizzle) = match self.dim % 64 {
            0 => (64, Swizzle::CU_TENSOR_MAP_SWIZZLE_128B),
            _ => (32, Swizzle::CU_TENSOR_MAP_SWIZZLE_64B),
        };
        let lines = self.dim / line;
        TensorMap {
            address: at.address,
            sizes: [line as u64, self.tokens as u64, (heads * lines) as u64],
            strides: [2 * at.stride as u64, 2 * line as u64],
            shape: [line as u32, tokens as u32, lines as u32],
            swizzle,
        }
        .encode()
    }
}
