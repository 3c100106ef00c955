//! Eight bits an element: what matrix products of training may read in place of bf16.
//!
//! E4M3 (4 bits of exponent, 3 of mantissa, up to 448) is for weights and activations, E5M2 (5 and 2, up to
//! 57,344) for gradients, whose values lie further apart. A tensor has one scale, a power of two that brings
//! its largest value into the topmost binade; so scaling rounds nothing, and elements keep their rounding
//! from step to step unless the largest one leaves its binade. Rounding is to nearest even, too large values
//! become the largest one. Source: Micikevicius et al., FP8 formats for deep learning (2022).

/// An 8-bit element type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Fp8Format {
    /// Weights and activations.
    E4M3,
    /// Gradients.
    E5M2,
}

impl std::fmt::Display for Fp8Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::E4M3 => "e4m3",
            Self::E5M2 => "e5m2",
        })
    }
}

/// The formats on the CPU, which kernels are tested against.
#[cfg(test)]
pub(crate) mod reference {
    use super::Fp8Format;

    /// Bits of the mantissa, bias of the exponent and code of the largest number.
    fn layout(format: Fp8Format) -> (i32, i32, u8) {
        match format {
            Fp8Format::E4M3 => (3, 7, 0x7e),
            Fp8Format::E5M2 => (2, 15, 0x7b),
        }
    }

    pub(crate) fn decode(format: Fp8Format, code: u8) -> f32 {
        let (mantissa, bias, largest) = layout(format);
        let magnitude = code & 0x7f;
        let value = match magnitude > largest {
            // E5M2 has infinities; nothing here makes one.
            true => f32::NAN,
            false => {
                let exponent = i32::from(magnitude >> mantissa);
                let fraction = f32::from(magnitude & ((1 << mantissa) - 1));
                let hidden = if exponent > 0 { 1 << mantissa } else { 0 } as f32;
                (hidden + fraction) * 2f32.powi(exponent.max(1) - bias - mantissa)
            }
        };
        if code & 0x80 == 0 { value } else { -value }
    }

    pub(crate) fn encode(format: Fp8Format, x: f32) -> u8 {
        let (mantissa, bias, largest) = layout(format);
        let sign = if x.is_sign_negative() { 0x80 } else { 0 };
        if x.is_nan() {
            return 0x7f;
        }
        let size = x.abs().min(decode(format, largest));
        let binade = ((size.to_bits() >> 23) as i32 - 127).max(1 - bias);
        // Whole steps of this binade; a full binade of them is the first of the next one.
        let steps = (size * 2f32.powi(mantissa - binade)).round_ties_even() as i32;
        let code = ((binade + bias - 1) << mantissa) + steps;
        sign | (code as u8).min(largest)
    }

    /// The power of two that a tensor with this largest magnitude is scaled by, and its inverse, NaN where the
    /// tensor is not finite.
    pub(crate) fn scale(format: Fp8Format, largest: f32) -> (f32, f32) {
        let top = match format {
            Fp8Format::E4M3 => 8,
            Fp8Format::E5M2 => 15,
        };
        if largest == 0.0 {
            return (1.0, 1.0);
        }
        if !largest.is_finite() {
            return (1.0, f32::NAN);
        }
        let bits = largest.to_bits();
        let binade = (bits >> 23) as i32 - 127;
        // Both formats end at 1.75 times a power of two.
        let over = i32::from(bits & 0x7f_ffff > 0x60_0000);
        let shift = (top - binade - over).clamp(-126, 126);
        (2f32.powi(shift), 2f32.powi(-shift))
    }

    #[cfg(test)]
    mod tests {
        use super::*;
        use crate::ops::testing::Rng;

        /// The nearest of all finite codes, of two equally near ones the even one.
        fn slow(format: Fp8Format, x: f32) -> u8 {
            let distance = |code: u8| (f64::from(decode(format, code)) - f64::from(x)).abs();
            (0..=255u8)
                .filter(|code| decode(format, *code).is_finite())
                .filter(|code| (code & 0x80 != 0) == x.is_sign_negative())
                .min_by(|a, b| {
                    let order = distance(*a).total_cmp(&distance(*b));
                    order.then((a & 1).cmp(&(b & 1)))
                })
                .unwrap()
        }

        #[test]
        fn codes_are_the_nearest_of_all_256() {
            let mut rng = Rng::new(610);
            for format in [Fp8Format::E4M3, Fp8Format::E5M2] {
                for code in 0..=255u8 {
                    let value = decode(format, code);
                    if value.is_finite() {
                        assert_eq!(encode(format, value), code, "{format} {value}");
                        // Half-way to the next one, and a little to both sides of it.
                        let next = decode(format, code ^ 1);
                        let next = if next.is_finite() { next } else { value };
                        let half = (value + next) / 2.0;
                        for x in [half, half * (1.0 + 1e-6), half * (1.0 - 1e-6)] {
                            assert_eq!(encode(format, x), slow(format, x), "{format} {x}");
                        }
                    }
                }
                for _ in 0..4000 {
                    let power = rng.size(0, 60) as i32 - 30;
                    let x = rng.tensor(&[1]).item().unwrap() * 2f32.powi(power);
                    assert_eq!(encode(format, x), slow(format, x), "{format} {x}");
                }
                assert!(decode(format, encode(format, f32::NAN)).is_nan());
                for far in [1e9, f32::INFINITY] {
                    let most = decode(format, encode(format, far));
                    assert_eq!(
                        most,
                        if format == Fp8Format::E4M3 {
                            448.0
                        } else {
                            57_344.0
                        }
                    );
                    assert_eq!(decode(format, encode(format, -far)), -most);
                }
            }
        }

        #[test]
        fn the_largest_value_comes_into_the_topmost_binade() {
            let mut rng = Rng::new(611);
            for format in [Fp8Format::E4M3, Fp8Format::E5M2] {
                let most = decode(format, encode(format, f32::INFINITY));
                for _ in 0..2000 {
                    let power = rng.size(0, 180) as i32 - 100;
                    let largest = rng.tensor(&[1]).item().unwrap().abs() * 2f32.powi(power);
                    let (scale, inverse) = scale(format, largest);
                    assert_eq!(scale * inverse, 1.0);
                    let scaled = largest * scale;
                    assert!(scaled <= most && 2.0 * scaled > most, "{format} {largest}");
                    // Three bits of mantissa and two: half a step of the value at most.
                    let back = decode(format, encode(format, scaled)) * inverse;
                    let step = if format == Fp8Format::E4M3 { 16.0 } else { 8.0 };
                    assert!(
                        (back / largest - 1.0).abs() <= 1.0 / step,
                        "{largest} {back}"
                    );
                }
                assert_eq!(scale(format, 0.0), (1.0, 1.0));
                assert!(scale(format, f32::NAN).1.is_nan());
                assert!(scale(format, f32::INFINITY).1.is_nan());
                // Too small to be scaled up all the way: still a number.
                let (scale, inverse) = scale(format, f32::from_bits(1 << 16));
                assert!(scale.is_finite() && inverse > 0.0);
            }
        }
    }
}
