//! Matrices in 8 bits: codes, and one scale a row beside them.
//!
//! A tensor `X` of type I8 and shape `[rows, ..]` with a tensor `X_scale` of a float type and shape `[rows, 1]` (or
//! `[rows]`) stands for `code * scale`. Reading widens it; nothing above the reader sees the codes.
//!
//! # Source
//! Names and meaning are those of the format `int-quantized` of compressed-tensors with symmetric weights and the
//! strategy `channel`.

use thiserror::Error;

use super::{Dtype, TensorEntry};

/// Largest code; -128 is never written, so that the codes of a row are symmetric.
const LARGEST: f32 = 127.0;

/// What is wrong with 8-bit weights.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Int8Error {
    /// The scales are no floats.
    #[error("the scales `{scale}` are of type {dtype}, expected a float type")]
    ScaleType {
        /// The tensor of scales.
        scale: String,
        /// Its type.
        dtype: Dtype,
    },
    /// There is not one scale for each row.
    #[error("the scales `{scale}` have the shape {got:?}, expected [{rows}, 1]: one for each row")]
    ScaleShape {
        /// The tensor of scales.
        scale: String,
        /// Rows of the weight.
        rows: usize,
        /// Shape of the scales.
        got: Vec<usize>,
    },
    /// A scale that no row can have.
    #[error("scale {row} of `{scale}` is {value}, expected a finite number that is not negative")]
    ScaleValue {
        /// The tensor of scales.
        scale: String,
        /// Which one.
        row: usize,
        /// Its value.
        value: f32,
    },
}

/// Name of the tensor that holds the scales of another.
pub(crate) fn scale_name(weight: &str) -> String {
    format!("{weight}_scale")
}

/// Checks that `scale` can hold the scales of `codes`.
pub(super) fn check_entry(codes: &TensorEntry, scale: &TensorEntry) -> Result<(), Int8Error> {
    if !scale.dtype.is_float() {
        return Err(Int8Error::ScaleType {
            scale: scale.name.clone(),
            dtype: scale.dtype,
        });
    }
    let rows = codes.shape.first().copied().unwrap_or(0);
    match scale.shape.as_slice() {
        &[n] | &[n, 1] if n == rows => Ok(()),
        got => Err(Int8Error::ScaleShape {
            scale: scale.name.clone(),
            rows,
            got: got.to_vec(),
        }),
    }
}

/// Checks the values of the scales named `scale`.
pub(super) fn check_values(scale: &str, values: &[f32]) -> Result<(), Int8Error> {
    let wrong = |v: &f32| !v.is_finite() || *v < 0.0;
    match values.iter().position(wrong) {
        Some(row) => Err(Int8Error::ScaleValue {
            scale: scale.to_owned(),
            row,
            value: values[row],
        }),
        None => Ok(()),
    }
}

/// Codes to values; rows of equal length, one for each scale.
pub(crate) fn widen(codes: &[u8], scales: &[f32], out: &mut [f32]) {
    let columns = (out.len() / scales.len().max(1)).max(1);
    let rows = codes
        .chunks_exact(columns)
        .zip(out.chunks_exact_mut(columns));
    for ((codes, out), scale) in rows.zip(scales) {
        for (code, out) in codes.iter().zip(out) {
            *out = f32::from(*code as i8) * scale;
        }
    }
}

/// The scale of each of `rows` rows: its largest value over [`LARGEST`], so that nothing is cut off.
pub(crate) fn scales(values: &[f32], rows: usize) -> Vec<f32> {
    let columns = (values.len() / rows.max(1)).max(1);
    let largest = |row: &[f32]| row.iter().fold(0.0_f32, |most, v| most.max(v.abs()));
    values
        .chunks_exact(columns)
        .map(|row| largest(row) / LARGEST)
        .collect()
}

/// Values to codes, to the nearest.
pub(crate) fn codes(values: &[f32], scales: &[f32]) -> Vec<u8> {
    let columns = (values.len() / scales.len().max(1)).max(1);
    let rows = values.chunks_exact(columns).zip(scales);
    rows.flat_map(|(row, &scale)| {
        // A row of zeros, or of numbers so small that their scale has no inverse, is zero.
        let inverse = Some(scale.recip()).filter(|i| i.is_finite()).unwrap_or(0.0);
        row.iter().map(move |v| {
            let code = (v * inverse).round_ties_even().clamp(-LARGEST, LARGEST);
            code as i8 as u8
        })
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_is_off_by_more_than_half_a_step() {
        let values: Vec<f32> = (0..7 * 33)
            .map(|i| ((i as f32) * 0.37).sin() * (1.0 + (i / 33) as f32).powi(3))
            .chain([0.0; 33])
            .collect();
        let scales = scales(&values, 8);
        let codes = codes(&values, &scales);
        let mut back = vec![f32::NAN; values.len()];
        widen(&codes, &scales, &mut back);
        for (i, (value, back)) in values.iter().zip(&back).enumerate() {
            let step = scales[i / 33];
            assert!((value - back).abs() <= 0.5001 * step, "{i}: {value} {back}");
        }
        // The largest of a row is exact but for rounding, and zeros stay zeros.
        for row in 0..7 {
            let range = row * 33..(row + 1) * 33;
            let most = codes[range].iter().map(|c| (*c as i8).unsigned_abs()).max();
            assert_eq!(most, Some(127));
        }
        assert!(back[7 * 33..].iter().all(|v| *v == 0.0));
    }

    #[test]
    fn widened_values_give_the_same_codes_again() {
        let values: Vec<f32> = (0..64).map(|i| ((i * i) as f32 * 0.11).cos()).collect();
        let (s, mut back) = (scales(&values, 4), vec![0.0; 64]);
        let first = codes(&values, &s);
        widen(&first, &s, &mut back);
        assert_eq!(codes(&back, &scales(&back, 4)), first);
    }
}
