//! Attention for Hopper, forward and backward, of samples that attend to themselves: bf16, heads of 64, 96 or 128.
//!
//! The kernels (`kernels/attention_hopper*.cu`) read and write heads where they lie in the rows of tokens. The backward
//! pass makes scores twice, for queries and for keys, so that every sum has one order and nothing of the size of the
//! scores is in memory. What a sample gives does not depend on those beside it.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use cudarc::driver::sys::{CUtensorMap, CUtensorMapSwizzle_enum as Swizzle};

use super::{Cuda, Grid, Kernel, Source, args, ops::Angles, tensor_map::TensorMap};
use crate::{DType, Result, Tensor, ops::attention::Problem};

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

/// Tokens of a tile (of the forward kernel, of the others) and of a block that it meets, as in the kernels: a group of
/// 128 threads has 64 tokens of a tile, one more group copies.
const ROWS: usize = 192;
const TILE: usize = 128;
const BLOCK: usize = 64;
/// Work of a tile beside its blocks, in blocks.
const OF_A_TILE: usize = 3;
/// Most schedules that are kept.
const MOST_SCHEDULES: usize = 64;

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

/// Tiles, and the blocks that work on them.
#[derive(Debug)]
struct Schedule {
    forward: Work,
    queries: Work,
    keys: Work,
    /// Rows of a head in statistics.
    padded: usize,
}

/// Of one kernel.
#[derive(Debug)]
struct Work {
    tiles: Tensor,
    plan: Tensor,
    blocks: usize,
    /// Tokens of a tile.
    tile: usize,
}

/// What a schedule follows from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    lengths: Vec<usize>,
    causal: bool,
    heads: usize,
    kv_heads: usize,
}

#[derive(Default)]
struct Schedules(Mutex<HashMap<Key, Arc<Schedule>>>);

/// Whether the kernels take a problem; `heads` are its queries, keys and values in bf16.
pub(super) fn fits(cuda: &Cuda, problem: &Problem, heads: [Heads; 3]) -> bool {
    let itself = |s: &crate::ops::attention::Segment| s.q == s.k && !s.has_window();
    let aligned = |h: &Heads| h.address.is_multiple_of(16) && h.stride.is_multiple_of(8);
    cuda.info().is_hopper()
        && KERNELS.iter().any(|(dim, _)| *dim == problem.dim)
        // The largest score of a row is that of the largest product.
        && problem.scale > 0.0
        && heads.iter().all(aligned)
        && problem.segments.iter().all(itself)
        && (1..1 << 28).contains(&problem.queries())
}

/// Output `[T, heads, D]`, and what the backward pass needs.
pub(super) fn forward(
    cuda: &Arc<Cuda>,
    problem: &Problem,
    [q, k, v]: [Heads; 3],
) -> Result<(Tensor, Statistics)> {
    let schedule = schedule(cuda, problem)?;
    let sizes = Sizes::of(problem);
    let mut out = cuda.empty(
        &[problem.queries(), problem.heads, problem.dim],
        DType::BF16,
    )?;
    let mut logs = cuda.empty(&[problem.heads, schedule.padded], DType::F32)?;
    let arguments = args![
        sizes.map(q, problem.heads, ROWS)?,
        sizes.map(k, problem.kv_heads, BLOCK)?,
        sizes.map(v, problem.kv_heads, BLOCK)?,
        &mut out,
        &mut logs,
        &schedule.forward.plan,
        &schedule.forward.tiles,
        problem.heads as i32,
        problem.group() as i32,
        schedule.padded as i32,
        problem.scale * std::f32::consts::LOG2_E,
        i32::from(sizes.causal),
    ];
    let ring = if problem.dim == 128 { 4 } else { 8 };
    let shared = 2 * sizes.bytes(ROWS) + ring * (sizes.bytes(BLOCK) + 16) + 16;
    let grid = schedule.forward.grid(shared);
    cuda.launch(sizes.kernel(0), DType::BF16, grid, arguments)?;
    Ok((out, Statistics { logs, schedule }))
}

