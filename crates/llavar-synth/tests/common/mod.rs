//! What the tests of documents and of sets share.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use llavar_synth::{FontSet, SynthConfig};

pub(crate) fn fonts() -> FontSet {
    FontSet::embedded().unwrap()
}

/// Small pictures keep the test quick; layouts scale with the picture.
pub(crate) fn small(config: SynthConfig) -> SynthConfig {
    SynthConfig {
        width: [280, 460],
        height: [280, 460],
        ..config
    }
}

/// A profile in which everything printed is asked for, with self-explain pairs.
pub(crate) fn asking_all(profile: &str) -> SynthConfig {
    SynthConfig {
        fields: Vec::new(),
        self_explain: 1.0,
        ..SynthConfig::profile(profile).unwrap()
    }
}

/// The words of a text with one space between them.
pub(crate) fn flat(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
