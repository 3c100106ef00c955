//! Rotary frequencies of the three families, and which of them a stretch of text uses.
//!
//! Plain: `inv_freq_i = theta^(-2i/d)`. Llama-3: long wavelengths are slowed (formula at
//! [`llama3`]). Longrope (Phi-3.5): `inv_freq_i = 1 / (factor_i theta^(2i/d))` with the short factors for
//! texts up to the original window and the long ones beyond; cosine and sine are multiplied by the
//! attention factor in either case.
//!
//! # Source
//! `modeling_rope_utils` and `modeling_phi3` of transformers.

use std::sync::{Arc, Mutex, PoisonError};

use llavar_tensor::{decode::DecodeRope, ops::RopeTable};

use crate::config::{LlmConfig, RopeScaling};

/// Smallest table built: most training texts fit and none is built twice.
const FIRST_TABLE: usize = 2048;

/// Rotary frequencies, with tables of cosines and sines that grow as longer texts come.
#[derive(Debug)]
pub(crate) struct Rope {
    /// Frequencies of texts up to the original window, and of longer ones.
    frequencies: [Frequencies; 2],
    /// Texts longer than this take the second set.
    original_window: Option<usize>,
}

#[derive(Debug)]
struct Frequencies {
    inv_freq: Vec<f32>,
    attention_factor: f32,
    /// One table with the attention factor and one with factor 1.
    tables: Mutex<[Option<Arc<RopeTable>>; 2]>,
}

/// A table and the position of every token in it.
pub(crate) type Rotation = (Arc<RopeTable>, Vec<i32>);

impl Rope {
    pub(crate) fn new(config: &LlmConfig) -> Self {
        let plain = plain(config.rope_theta, config.head_dim);
        let (short, long, factor, original_window) = match &config.rope_scaling {
            RopeScaling::None => (plain.clone(), plain, 1.0, None),
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => {
                let window = *original_max_position_embeddings as f64;
                let scaled: Vec<f32> = plain
                    .iter()
                    .map(|f| {
                        llama3(
                            f64::from(*f),
                            *factor,
                            *low_freq_factor,
                            *high_freq_factor,
                            window,
                        )
                    })
                    .collect();
                (scaled.clone(), scaled, 1.0, None)
            }
            RopeScaling::LongRope {
                short_factor,
                long_factor,
                original_max_position_embeddings,
                attention_factor,
            } => {
                let stretch = |factors: &[f64]| -> Vec<f32> {
                    let powers = (0..config.head_dim / 2)
                        .map(|i| power(config.rope_theta, config.head_dim, i));
                    powers
                        .zip(factors)
                        .map(|(p, f)| 1.0 / (*f as f32 * p))
                        .collect()
                };
                let window = Some(*original_max_position_embeddings);
                (
                    stretch(short_factor),
                    stretch(long_factor),
                    *attention_factor as f32,
                    window,
                )
            }
        };
        let set = |inv_freq| Frequencies {
            inv_freq,
            attention_factor: factor,
            tables: Mutex::default(),
        };
        Self {
            frequencies: [set(short), set(long)],
            original_window,
        }
    }

    /// Whether a text of `length` tokens takes the long factors.
    pub(crate) fn is_long(&self, length: usize) -> bool {
        self.original_window.is_some_and(|window| length > window)
    }

    /// Tables of at least `positions` positions for a GPU's decoding step.
    pub(crate) fn decode_tables(&self, positions: usize) -> DecodeRope {
        let [short, long] = &self.frequencies;
        let short = short.table(positions, true);
        DecodeRope {
            long: match self.original_window {
                Some(_) => long.table(positions, true),
                None => short.clone(),
            },
            short,
            switch_at: self.original_window,
        }
    }

