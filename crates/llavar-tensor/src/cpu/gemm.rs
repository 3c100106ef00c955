//! Matrix products on row-major slices.

use gemm_common::Parallelism;
use half::bf16;
use rayon::prelude::*;

use super::{dot, kernel, transpose};
use crate::memory::Buffer;

/// How the second operand lies in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Layout {
    /// `C[m, n] = A[m, k] B[k, n]`.
    NN,
    /// `C[m, n] = A[m, k] B[n, k]^T`: a linear layer's forward pass.
    NT,
    /// `C[m, n] = A[k, m]^T B[k, n]`: a weight gradient.
    TN,
}

/// Below this many multiply-adds (some 15 us with AVX-512) one thread is faster than waking the others.
const MIN_PARALLEL: usize = 3 << 20;

/// Up to this many rows a product with a transposed matrix is parted by columns, so that each thread
/// packs its own rows of that matrix; beyond, the product's own parts are as fast.
const MAX_COLUMN_PARTS_ROWS: usize = 256;

/// Up to this many rows of a product with a transposed matrix are dotted with its rows: packing the matrix would
/// take longer than the product.
const FEW_ROWS: usize = 8;

/// A product with a transposed matrix transposes one operand first from this many rows on.
const MIN_TRANSPOSE_ROWS: usize = 16;

/// And where its rows are a multiple of this long: 4 KiB, the distance at which cache lines share a set.
const MIN_TRANSPOSE_STRIDE: usize = 1024;

/// `C = beta C + A B` in the given layout, all row-major and contiguous. `beta` is 0 or 1; with 0 the
/// old content of `c` is not read.
pub(crate) fn gemm(
    layout: Layout,
    m: usize,
    n: usize,
    k: usize,
    a: &[f32],
    b: &[f32],
    c: &mut [f32],
    beta: f32,
) {
    assert!(
        a.len() >= m * k && b.len() >= k * n && c.len() >= m * n,
        "gemm: slices shorter than their shapes"
    );
    if m * n == 0 {
        return;
    }
    if k == 0 {
        if beta == 0.0 {
            c[..m * n].fill(0.0);
        }
        return;
    }
    if m == 1 && layout == Layout::NT {
        return gemv(n, k, c, beta, |i| dot(&a[..k], &b[i * k..(i + 1) * k]));
    }
    if layout == Layout::NT && m <= FEW_ROWS {
        return gemv_rows(m, n, k, a, b, c, beta);
    }
    if layout == Layout::NT && m >= MIN_TRANSPOSE_ROWS && k.is_multiple_of(MIN_TRANSPOSE_STRIDE) {
        return gemm_nt(m, n, k, a, b, c, beta);
    }
    let (a_rs, a_cs) = if layout == Layout::TN { (1, m) } else { (k, 1) };
    let (b_rs, b_cs) = if layout == Layout::NT { (1, k) } else { (n, 1) };
    let parallelism = if m * n * k < MIN_PARALLEL {
        Parallelism::None
    } else if layout == Layout::NT && m <= MAX_COLUMN_PARTS_ROWS && n >= 2 * MIN_PART_COLUMNS {
        return gemm_nt_columns(m, n, k, a, b, c, beta);
    } else {
        Parallelism::Rayon(rayon::current_num_threads())
    };
    // SAFETY: the lengths were checked above against the strides; `c` is borrowed exclusively, so it
    // overlaps neither operand.
    unsafe {
        product(
            [m, n, k],
            (a.as_ptr(), a_rs, a_cs),
            (b.as_ptr(), b_rs, b_cs),
            (c.as_mut_ptr(), n),
            beta,
            parallelism,
        );
    }
}

