//! Random draws that stay the same for ever: ChaCha8 words turned into values by our own arithmetic,
//! so that no release of a random-number crate can change a published set.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// A random source for one picture.
pub(crate) struct Rng(ChaCha8Rng);

impl Rng {
    /// The source of picture `index` in the set of `seed`; `stream` keeps content, layout and damage
    /// apart, and `attempt` counts redraws of the content.
    pub(crate) fn new(seed: u64, index: u64, stream: u64, attempt: u64) -> Self {
        let mut key = [0_u8; 32];
        for (chunk, word) in key.chunks_exact_mut(8).zip([seed, index, stream, attempt]) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        Self(ChaCha8Rng::from_seed(key))
    }

    /// Uniform in `0..n` (0 for `n = 0`).
    pub(crate) fn below(&mut self, n: usize) -> usize {
        ((u64::from(self.0.next_u32()) * n as u64) >> 32) as usize
    }

    /// Uniform in `low..=high`.
    pub(crate) fn int(&mut self, low: i64, high: i64) -> i64 {
        low + self.below((high - low + 1).max(1) as usize) as i64
    }

    /// Uniform in `0.0..1.0`.
    pub(crate) fn unit(&mut self) -> f32 {
        (self.0.next_u32() >> 8) as f32 / 16_777_216.0
    }

    /// Uniform in `low..high`.
    pub(crate) fn range(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.unit()
    }

    /// Uniform in `-a..a`.
    pub(crate) fn around(&mut self, a: f32) -> f32 {
        self.range(-a, a)
    }

    /// True with probability `p`.
    pub(crate) fn chance(&mut self, p: f32) -> bool {
        self.unit() < p
    }

    /// One of `items`, which must not be empty.
    pub(crate) fn pick<'t, T>(&mut self, items: &'t [T]) -> &'t T {
        debug_assert!(!items.is_empty(), "pick from an empty list");
        &items[self.below(items.len())]
    }

    /// Shuffles in place (Fisher-Yates).
    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }

    /// Raw bits, for noise.
    pub(crate) fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }
}

/// FNV-1a, 64 bits: a small hash with a fixed definition, for font sets and content keys.
pub(crate) fn fnv1a(state: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(state, |hash, &b| {
        (hash ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// Start value of [`fnv1a`].
pub(crate) const FNV_START: u64 = 0xcbf2_9ce4_8422_2325;
