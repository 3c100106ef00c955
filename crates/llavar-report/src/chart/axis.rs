//! From values to places: ranges, ticks and their labels.

use crate::number::grouped;

/// How values are spread along an axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scale {
    /// Equal steps are equal distances.
    #[default]
    Linear,
    /// Equal ratios are equal distances; values that are not positive have no place.
    Log,
}

/// An axis.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Axis {
    /// What is measured, with its unit.
    pub label: String,
    /// Its scale.
    pub scale: Scale,
}

impl Axis {
    /// A linear axis.
    pub fn linear(label: impl Into<String>) -> Self {
        Self {
            label: label.into(),
            scale: Scale::Linear,
        }
    }

    /// A logarithmic axis.
    pub fn log(label: impl Into<String>) -> Self {
        Self {
            label: label.into(),
            scale: Scale::Log,
        }
    }
}

/// A tick with its label.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tick {
    pub(super) value: f64,
    pub(super) label: String,
}

/// A scale with its range.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Range {
    pub(super) scale: Scale,
    pub(super) low: f64,
    pub(super) high: f64,
}

impl Range {
    /// The range of the values that have a place on `scale`; a unit where there are none.
    pub(super) fn of(scale: Scale, values: impl Iterator<Item = f64>) -> Self {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.filter(|value| has_place(scale, *value)) {
            low = low.min(value);
            high = high.max(value);
        }
        if low > high {
            (low, high) = (1.0, 2.0);
        }
        if low == high {
            // One value stands in the middle.
            (low, high) = match scale {
                Scale::Log => (low / 2.0, high * 2.0),
                Scale::Linear if low.abs() < f64::MIN_POSITIVE => (-1.0, 1.0),
                Scale::Linear => (low - low.abs() / 2.0, high + high.abs() / 2.0),
            };
        }
        Self { scale, low, high }.within_numbers()
    }

    /// Keeps away from the ends of what a number can be.
    fn within_numbers(self) -> Self {
        let (least, most) = match self.scale {
            Scale::Log => (f64::MIN_POSITIVE, 2.0 * LARGEST),
            Scale::Linear => (-2.0 * LARGEST, 2.0 * LARGEST),
        };
        Self {
            low: self.low.clamp(least, most),
            high: self.high.clamp(least, most),
            ..self
        }
    }

    /// The same with a little room on both sides.
    pub(super) fn with_room(self) -> Self {
        let wider = match self.scale {
            Scale::Linear => {
                let room = (self.high - self.low) * 0.04;
                // Never below 0 for values that never are: a loss has no negative part.
                let low = if self.low >= 0.0 {
                    (self.low - room).max(0.0)
                } else {
                    self.low - room
                };
                Self {
                    low,
                    high: self.high + room,
                    ..self
                }
            }
            Scale::Log => {
                let room = (self.high.ln() - self.low.ln()) * 0.04;
                Self {
                    low: self.low * (-room).exp(),
                    high: self.high * room.exp(),
                    ..self
                }
            }
        };
        wider.within_numbers()
    }

    /// Where a value stands, 0 to 1; none where it has no place.
    pub(super) fn at(&self, value: f64) -> Option<f64> {
        if !has_place(self.scale, value) {
            return None;
        }
        let at = match self.scale {
            Scale::Linear => (value - self.low) / (self.high - self.low),
            Scale::Log => (value.ln() - self.low.ln()) / (self.high.ln() - self.low.ln()),
        };
        at.is_finite().then_some(at)
    }

    /// The value at a place, 0 to 1.
    pub(super) fn value(&self, at: f64) -> f64 {
        match self.scale {
            Scale::Linear => self.low + (self.high - self.low) * at,
            Scale::Log => (self.low.ln() + (self.high.ln() - self.low.ln()) * at).exp(),
        }
    }

    /// About `wanted` ticks at round values.
    pub(super) fn ticks(&self, wanted: usize) -> Vec<Tick> {
        let decades = (self.high / self.low).log10();
        if self.scale == Scale::Log && decades >= 1.0 {
            return self.decades(wanted, decades);
        }
        let step = step((self.high - self.low) / wanted.max(1) as f64);
        let (first, last) = ((self.low / step).ceil(), (self.high / step).floor());
        // At most a few times the number that was wanted, whatever rounding does.
        let count = (last - first).clamp(0.0, 4.0 * wanted as f64) as usize;
        (0..=count)
            .map(|k| (first + k as f64) * step)
            .map(|value| Tick {
                value,
                label: label(value, step),
            })
            .filter(|tick| (self.low..=self.high).contains(&tick.value))
            .collect()
    }