/// `C = beta C + A B` for `A [m, k]` and `B [k, n]` with any strides of rows and columns and `C` with rows so far
/// apart.
///
/// # Safety
/// All elements that the shapes and strides name lie in their allocations, and those of `C` are not read or written
/// by anybody else.
unsafe fn product(
    [m, n, k]: [usize; 3],
    (a, a_rs, a_cs): (*const f32, usize, usize),
    (b, b_rs, b_cs): (*const f32, usize, usize),
    (c, c_rs): (*mut f32, usize),
    beta: f32,
    parallelism: Parallelism,
) {
    // The library's kernels write columns: they are given the transposed product, `C^T = B^T A^T`.
    // SAFETY: the caller's.
    unsafe {
        gemm_f32::gemm::f32::get_gemm_fn()(
            n,
            m,
            k,
            c,
            c_rs as isize,
            1,
            beta != 0.0,
            b,
            b_rs as isize,
            b_cs as isize,
            a,
            a_rs as isize,
            a_cs as isize,
            beta,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// `C = beta C + A B^T` by transposing whichever is less: `B`, or `A` and the result. The product's own
/// packing of a transposed operand reads down the columns, and rows of 1,024 elements then evict each
/// other from the cache: it would take longer than a product of a hundred rows.
fn gemm_nt(m: usize, n: usize, k: usize, a: &[f32], b: &[f32], c: &mut [f32], beta: f32) {
    if m * (n + k) < n * k {
        let mut at = Buffer::<f32>::unspecified(k * m);
        transpose(m, k, a, &mut at, false);
        let mut ct = Buffer::<f32>::unspecified(n * m);
        gemm(Layout::NN, n, m, k, b, &at, &mut ct, 0.0);
        transpose(n, m, &ct, c, beta != 0.0);
    } else {
        let mut bt = Buffer::<f32>::unspecified(k * n);
        transpose(n, k, b, &mut bt, false);
        gemm(Layout::NN, m, n, k, a, &bt, c, beta);
    }
}

/// Fewest columns of a part.
const MIN_PART_COLUMNS: usize = 64;

/// `C = beta C + A B^T` in parts of columns. The parts depend on `n` alone, so results do not depend on
/// the number of threads.
fn gemm_nt_columns(m: usize, n: usize, k: usize, a: &[f32], b: &[f32], c: &mut [f32], beta: f32) {
    /// The result, of which every task writes other columns.
    struct Shared(*mut f32);
    // SAFETY: tasks write disjoint columns, and the exclusive borrow of `c` outlives them.
    unsafe impl Sync for Shared {}

    let parts = 1 << (n / MIN_PART_COLUMNS).ilog2().min(4);
    let per = n.div_ceil(parts).next_multiple_of(16);
    assert!(
        a.len() >= m * k && b.len() >= n * k && c.len() >= m * n,
        "gemm: slices shorter than their shapes"
    );
    let c = &Shared(c.as_mut_ptr());
    (0..n.div_ceil(per)).into_par_iter().for_each(|part| {
        let first = part * per;
        let b = &b[first * k..n.min(first + per) * k];
        // SAFETY: the lengths were checked above; this task alone writes columns `first..first + per`
        // of `c`, which overlaps neither operand.
        unsafe {
            product(
                [m, b.len() / k, k],
                (a.as_ptr(), k, 1),
                (b.as_ptr(), 1, k),
                (c.0.add(first), n),
                beta,
                Parallelism::None,
            );
        }
    });
}

/// Rows of a row-major matrix that lie `stride` elements apart.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rows<'a> {
    /// From the first element of the first row on.
    pub(crate) data: &'a [f32],
    /// Elements from one row to the next.
    pub(crate) stride: usize,
}

/// `C = beta C + A B` on the calling thread, for products inside an already parallel loop. `c` has rows
/// `c_stride` elements apart; `beta` is 0 or 1.
pub(crate) fn gemm_serial(
    layout: Layout,
    m: usize,
    n: usize,
    k: usize,
    a: Rows<'_>,
    b: Rows<'_>,
    c: &mut [f32],
    c_stride: usize,
    beta: f32,
) {
    if m * n * k == 0 {
        if beta == 0.0 {
            (0..m).for_each(|i| c[i * c_stride..i * c_stride + n].fill(0.0));
        }
        return;
    }
    let (a_rows, a_cols) = if layout == Layout::TN { (k, m) } else { (m, k) };
    let (b_rows, b_cols) = if layout == Layout::NT { (n, k) } else { (k, n) };
    let fits = |len: usize, rows: usize, cols: usize, stride: usize| {
        stride >= cols && len >= (rows - 1) * stride + cols
    };
    assert!(
        fits(a.data.len(), a_rows, a_cols, a.stride)
            && fits(b.data.len(), b_rows, b_cols, b.stride)
            && fits(c.len(), m, n, c_stride),
        "gemm_serial: slices shorter than their shapes"
    );
    let turn = |turned: bool, stride: usize| if turned { (1, stride) } else { (stride, 1) };
    let (a_rs, a_cs) = turn(layout == Layout::TN, a.stride);
    let (b_rs, b_cs) = turn(layout == Layout::NT, b.stride);
    // SAFETY: the lengths were checked above against the strides; `c` is borrowed exclusively, so it
    // overlaps neither operand, and its rows do not overlap each other.
    unsafe {
        product(
            [m, n, k],
            (a.data.as_ptr(), a_rs, a_cs),
            (b.data.as_ptr(), b_rs, b_cs),
            (c.as_mut_ptr(), c_stride),
            beta,
            Parallelism::None,
        );
    }
}

/// One row times a transposed matrix: bound by reading `b` once, so rows of `b` are dotted directly.
fn gemv(n: usize, k: usize, c: &mut [f32], beta: f32, row: impl Fn(usize) -> f32 + Sync) {
    let run = |first: usize, c: &mut [f32]| {
        for (i, c) in c.iter_mut().enumerate() {
            let y = row(first + i);
            *c = if beta == 0.0 { y } else { *c + y };
        }
    };
    let per = n
        .div_ceil(rayon::current_num_threads() * 4)
        .max((1 << 16) / k.max(1))
        .max(1);
    if n <= per {
        return run(0, &mut c[..n]);
    }
    c[..n]
        .par_chunks_mut(per)
        .enumerate()
        .for_each(|(i, c)| run(i * per, c));
}

/// A few rows times a transposed matrix, whose rows are read once: each row of the result is what [`gemv`] gives
/// for it alone, to the bit.
fn gemv_rows(m: usize, n: usize, k: usize, a: &[f32], b: &[f32], c: &mut [f32], beta: f32) {
    // One column of the result behind the other.
    let mut columns = Buffer::<f32>::unspecified(n * m);
    let run = |first: usize, columns: &mut [f32]| {
        let rows = b[first * k..].chunks_exact(k);
        for (column, row) in columns.chunks_exact_mut(m).zip(rows) {
            for (y, a) in column.iter_mut().zip(a.chunks_exact(k)) {
                *y = dot(a, row);
            }
        }
    };
    let per = n
        .div_ceil(rayon::current_num_threads() * 4)
        .max((1 << 16) / (k * m).max(1))
        .max(1);
    if n <= per {
        run(0, &mut columns);
    } else {
        let parts = columns.par_chunks_mut(per * m).enumerate();
        parts.for_each(|(i, columns)| run(i * per, columns));
    }
    for (r, c) in c[..m * n].chunks_exact_mut(n).enumerate() {
        for (c, column) in c.iter_mut().zip(columns.chunks_exact(m)) {
            let y = column[r];
            *c = if beta == 0.0 { y } else { *c + y };
        }
    }
}

/// `c = beta c + B a` with `B [n, k]` in bf16, read once and never widened in memory.
pub(crate) fn gemv_bf16(n: usize, k: usize, a: &[f32], b: &[bf16], c: &mut [f32], beta: f32) {
    gemv(n, k, c, beta, |i| dot_bf16(&a[..k], &b[i * k..(i + 1) * k]));
}

kernel! {
    /// Dot product with a row of bf16, each of which is the upper half of an f32.
    fn dot_bf16(a: &[f32], b: &[bf16]) -> f32 {
        let (mut wide, mut total) = ([0.0f32; 512], 0.0);
        for (a, b) in a.chunks(wide.len()).zip(b.chunks(wide.len())) {
            let wide = &mut wide[..b.len()];
            for (wide, b) in wide.iter_mut().zip(b) {
                *wide = f32::from_bits(u32::from(b.to_bits()) << 16);
            }
            total += dot(a, wide);
        }
        total
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};

    #[test]
    fn a_few_rows_are_each_what_they_are_alone() {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(2);
        for (n, k) in [(1, 1), (7, 33), (500, 300), (3000, 70)] {
            let mut random = |len: usize| -> Vec<f32> {
                (0..len).map(|_| rng.random_range(-1.0f32..1.0)).collect()
            };
            let (a, b, c0) = (random(FEW_ROWS * k), random(n * k), random(FEW_ROWS * n));
            for (m, beta) in (2..=FEW_ROWS).zip([0.0, 1.0].into_iter().cycle()) {
                let mut together = c0.clone();
                gemm(Layout::NT, m, n, k, &a, &b, &mut together, beta);
                for r in 0..m {
                    let mut alone = c0[r * n..(r + 1) * n].to_vec();
                    gemm(Layout::NT, 1, n, k, &a[r * k..], &b, &mut alone, beta);
                    assert_eq!(together[r * n..(r + 1) * n], alone, "row {r} of {m}");
                }
            }
        }
    }

    #[test]
    fn every_layout_agrees_with_a_plain_loop() {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
        for case in 0..120 {
            let (m, n, k) = match case % 3 {
                0 => (1, rng.random_range(1..300), rng.random_range(1..300)),
                _ => (
                    rng.random_range(1..70),
                    rng.random_range(1..70),
                    rng.random_range(0..70),
                ),
            };
            // Once each: parts of columns, a transposed B, a transposed A.
            let (m, n, k) = match case {
                1 => (150, 201, 130),
                2 => (40, 35, 1024),
                4 => (17, 70, 1024),
                _ => (m, n, k),
            };
            let mut random = |len: usize| {
                (0..len)
                    .map(|_| rng.random_range(-1.0f32..1.0))
                    .collect::<Vec<_>>()
            };
            let (a, b, c0) = (random(m * k), random(k * n), random(m * n));
            for layout in [Layout::NN, Layout::NT, Layout::TN] {
                for beta in [0.0, 1.0] {
                    // With beta 0 poison must not come through.
                    let mut c = if beta == 0.0 {
                        vec![f32::NAN; m * n]
                    } else {
                        c0.clone()
                    };
                    let mut strided = c.clone();
                    gemm(layout, m, n, k, &a, &b, &mut c, beta);
                    let rows = |data, turned, stride, turned_stride| Rows {
                        data,
                        stride: if turned { turned_stride } else { stride },
                    };
                    gemm_serial(
                        layout,
                        m,
                        n,
                        k,
                        rows(&a, layout == Layout::TN, k, m),
                        rows(&b, layout == Layout::NT, n, k),
                        &mut strided,
                        n,
                        beta,
                    );
                    assert!(
                        c.iter().zip(&strided).all(|(x, y)| (x - y).abs() < 1e-4),
                        "{layout:?} {m}x{n}x{k} beta {beta}: serial differs"
                    );
                    for i in 0..m {
                        for j in 0..n {
                            let mut want = if beta == 0.0 {
                                0.0
                            } else {
                                f64::from(c0[i * n + j])
                            };
                            for l in 0..k {
                                let x = if layout == Layout::TN {
                                    a[l * m + i]
                                } else {
                                    a[i * k + l]
                                };
                                let y = if layout == Layout::NT {
                                    b[j * k + l]
                                } else {
                                    b[l * n + j]
                                };
                                want += f64::from(x) * f64::from(y);
                            }
                            assert!(
                                (f64::from(c[i * n + j]) - want).abs() < 1e-4,
                                "{layout:?} {m}x{n}x{k} beta {beta} at {i},{j}"
                            );
                        }
                    }
                }
            }
        }
    }
}
