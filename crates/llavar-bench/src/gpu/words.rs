//! Ids of the texts that are measured.

use llavar_model::config::ModelConfig;

/// Ids of Llama's and Phi-3's own vocabularies; their markers lie above.
const LLAMA: usize = 32_000;

/// Scattered ids of one vocabulary.
#[derive(Debug, Clone, Copy)]
pub(super) struct Words(usize);

impl Words {
    /// Those that a model of this shape has rows for.
    pub(super) fn of(config: &ModelConfig) -> Self {
        Self(config.llm.vocab_size.clamp(1, LLAMA))
    }

    /// Id at `place` of text number `text`.
    pub(super) fn id(self, text: usize, place: usize) -> i32 {
        ((text * 7919 + place * 104_729) % self.0) as i32
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use llavar_model::config::PRESETS;

    #[test]
    fn every_preset_has_a_row_for_every_word() {
        for preset in PRESETS {
            let (name, config) = (preset.name(), preset.config(None).unwrap());
            let words = Words::of(&config);
            let ids: HashSet<i32> = (0..64)
                .flat_map(|text| (0..800).map(move |place| words.id(text, place)))
                .collect();
            let rows = 0..config.llm.vocab_size as i32;
            assert!(ids.iter().all(|id| rows.contains(id)), "{name}");
            // No few rows that the cache of a card would hold.
            assert!(ids.len() > words.0 / 3, "{name}: {} ids", ids.len());
        }
    }
}
