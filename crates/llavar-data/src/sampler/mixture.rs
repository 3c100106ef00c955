//! Several sets in one epoch, each with a weight.

use super::epoch_permutation;
use crate::error::Error;

/// Which units (samples or packs) of several sets an epoch takes.
///
/// A weight is the number of passes over its set in an epoch: 1 takes every unit once, 2 twice, 0.5 half of
/// them. Parts of a set follow each other through a permutation of it, so that two epochs at 0.5 take every
/// unit once, and no unit is taken twice before each was taken once.
///
/// # Determinism
/// An epoch is a function of sets, weights, seed and its number, so a run resumes at any of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Mixture {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq)]
struct Part {
    /// First of the set's units; sets follow each other.
    first: usize,
    len: usize,
    /// Units that an epoch takes.
    draws: usize,
}

impl Mixture {
    /// A mixture of sets of so many units, each with its weight. An epoch takes `weight * len` units of a
    /// set, rounded, and at least one.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a weight that is not finite or not above 0, or an epoch that has no units.
    pub fn new(sets: &[(usize, f64)]) -> Result<Self, Error> {
        let invalid = |reason| Error::Invalid {
            what: "mixture",
            reason,
        };
        let mut parts = Vec::with_capacity(sets.len());
        let mut first = 0usize;
        for (number, &(len, weight)) in sets.iter().enumerate() {
            if !(weight.is_finite() && weight > 0.0 && weight * len as f64 <= (1u64 << 40) as f64) {
                return Err(invalid(format!(
                    "set number {number} of {len} units cannot have weight {weight}"
                )));
            }
            parts.push(Part {
                first,
                len,
                draws: match len {
                    0 => 0,
                    _ => ((weight * len as f64).round() as usize).max(1),
                },
            });
            first += len;
        }
        let mixture = Self { parts };
        match mixture.epoch_len() {
            0 => Err(invalid("there is nothing to draw from".into())),
            _ => Ok(mixture),
        }
    }

    /// Units of an epoch.
    pub fn epoch_len(&self) -> usize {
        self.parts.iter().map(|part| part.draws).sum()
    }

    /// Whether every epoch takes every unit exactly once.
    pub fn is_plain(&self) -> bool {
        self.parts.iter().all(|part| part.draws == part.len)
    }

    /// The units of an epoch, set after set.
    pub fn units(&self, seed: u64, epoch: u64) -> Vec<usize> {
        let mut units = Vec::with_capacity(self.epoch_len());
        for (number, part) in self.parts.iter().enumerate() {
            if part.draws == part.len {
                units.extend(part.first..part.first + part.len);
                continue;
            }
            let own = seed.wrapping_add((number as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
            let start = u128::from(epoch) * part.draws as u128;
            let (mut pass, mut at) = (
                (start / part.len as u128) as u64,
                (start % part.len as u128) as usize,
            );
            let mut left = part.draws;
            while left > 0 {
                let order = epoch_permutation(part.len, own, pass);
                let taken = left.min(part.len - at);
                let run = order.iter().skip(at).take(taken);
                units.extend(run.map(|&unit| part.first + unit));
                left -= taken;
                (pass, at) = (pass + 1, 0);
            }
        }
        units
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_passes_and_every_unit_has_its_turn() {
        let mixture = Mixture::new(&[(10, 1.0), (7, 2.5), (100, 0.25), (3, 0.01)]).unwrap();
        assert_eq!(mixture.epoch_len(), 10 + 18 + 25 + 1);
        let mut seen = vec![0usize; 120];
        for epoch in 0..4 {
            let units = mixture.units(5, epoch);
            assert_eq!(units.len(), mixture.epoch_len());
            assert_eq!(units, mixture.units(5, epoch));
            assert_eq!(units[..10], (0..10).collect::<Vec<_>>());
            for unit in units {
                seen[unit] += 1;
            }
        }
        assert!(seen[..10].iter().all(|&n| n == 4));
        // 72 draws of 7.
        assert!(seen[10..17].iter().all(|&n| n == 10 || n == 11));
        assert!(
            seen[17..117].iter().all(|&n| n == 1),
            "four quarters are the whole"
        );
        assert_eq!(seen[117..].iter().sum::<usize>(), 4);
        assert_ne!(mixture.units(5, 0), mixture.units(6, 0));
        assert!(!mixture.is_plain() && Mixture::new(&[(3, 1.0), (4, 1.0)]).unwrap().is_plain());
    }

    #[test]
    fn weights_that_cannot_be_are_refused() {
        for weight in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e300] {
            assert!(Mixture::new(&[(10, weight)]).is_err(), "{weight}");
        }
        assert!(Mixture::new(&[]).is_err());
        assert!(Mixture::new(&[(0, 1.0)]).is_err());
        assert_eq!(
            Mixture::new(&[(0, 1.0), (2, 1.0)]).unwrap().units(1, 0),
            [0, 1]
        );
    }
}
