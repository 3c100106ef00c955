//! Stochastic rounding to bf16, with random bits that are a function of where they are used.
//!
//! Rounding up happens with the probability that is the fraction lost by rounding down, so that the mean
//! of many roundings is the value itself. The bits come from a hash of (seed, weight, update, element):
//! the same run gives the same bits on any number of threads. `kernels/optim.cu` has the same functions.

use half::bf16;

/// A bijection of 32 bits in which every input bit changes half of the output bits (the finalizer of
/// MurmurHash3).
#[inline(always)]
fn mix(mut x: u32) -> u32 {
    x ^= x >> 16;
    x = x.wrapping_mul(0x85eb_ca6b);
    x ^= x >> 13;
    x = x.wrapping_mul(0xc2b2_ae35);
    x ^ (x >> 16)
}

/// Key of one weight: hash of the seed and its name (FNV-1a, whose values never change).
pub(super) fn weight_key(seed: u64, name: &str) -> u64 {
    let bytes = seed.to_le_bytes().into_iter().chain(name.bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// Key of one update of one weight.
pub(super) fn stream(key: u64, update: u64) -> u32 {
    let low = mix(key as u32 ^ update as u32);
    mix(low ^ (key >> 32) as u32 ^ (update >> 32) as u32)
}

/// 32 random bits of one element. Every run of eight elements has a base of its own, made by two mixings,
/// because one would make the sequences of different streams shifted or permuted copies of each other; from
/// there on half a mixing an element does (two each would cost a GPU more time than the memory).
#[inline(always)]
pub(super) fn bits(stream: u32, element: u64) -> u32 {
    let run = element / 8;
    let run = run as u32 ^ ((run >> 32) as u32).wrapping_mul(0x9e37_79b9);
    let base = mix(mix(run) ^ stream);
    let x = base.wrapping_add((element as u32 % 8).wrapping_mul(0x9e37_79b9));
    let x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d);
    x ^ (x >> 15)
}

/// `x` rounded to bf16, up or down by the low 16 bits of `random`.
#[inline(always)]
pub(super) fn stochastic(x: f32, random: u32) -> bf16 {
    let bits = x.to_bits();
    // Infinities and NaN stay what they are.
    let carry = if bits & 0x7f80_0000 == 0x7f80_0000 {
        0
    } else {
        random & 0xffff
    };
    bf16::from_bits((bits.wrapping_add(carry) >> 16) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_of_many_roundings_is_the_value() {
        let n = 200_000u64;
        for x in [1.0f32, 1.001, -3.1719, 1e-20, 255.999] {
            let unit = f64::from(bf16::from_f32(x).to_f32().abs()) * 2f64.powi(-7);
            let mut sum = 0.0;
            for i in 0..n {
                let low = stochastic(x, bits(7, i)).to_f32();
                assert!(
                    (f64::from(low) - f64::from(x)).abs() <= unit,
                    "{x} to {low}"
                );
                sum += f64::from(low);
            }
            // Standard error of the mean is at most half a unit over root n.
            let off = (sum / n as f64 - f64::from(x)).abs();
            assert!(off <= 4.0 * 0.5 * unit / (n as f64).sqrt(), "{x}: {off:e}");
        }
        assert_eq!(stochastic(1.5, 0xffff).to_f32(), 1.5, "exact values stay");
        assert_eq!(stochastic(f32::INFINITY, 0xffff).to_f32(), f32::INFINITY);
        assert!(stochastic(f32::NAN, 0xffff).is_nan());
    }

    #[test]
    fn bits_of_elements_updates_and_weights_are_unrelated() {
        let n = 1u64 << 16;
        let base = stream(weight_key(1, "a"), 5);
        for (what, other) in [
            ("update", stream(weight_key(1, "a"), 6)),
            ("weight", stream(weight_key(1, "b"), 5)),
            ("seed", stream(weight_key(2, "a"), 5)),
        ] {
            let same: u32 = (0..n)
                .map(|i| (bits(base, i) ^ bits(other, i)).count_zeros())
                .sum();
            let share = f64::from(same) / (32 * n) as f64;
            assert!((share - 0.5).abs() < 0.002, "{what}: {share}");
        }
        for bit in 0..32 {
            let ones = (0..n).filter(|i| bits(base, *i) >> bit & 1 == 1).count();
            let pairs = (0..n).filter(|i| (bits(base, *i) ^ bits(base, i + 1)) >> bit & 1 == 1);
            for share in [ones as f64 / n as f64, pairs.count() as f64 / n as f64] {
                assert!((share - 0.5).abs() < 0.01, "bit {bit}: {share}");
            }
        }
    }
}