/// Writes the gradients of queries, keys and values to `to`. With angles, queries and keys were turned by them, and
/// gradients are of those before.
pub(super) fn backward(
    cuda: &Arc<Cuda>,
    problem: &Problem,
    Statistics { logs, schedule }: &Statistics,
    [q, k, v]: [Heads; 3],
    [o, dout]: [&Tensor; 2],
    to: [Heads; 3],
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
    let [to_q, to_k, to_v] = to;
    let ends = |work: &Work, heads: usize| {
        args![
            &work.plan,
            &work.tiles,
            heads as i32,
            group,
            padded as i32,
            problem.scale,
            i32::from(sizes.causal)
        ]
        .to_vec()
    };
    let of_queries = args![
        sizes.map(q, heads, TILE)?,
        sizes.map(k, kv_heads, BLOCK)?,
        sizes.map(v, kv_heads, BLOCK)?,
        sizes.map(o, heads, TILE)?,
        sizes.map(dout, heads, TILE)?,
        to_q,
        to_q.stride as i64,
        logs,
        &mut delta,
    ];
    let (tile, ring) = (sizes.bytes(TILE), if problem.dim == 128 { 2 } else { 4 });
    let shared = 4 * tile + ring * (2 * sizes.bytes(BLOCK) + 16) + 16;
    cuda.launch(
        sizes.kernel(1),
        DType::BF16,
        schedule.queries.grid(shared),
        &[&of_queries[..], &turned, &ends(&schedule.queries, heads)].concat(),
    )?;
    let of_keys = args![
        sizes.map(q, heads, BLOCK)?,
        sizes.map(k, kv_heads, TILE)?,
        sizes.map(v, kv_heads, TILE)?,
        sizes.map(dout, heads, BLOCK)?,
        to_k,
        to_v,
        to_k.stride as i64,
        logs,
        &delta,
    ];
    let shared = 4 * tile + ring * (2 * sizes.bytes(BLOCK) + 1024 + 16) + 32;
    cuda.launch(
        sizes.kernel(2),
        DType::BF16,
        schedule.keys.grid(shared),
        &[&of_keys[..], &turned, &ends(&schedule.keys, kv_heads)].concat(),
    )
}

impl From<Heads> for super::Arg {
    fn from(heads: Heads) -> Self {
        Self::Address(heads.address)
    }
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
            causal: problem.segments.iter().any(|s| s.is_causal()),
        }
    }

    /// Forward, gradients of queries, of keys and values.
    fn kernel(&self, which: usize) -> &'static Kernel {
        let of = |(dim, _): &&(usize, [Kernel; 3])| *dim == self.dim;
        &KERNELS.iter().find(of).unwrap_or(&KERNELS[0]).1[which]
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

impl Work {
    /// One block a multiprocessor; 1,024 bytes are what it takes to begin at a multiple of as many.
    fn grid(&self, shared: usize) -> Grid {
        let threads = 128 * (self.tile / BLOCK + 1);
        Grid::new(self.blocks, threads).shared(shared + 1024)
    }

    /// Tiles of so many tokens of samples, those with the most work of each first, for `heads` heads; `work` is that of
    /// a tile from its first token and the length of its sample.
    fn new(
        cuda: &Arc<Cuda>,
        tile: usize,
        lengths: &[usize],
        heads: usize,
        work: impl Fn(usize, usize) -> usize,
    ) -> Result<Self> {
        let (mut tiles, mut costs) = (Vec::new(), Vec::new());
        let (mut start, mut place) = (0, 0);
        for &length in lengths {
            let mut own: Vec<usize> = (0..length).step_by(tile).collect();
            own.sort_by_key(|from| Reverse(work(*from, length)));
            for from in own {
                let numbers = [start + from, start, start + length, place];
                tiles.extend(numbers.map(|n| n as i32));
                costs.push(work(from, length) + OF_A_TILE);
            }
            start += length;
            place += length.next_multiple_of(BLOCK);
        }
        let blocks = cuda.info().multiprocessors.min(costs.len() * heads);
        Ok(Self {
            tiles: cuda.constant(&tiles)?,
            plan: cuda.constant(&plan(&costs, heads, blocks))?,
            blocks,
            tile,
        })
    }
}

