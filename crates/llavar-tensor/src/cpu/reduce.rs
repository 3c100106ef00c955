//! Sums, dot products and maxima of rows, with explicit vectors: the compiler does not turn running
//! sums into vectors by itself.
//!
//! Four vectors of running sums keep the adders busy (an addition takes four cycles, two start in
//! each), and the rounding error is that of `len / 64` additions.

use pulp::{Simd, WithSimd};

/// Sum of the elements.
pub(crate) fn sum(x: &[f32]) -> f32 {
    pulp::Arch::new().dispatch(Sum(x))
}

/// Dot product of two rows (as long as the shorter one).
pub(crate) fn dot(x: &[f32], y: &[f32]) -> f32 {
    let n = x.len().min(y.len());
    pulp::Arch::new().dispatch(Dot(&x[..n], &y[..n]))
}

/// Largest element; -inf of none. NaN counts or not.
pub(crate) fn max(x: &[f32]) -> f32 {
    pulp::Arch::new().dispatch(Max(x))
}

struct Sum<'a>(&'a [f32]);

impl WithSimd for Sum<'_> {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f32 {
        let (x, tail) = S::as_simd_f32s(self.0);
        let mut acc = [simd.splat_f32s(0.0); 4];
        let (fours, rest) = x.as_chunks::<4>();
        for x in fours {
            for i in 0..4 {
                acc[i] = simd.add_f32s(acc[i], x[i]);
            }
        }
        for x in rest {
            acc[0] = simd.add_f32s(acc[0], *x);
        }
        total(simd, acc) + tail.iter().sum::<f32>()
    }
}

struct Dot<'a>(&'a [f32], &'a [f32]);

impl WithSimd for Dot<'_> {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f32 {
        let ((x, x_tail), (y, y_tail)) = (S::as_simd_f32s(self.0), S::as_simd_f32s(self.1));
        let mut acc = [simd.splat_f32s(0.0); 4];
        let ((x, x_rest), (y, y_rest)) = (x.as_chunks::<4>(), y.as_chunks::<4>());
        for (x, y) in x.iter().zip(y) {
            for i in 0..4 {
                acc[i] = simd.mul_add_f32s(x[i], y[i], acc[i]);
            }
        }
        for (x, y) in x_rest.iter().zip(y_rest) {
            acc[0] = simd.mul_add_f32s(*x, *y, acc[0]);
        }
        let tail: f32 = x_tail.iter().zip(y_tail).map(|(x, y)| x * y).sum();
        total(simd, acc) + tail
    }
}

/// Sum of all lanes.
#[inline(always)]
fn total<S: Simd>(simd: S, [a, b, c, d]: [S::f32s; 4]) -> f32 {
    simd.reduce_sum_f32s(simd.add_f32s(simd.add_f32s(a, b), simd.add_f32s(c, d)))
}

struct Max<'a>(&'a [f32]);

impl WithSimd for Max<'_> {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f32 {
        let (x, tail) = S::as_simd_f32s(self.0);
        let mut acc = [simd.splat_f32s(f32::NEG_INFINITY); 4];
        let (fours, rest) = x.as_chunks::<4>();
        for x in fours {
            for i in 0..4 {
                acc[i] = simd.max_f32s(acc[i], x[i]);
            }
        }
        for x in rest {
            acc[0] = simd.max_f32s(acc[0], *x);
        }
        let [a, b, c, d] = acc;
        let most = simd.max_f32s(simd.max_f32s(a, b), simd.max_f32s(c, d));
        tail.iter()
            .copied()
            .fold(simd.reduce_max_f32s(most), f32::max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_every_length_agree_with_f64() {
        for n in (0..300).chain([1003, 4096]) {
            let x: Vec<f32> = (0..n)
                .map(|i| ((i * 37) % 101) as f32 / 50.0 - 1.0)
                .collect();
            let y: Vec<f32> = (0..n)
                .map(|i| ((i * 53) % 103) as f32 / 51.0 - 1.0)
                .collect();
            let want: f64 = x.iter().map(|x| f64::from(*x)).sum();
            assert!((f64::from(sum(&x)) - want).abs() < 1e-3, "sum of {n}");
            let want: f64 = x.iter().zip(&y).map(|(x, y)| f64::from(x * y)).sum();
            assert!((f64::from(dot(&x, &y)) - want).abs() < 1e-3, "dot of {n}");
            let want = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(max(&x), want, "max of {n}");
        }
    }
}
