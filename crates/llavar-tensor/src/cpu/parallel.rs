//! Row-parallel loops.

use rayon::prelude::*;

/// Below this many elements one thread is faster than waking the others (about 5 us of work).
const MIN_PARALLEL: usize = 32 << 10;

/// A loop nest too long to be inlined as a closure of [`simd`], which would leave it compiled for the
/// oldest processor: a struct of its arguments whose `call` is `#[inline(always)]`.
pub(crate) use pulp::NullaryFnOnce as Kernel;

/// Runs `kernel` compiled for the widest vectors this processor has.
#[inline]
pub(crate) fn simd_kernel<K: Kernel>(kernel: K) -> K::Output {
    pulp::Arch::new().dispatch(kernel)
}

/// Rows each task gets, so that tasks are neither tiny nor fewer than the threads can share.
fn rows_per_task(rows: usize, width: usize) -> usize {
    let threads = rayon::current_num_threads().max(1);
    let fair = rows.div_ceil(threads * 4);
    fair.max(MIN_PARALLEL.div_ceil(width.max(1))).max(1)
}

/// Calls `f(first_row, rows)` on runs of whole rows of `out` (`width` elements a row).
pub(crate) fn par_rows<T: Send>(out: &mut [T], width: usize, f: impl Fn(usize, &mut [T]) + Sync) {
    if width == 0 || out.is_empty() {
        return;
    }
    let per = rows_per_task(out.len() / width, width);
    if out.len() <= per * width {
        return f(0, out);
    }
    out.par_chunks_mut(per * width)
        .enumerate()
        .for_each(|(i, rows)| f(i * per, rows));
}

/// As [`par_rows`] for outputs of one element whose work is that of `cost` elements.
pub(crate) fn par_items<T: Send>(out: &mut [T], cost: usize, f: impl Fn(usize, &mut [T]) + Sync) {
    let per = rows_per_task(out.len(), cost);
    out.par_chunks_mut(per)
        .enumerate()
        .for_each(|(i, items)| f(i * per, items));
}

/// As [`par_rows`] over two outputs of equally many rows.
pub(crate) fn par_rows2<T: Send, U: Send>(
    a: &mut [T],
    a_width: usize,
    b: &mut [U],
    b_width: usize,
    f: impl Fn(usize, &mut [T], &mut [U]) + Sync,
) {
    if a_width == 0 || a.is_empty() {
        return;
    }
    let per = rows_per_task(a.len() / a_width, a_width.max(b_width));
    a.par_chunks_mut(per * a_width)
        .zip(b.par_chunks_mut(per * b_width.max(1)))
        .enumerate()
        .for_each(|(i, (a, b))| f(i * per, a, b));
}

/// Element-wise loop: calls `f(first_index, elements)` on runs of `out`.
pub(crate) fn par_chunks<T: Send>(out: &mut [T], f: impl Fn(usize, &mut [T]) + Sync) {
    par_rows(out, 1, f);
}

/// Sums `width`-vectors over `rows` rows: `f(rows_range, accumulator)` adds its rows to a zeroed
/// accumulator. The partition depends only on the sizes, so results do not depend on the number of
/// threads.
pub(crate) fn par_reduce(
    rows: usize,
    width: usize,
    f: impl Fn(std::ops::Range<usize>, &mut [f32]) + Sync,
) -> Vec<f32> {
    // 16 parts keep 16 threads busy and cost little to add up; fixed, for determinism.
    let per = rows
        .div_ceil(16)
        .max(MIN_PARALLEL.div_ceil(width.max(1)))
        .max(1);
    let parts: Vec<Vec<f32>> = (0..rows.div_ceil(per))
        .into_par_iter()
        .map(|i| {
            let mut acc = vec![0.0; width];
            f(i * per..((i + 1) * per).min(rows), &mut acc);
            acc
        })
        .collect();
    let mut total = vec![0.0; width];
    for part in &parts {
        super::add_assign(&mut total, part);
    }
    total
}
