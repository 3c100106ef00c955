//! Which block of a kernel works on which tiles.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use crate::{Result, cuda::Cuda, ops::attention::Problem};

/// Tokens of a tile (of the forward kernel, of the others) and of a block that it meets, as in the kernels: a group of
/// 128 threads has 64 tokens of a tile, one more group copies.
pub(super) const ROWS: usize = 192;
pub(super) const TILE: usize = 128;
pub(super) const BLOCK: usize = 64;
/// Work of a tile beside its blocks, in blocks.
const OF_A_TILE: usize = 3;
/// Most schedules that are kept.
const MOST_SCHEDULES: usize = 64;

/// Tiles, and the blocks that work on them. Nothing of the device is in here, since the device keeps it.
#[derive(Debug)]
pub(super) struct Schedule {
    pub(super) forward: Work,
    /// Of queries, of keys.
    backward: OnceLock<[Work; 2]>,
    /// Rows of a head in statistics.
    pub(super) padded: usize,
    key: Key,
}

/// Of one kernel.
#[derive(Debug)]
pub(super) struct Work {
    /// First token, first and end of its sample, place of the sample in statistics.
    pub(super) tiles: Vec<i32>,
    /// Items of every block: see [`plan`].
    pub(super) plan: Vec<i32>,
    pub(super) blocks: usize,
    /// Tokens of a tile.
    pub(super) tile: usize,
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

impl Schedule {
    /// The schedule of a problem, made once.
    pub(super) fn of(cuda: &Arc<Cuda>, problem: &Problem) -> Result<Arc<Self>> {
        let lengths = problem.segments.iter().map(|s| s.q.len());
        let key = Key {
            lengths: lengths.filter(|n| *n > 0).collect(),
            causal: problem.is_causal(),
            heads: problem.heads,
            kv_heads: problem.kv_heads,
        };
        let all = cuda.extension(|| Ok(Schedules::default()))?;
        let mut all = all.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = all.get(&key) {
            return Ok(found.clone());
        }
        let padded = key.lengths.iter().map(|n| n.next_multiple_of(BLOCK)).sum();
        let new = Arc::new(Self {
            forward: key.of_queries(cuda, ROWS),
            backward: OnceLock::new(),
            padded,
            key: key.clone(),
        });
        if all.len() >= MOST_SCHEDULES {
            all.clear();
        }
        all.insert(key, new.clone());
        Ok(new)
    }

    /// Of the kernels whose tiles are queries, and keys.
    pub(super) fn backward(&self, cuda: &Cuda) -> &[Work; 2] {
        let make = || [self.key.of_queries(cuda, TILE), self.key.of_keys(cuda)];
        self.backward.get_or_init(make)
    }
}

impl Key {
    fn of_queries(&self, cuda: &Cuda, tile: usize) -> Work {
        Work::new(cuda, tile, &self.lengths, self.heads, |from, length| {
            let seen = if self.causal { from + tile } else { length };
            seen.min(length).div_ceil(BLOCK)
        })
    }

    fn of_keys(&self, cuda: &Cuda) -> Work {
        let group = self.heads / self.kv_heads;
        Work::new(cuda, TILE, &self.lengths, self.kv_heads, |from, length| {
            let seeing = if self.causal { length - from } else { length };
            group * seeing.div_ceil(BLOCK)
        })
    }
}

impl Work {
    /// Tiles of so many tokens of samples, those with the most work of each first, for `heads` heads; `work` is that of
    /// a tile from its first token and the length of its sample.
    fn new(
        cuda: &Cuda,
        tile: usize,
        lengths: &[usize],
        heads: usize,
        work: impl Fn(usize, usize) -> usize,
    ) -> Self {
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
        Self {
            tiles,
            plan: plan(&costs, heads, blocks),
            blocks,
            tile,
        }
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