/// Every item (a tile of a head, `tile * heads + head`) goes to the block that is free first. Entries `b` and `b + 1`
/// are the bounds of block `b`'s items in the list itself.
fn plan(costs: &[usize], heads: usize, blocks: usize) -> Vec<i32> {
    let mut free: BinaryHeap<_> = (0..blocks).map(|b| Reverse((0, b))).collect();
    let mut items = vec![Vec::new(); blocks];
    let costs = costs.iter().flat_map(|c| std::iter::repeat_n(*c, heads));
    for (item, cost) in costs.enumerate() {
        if let Some(mut first) = free.peek_mut() {
            let Reverse((until, block)) = &mut *first;
            *until += cost;
            items[*block].push(item as i32);
        }
    }
    let mut bound = blocks as i32 + 1;
    let bounds = items.iter().map(|list| {
        bound += list.len() as i32;
        bound
    });
    let mut plan = vec![blocks as i32 + 1];
    plan.extend(bounds);
    plan.extend(items.iter().flatten());
    plan
}

/// The schedule of a problem, made once.
fn schedule(cuda: &Arc<Cuda>, problem: &Problem) -> Result<Arc<Schedule>> {
    let lengths = problem.segments.iter().map(|s| s.q.len());
    let key = Key {
        lengths: lengths.filter(|n| *n > 0).collect(),
        causal: problem.segments.iter().any(|s| s.is_causal()),
        heads: problem.heads,
        kv_heads: problem.kv_heads,
    };
    let all = cuda.extension(|| Ok(Schedules::default()))?;
    let mut all = all.0.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(found) = all.get(&key) {
        return Ok(found.clone());
    }
    let (causal, group, lengths) = (key.causal, problem.group(), &key.lengths);
    let of_queries = |tile: usize| {
        Work::new(cuda, tile, lengths, key.heads, |from, length| {
            let seen = if causal { from + tile } else { length };
            seen.min(length).div_ceil(BLOCK)
        })
    };
    let of_keys = Work::new(cuda, TILE, lengths, key.kv_heads, |from, length| {
        let seeing = if causal { length - from } else { length };
        group * seeing.div_ceil(BLOCK)
    });
    let padded = key.lengths.iter().map(|n| n.next_multiple_of(BLOCK)).sum();
    let new = Arc::new(Schedule {
        forward: of_queries(ROWS)?,
        queries: of_queries(TILE)?,
        keys: of_keys?,
        padded,
    });
    if all.len() >= MOST_SCHEDULES {
        all.clear();
    }
    all.insert(key, new.clone());
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_planned_once_and_blocks_end_together() {
        for (tiles, heads, blocks) in [(56, 32, 132), (1, 1, 1), (3, 4, 12), (5, 16, 132)] {
            let costs: Vec<usize> = (0..tiles).map(|t| 14 - t % 7 * 2).collect();
            let blocks = blocks.min(tiles * heads);
            let plan = plan(&costs, heads, blocks);
            assert_eq!(plan[0] as usize, blocks + 1);
            assert_eq!(plan[blocks] as usize, plan.len());
            let mut items: Vec<i32> = plan[blocks + 1..].to_vec();
            items.sort_unstable();
            assert!(items.iter().copied().eq(0..(tiles * heads) as i32));
            let work = |b: usize| -> usize {
                let list = &plan[plan[b] as usize..plan[b + 1] as usize];
                list.iter().map(|i| costs[*i as usize / heads]).sum()
            };
            let (most, all) = (
                (0..blocks).map(work).max(),
                (0..blocks).map(work).sum::<usize>(),
            );
            let longest = costs.iter().max().copied();
            assert!(
                most <= longest.map(|c| c + all / blocks),
                "{most:?} of {all}"
            );
        }
    }
}