    fn decades(&self, wanted: usize, decades: f64) -> Vec<Tick> {
        let every = (decades / wanted.max(1) as f64).ceil().max(1.0) as i32;
        let within: &[f64] = if decades < 2.5 {
            &[1.0, 2.0, 5.0]
        } else {
            &[1.0]
        };
        let (first, last) = (
            self.low.log10().floor() as i32,
            self.high.log10().ceil() as i32,
        );
        let mut ticks = Vec::new();
        for power in (first..=last).filter(|power| power.rem_euclid(every) == 0) {
            for factor in within {
                let value = factor * 10f64.powi(power);
                if (self.low..=self.high).contains(&value) {
                    ticks.push(Tick {
                        value,
                        label: label(value, value),
                    });
                }
            }
        }
        ticks
    }
}

/// Beyond this differences overflow.
const LARGEST: f64 = f64::MAX / 16.0;

fn has_place(scale: Scale, value: f64) -> bool {
    value.abs() <= LARGEST && (scale == Scale::Linear || value >= f64::MIN_POSITIVE)
}

/// 1, 2 or 5 times a power of ten, at least `least`.
fn step(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    let factor = [1.0, 2.0, 5.0]
        .into_iter()
        .find(|f| f * power >= least * (1.0 - 1e-9));
    factor.unwrap_or(10.0) * power
}

/// A tick's label: as many digits as tell it from the next one.
fn label(value: f64, step: f64) -> String {
    // What is left of 0.3 - 3 * 0.1 is no tick at 5e-17.
    let value = if value.abs() < step * 1e-6 {
        0.0
    } else {
        value
    };
    let large = value.abs().max(step);
    if large >= 1e7 || step < 5e-5 {
        return if value == 0.0 {
            "0".into()
        } else {
            let digits = (large.log10() + 1e-9).floor() - (step.log10() + 1e-9).floor();
            // Beyond 15 a number has no digits of its own.
            let digits = digits.clamp(2.0, 15.0) as usize;
            trimmed(&format!("{value:.digits$e}"))
        };
    }
    let decimals = (-(step.log10() + 1e-9).floor()).max(0.0) as usize;
    grouped(&format!("{value:.decimals$}"))
}

/// `1.00e-5` as `1e-5`.
fn trimmed(scientific: &str) -> String {
    match scientific.split_once('e') {
        Some((digits, power)) => {
            format!(
                "{}e{power}",
                digits.trim_end_matches('0').trim_end_matches('.')
            )
        }
        None => scientific.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn labels(range: Range, wanted: usize) -> Vec<String> {
        range
            .ticks(wanted)
            .into_iter()
            .map(|tick| tick.label)
            .collect()
    }

    #[test]
    fn ticks_are_round() {
        let linear = |low, high| Range {
            scale: Scale::Linear,
            low,
            high,
        };
        let log = |low, high| Range {
            scale: Scale::Log,
            low,
            high,
        };
        assert_eq!(
            labels(linear(0.0, 1.0), 5),
            ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]
        );
        assert_eq!(
            labels(linear(0.0, 30_000.0), 3),
            ["0", "10,000", "20,000", "30,000"]
        );
        assert_eq!(labels(linear(-0.03, 0.03), 3), ["-0.02", "0.00", "0.02"]);
        assert_eq!(
            labels(log(1e-6, 1e-2), 5),
            ["1e-6", "1e-5", "0.0001", "0.001", "0.01"]
        );
        assert_eq!(labels(log(1.0, 20.0), 5), ["1", "2", "5", "10", "20"]);
        assert_eq!(
            labels(log(2.0, 3.0), 5),
            ["2.0", "2.2", "2.4", "2.6", "2.8", "3.0"]
        );
        // Large beside their steps: every tick still has its own label.
        assert_eq!(
            labels(linear(5_001_005_000.0, 5_001_995_000.0), 5),
            ["5.0012e9", "5.0014e9", "5.0016e9", "5.0018e9"]
        );
        assert_eq!(
            labels(linear(0.500_01, 0.500_09), 4),
            ["5.0002e-1", "5.0004e-1", "5.0006e-1", "5.0008e-1"]
        );
    }

    proptest! {
        #[test]
        fn any_values_have_a_range_and_few_ticks(values in prop::collection::vec(any::<f64>(), 0..6), log in any::<bool>()) {
            let scale = if log { Scale::Log } else { Scale::Linear };
            for range in [Range::of(scale, values.iter().copied()), Range::of(scale, values.iter().copied()).with_room()] {
                prop_assert!(range.low < range.high && range.low.is_finite() && range.high.is_finite(), "{range:?}");
                prop_assert!(range.ticks(6).len() <= 60, "{range:?}");
                for value in &values {
                    if let Some(at) = range.at(*value) {
                        prop_assert!(at.is_finite());
                    }
                }
            }
        }
    }
}