    /// The rotations that together turn every token of a stream to its place: one as a rule, two where
    /// short and long texts lie side by side in it.
    ///
    /// `texts` gives for each text the positions of its tokens in this stream and its whole length.
    pub(crate) fn rotations(&self, texts: &[(std::ops::Range<usize>, usize)]) -> Vec<Rotation> {
        let largest = texts.iter().map(|(range, _)| range.end).max().unwrap_or(0);
        let positions = || {
            texts
                .iter()
                .flat_map(|(range, _)| range.clone().map(|p| p as i32))
                .collect::<Vec<i32>>()
        };
        let filled = || texts.iter().filter(|(range, _)| !range.is_empty());
        let any_long = filled().any(|(_, length)| self.is_long(*length));
        let any_short = filled().any(|(_, length)| !self.is_long(*length));
        let [short, long] = &self.frequencies;
        if !any_long {
            return vec![(short.table(largest, true), positions())];
        }
        if !any_short {
            return vec![(long.table(largest, true), positions())];
        }
        // Position 0 is no rotation: each pass turns the texts of one kind and leaves the others; the
        // attention factor comes with the first.
        let only = |wanted: bool| {
            texts
                .iter()
                .flat_map(|(range, length)| {
                    let turned = self.is_long(*length) == wanted;
                    range
                        .clone()
                        .map(move |p| if turned { p as i32 } else { 0 })
                })
                .collect::<Vec<i32>>()
        };
        vec![
            (short.table(largest, true), only(false)),
            (long.table(largest, false), only(true)),
        ]
    }
}

impl Frequencies {
    /// A table of at least `positions` positions.
    fn table(&self, positions: usize, with_factor: bool) -> Arc<RopeTable> {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = &mut tables[usize::from(with_factor)];
        match slot {
            Some(table) if table.positions() >= positions => table.clone(),
            _ => {
                let size = positions.next_power_of_two().max(FIRST_TABLE);
                let factor = if with_factor {
                    self.attention_factor
                } else {
                    1.0
                };
                let table = Arc::new(RopeTable::new(&self.inv_freq, size, factor));
                *slot = Some(table.clone());
                table
            }
        }
    }
}

/// `theta^(2i/d)` in the precision of the reference.
fn power(theta: f64, dim: usize, i: usize) -> f32 {
    theta.powf(f64::from((2 * i) as f32 / dim as f32)) as f32
}

fn plain(theta: f64, dim: usize) -> Vec<f32> {
    (0..dim / 2).map(|i| 1.0 / power(theta, dim, i)).collect()
}

/// With the wavelength `w = 2 pi / f` and the original window `L`: `f / factor` where `w > L / low`, `f`
/// where `w < L / high`, between them a blend with weight `(L / w - low) / (high - low)` on `f`.
fn llama3(f: f64, factor: f64, low: f64, high: f64, window: f64) -> f32 {
    let wavelength = std::f64::consts::TAU / f;
    let scaled = if wavelength > window / low {
        f / factor
    } else if wavelength < window / high {
        f
    } else {
        let smooth = (window / wavelength - low) / (high - low);
        (1.0 - smooth) * f / factor + smooth * f
    };
    scaled as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama3_scaling_keeps_short_waves_and_slows_long_ones() {
        // Llama-3.1: factor 8, low 1, high 4, window 8192, theta 500000, head 128.
        let f = plain(500_000.0, 128);
        let scaled: Vec<f32> = f
            .iter()
            .map(|f| llama3(f64::from(*f), 8.0, 1.0, 4.0, 8192.0))
            .collect();
        assert_eq!(scaled[0], 1.0);
        assert_eq!(scaled[28], f[28], "wavelength 1963 is below 8192 / 4");
        assert!((scaled[63] * 8.0 / f[63] - 1.0).abs() < 1e-6);
        // Wavelength 2 pi 500000^(60/128) = 2954 is in between.
        let ratio = scaled[30] / f[30];
        assert!(ratio > 0.125 && ratio < 1.0, "{ratio}");
        assert!(scaled.is_sorted_by(|a, b| a > b));
    }
}
