//! Numbers as people read them.

/// A number with `digits` significant digits at least, whole numbers in full with thousands apart;
/// very small and very large ones as `1.2e-7`.
pub fn significant(value: f64, digits: usize) -> String {
    if !value.is_finite() {
        return if value.is_nan() {
            "not a number".into()
        } else {
            format!("{}infinite", if value < 0.0 { "-" } else { "" })
        };
    }
    let digits = digits.max(1);
    if value == 0.0 {
        return "0".into();
    }
    let magnitude = value.abs().log10().floor() as i32;
    if !(-4..12).contains(&magnitude) {
        return format!("{value:.*e}", digits - 1);
    }
    let decimals = (digits as i32 - 1 - magnitude).max(0) as usize;
    // Sums and powers miss a whole number by the last digit.
    let whole = (value - value.round()).abs() <= 1e-12 * value.abs();
    grouped(&format!("{value:.*}", if whole { 0 } else { decimals }))
}

/// Thousands apart: `12345.5` becomes `12,345.5`. Four digits stay together.
pub(crate) fn grouped(number: &str) -> String {
    let (sign, rest) = match number.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", number),
    };
    let (whole, fraction) = match rest.find('.') {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    if whole.len() <= 4 {
        return number.to_owned();
    }
    let mut out = String::with_capacity(number.len() + whole.len() / 3);
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    format!("{sign}{out}{fraction}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        for (value, digits, shown) in [
            (0.0, 3, "0"),
            (0.123_456, 3, "0.123"),
            (12.3456, 3, "12.3"),
            (634.0, 3, "634"),
            (10f64.powf(0.5).powi(2), 3, "10"),
            (1234.5, 3, "1234"),
            (-1_234_567.0, 3, "-1,234,567"),
            (2e-5, 2, "2.0e-5"),
            (0.000_2, 2, "0.00020"),
            (f64::NAN, 3, "not a number"),
            (f64::NEG_INFINITY, 3, "-infinite"),
        ] {
            assert_eq!(significant(value, digits), shown, "{value}");
        }
    }
}
