//! Element functions that the compiler vectorises: no branches, no table look-ups, no libm calls.
//!
//! All are `#[inline(always)]`, so that they take on the vector width of the [`super::kernel!`] that
//! they are used in.

use super::{kernel, par_chunks};

/// e^x, relative error below 2e-7 on [-87, 88]; below that 0 to within the smallest normal, above +inf.
///
/// x = n ln 2 + r with |r| <= ln 2 / 2; e^r by a degree-6 polynomial (Cephes coefficients).
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to the nearest integer
    let clamped = x.clamp(-87.336_55, 88.722_84);
    let shifted = clamped.mul_add(std::f32::consts::LOG2_E, MAGIC);
    let n = shifted - MAGIC;
    // ln 2 in two parts, so that r is exact.
    let r = n.mul_add(-0.693_359_4, clamped);
    let r = n.mul_add(2.121_944_4e-4, r);
    let mut p = 1.987_569_1e-4f32;
    p = p.mul_add(r, 1.398_199_9e-3);
    p = p.mul_add(r, 8.333_452e-3);
    p = p.mul_add(r, 4.166_579_6e-2);
    p = p.mul_add(r, 1.666_666_5e-1);
    p = p.mul_add(r, 5e-1);
    let e = (p * r).mul_add(r, r) + 1.0;
    // The low bits of `shifted` are n (no conversion, which would have to check for NaN). n can be
    // 128, so 2^n is applied in two halves.
    let n = shifted.to_bits().wrapping_sub(MAGIC.to_bits()) as i32;
    let half = n >> 1;
    let rest = n - half;
    let scale = f32::from_bits(((half + 127) << 23) as u32);
    let scale2 = f32::from_bits(((rest + 127) << 23) as u32);
    let y = e * scale * scale2;
    if x < -87.336_55 { 0.0 } else { y }
}

/// 1 / (1 + e^-x).
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// Hyperbolic tangent, absolute error below 2e-7.
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    2.0 * sigmoid(2.0 * x) - 1.0
}

/// Error function, error below 1 unit in the last place away from 0.93 (minimax fits in two ranges).
#[inline(always)]
pub(crate) fn erf(x: f32) -> f32 {
    let (a, s) = (x.abs(), x * x);
    // |x| <= 0.927734375: x + x p(x^2).
    let mut p = -5.967_617e-4f32;
    p = p.mul_add(s, 4.991_194_2e-3);
    p = p.mul_add(s, -2.676_813_5e-2);
    p = p.mul_add(s, 1.128_199_25e-1);
    p = p.mul_add(s, -3.761_253_4e-1);
    p = p.mul_add(s, 1.283_791_7e-1);
    let small = p.mul_add(x, x);
    // Otherwise 1 - e^q(|x|).
    let mut q = (-1.728_534_7e-5f32).mul_add(a, 3.831_971_3e-4);
    q = q.mul_add(s, (-3.883_964_4e-3f32).mul_add(a, 2.425_462_2e-2));
    q = q.mul_add(a, -1.067_778_8e-1);
    q = q.mul_add(a, -6.348_467e-1);
    q = q.mul_add(a, -1.287_175_1e-1);
    q = q.mul_add(a, -a);
    let large = (1.0 - exp(q)).copysign(x);
    if a > 0.927_734_4 { large } else { small }
}

/// a += b.
pub(crate) fn add_assign(a: &mut [f32], b: &[f32]) {
    debug_assert_eq!(a.len(), b.len());
    par_chunks(a, |start, a| {
        let b = &b[start..start + a.len()];
        add_to(a, b);
    });
}

kernel! {
    /// out = a + b, on one thread.
    pub(crate) fn add(a: &[f32], b: &[f32], out: &mut [f32]) {
        for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
            *out = a + b;
        }
    }
}

kernel! {
    /// a += b, on one thread.
    pub(crate) fn add_to(a: &mut [f32], b: &[f32]) {
        for (a, b) in a.iter_mut().zip(b) {
            *a += b;
        }
    }
}

/// y += alpha x, on one thread, inside a kernel.
#[inline(always)]
pub(crate) fn axpy(y: &mut [f32], alpha: f32, x: &[f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y = alpha.mul_add(*x, *y);
    }
}

/// `1 - erf(x)` to ten digits, in its tail too: Taylor's series, and above 2.5, where the alternating sum
/// loses digits, a continued fraction.
#[cfg(test)]
pub(crate) fn erfc_f64(x: f64) -> f64 {
    let root_pi = std::f64::consts::PI.sqrt();
    if x.abs() > 2.5 {
        let a = x.abs();
        let mut f = 0.0;
        for k in (1..=120).rev() {
            f = f64::from(k) / 2.0 / (a + f);
        }
        let tail = (-a * a).exp() / (a + f) / root_pi;
        return if x > 0.0 { tail } else { 2.0 - tail };
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    1.0 - sum * 2.0 / root_pi
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_accurate_everywhere() {
        for i in -90_000..=90_000 {
            let x = i as f32 * 1e-3;
            let (got, want) = (exp(x), f64::from(x).exp());
            if x < -87.3 {
                assert!(got < 1.3e-38, "{x}: {got}");
            } else if x > 88.72 {
                assert!(got > 3.3e38, "{x}: {got}");
            } else {
                let err = (f64::from(got) - want).abs() / want;
                assert!(err < 2.5e-7, "{x}: {got} {want} {err}");
            }
        }
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn erf_and_tanh_are_accurate() {
        for i in -60_000..=60_000 {
            let x = f64::from(i) * 1e-4;
            assert!(
                (f64::from(tanh(x as f32)) - f64::from(x as f32).tanh()).abs() < 3e-7,
                "tanh {x}"
            );
            assert!(
                (f64::from(erf(x as f32)) - (1.0 - erfc_f64(f64::from(x as f32)))).abs() < 3e-7,
                "erf {x}"
            );
        }
    }
}
