//! Work on all samples by several threads, with the results in order.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
        mpsc::sync_channel,
    },
};

/// Samples that a thread takes at once.
const BLOCK: usize = 256;

/// Calls `work` on blocks of `0..len` in `threads` threads and hands the results to `sink` in order, until
/// `sink` says false.
pub(crate) fn in_order<T: Send>(
    len: usize,
    threads: usize,
    work: impl Fn(Range<usize>) -> T + Sync,
    mut sink: impl FnMut(Range<usize>, T) -> bool,
) {
    let (next, stopped) = (AtomicUsize::new(0), AtomicBool::new(false));
    let blocks = len.div_ceil(BLOCK);
    let range = |block: usize| block * BLOCK..((block + 1) * BLOCK).min(len);
    std::thread::scope(|scope| {
        let (sender, results) = sync_channel(2 * threads.max(1));
        for _ in 0..threads.clamp(1, blocks.max(1)) {
            let sender = sender.clone();
            let (next, stopped, work) = (&next, &stopped, &work);
            scope.spawn(move || {
                loop {
                    let block = next.fetch_add(1, Relaxed);
                    if block >= blocks || stopped.load(Relaxed) {
                        return;
                    }
                    if sender.send((block, work(range(block)))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        let (mut early, mut wanted) = (BTreeMap::new(), 0);
        for (block, result) in results {
            early.insert(block, result);
            while let Some(result) = early.remove(&wanted) {
                if !sink(range(wanted), result) {
                    stopped.store(true, Relaxed);
                    return;
                }
                wanted += 1;
            }
        }
    });
}

/// Threads for work on all samples.
pub(crate) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_arrive_once_and_in_order() {
        for (len, threads) in [(0, 2), (1, 4), (256, 3), (5000, 4), (5000, 1)] {
            let mut seen = Vec::new();
            in_order(
                len,
                threads,
                |r| r.map(|i| i * 3).collect::<Vec<_>>(),
                |_, r| {
                    seen.extend(r);
                    true
                },
            );
            assert_eq!(seen, (0..len).map(|i| i * 3).collect::<Vec<_>>());
        }
        let mut blocks = 0;
        in_order(
            1 << 20,
            3,
            |r| r.len(),
            |_, _| {
                blocks += 1;
                blocks < 5
            },
        );
        assert_eq!(blocks, 5);
    }
}
