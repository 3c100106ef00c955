//! Sequences being decoded: the cache, and the tokens that it stands for.

use llavar_tensor::{Tape, Tensor, Var};

use crate::{LlavaModel, Result, language_model::KvCache};

/// One prompt and the continuations that share it.
pub(crate) struct Session<'a> {
    model: &'a LlavaModel,
    cache: KvCache,
    prompt: &'a [i32],
    features: Option<Var>,
}

impl<'a> Session<'a> {
    /// `capacity`: tokens of the prompt and of the longest continuation.
    pub(crate) fn new(
        model: &'a LlavaModel,
        slots: usize,
        capacity: usize,
        prompt: &'a [i32],
        features: Option<&Tensor>,
    ) -> Self {
        Self {
            cache: KvCache::new(model.language_model.config(), slots, capacity),
            model,
            prompt,
            features: features.map(|f| Var::constant(f.clone())),
        }
    }

    /// Reads the prompt into every sequence; logits of what follows, `[V]`.
    pub(crate) fn start(&mut self) -> Result<Vec<f32>> {
        let mut logits = self.read(0, &[])?;
        self.cache.spread()?;
        Ok(logits.swap_remove(0))
    }

    /// Reads one more id for each sequence; `answers` are the ids of each after the prompt, the new one
    /// included. Logits of what follows, `[V]` for each sequence.
    pub(crate) fn step(&mut self, answers: &[&[u32]]) -> Result<Vec<Vec<f32>>> {
        let held = self.cache.lengths().first().copied().unwrap_or(0);
        let language_model = &self.model.language_model;
        let slots = self.cache.lengths().len();
        if language_model.is_long(held + 1) != language_model.is_long(held) {
            // The frequencies of every past key change: all is computed again, as the reference does.
            self.cache.clear();
            let mut rows = Vec::new();
            for slot in 0..slots {
                // A sequence out of use gets some answer, so that its copy of the prompt is there.
                if let Some(answer) = answers.get(slot).or(answers.first()) {
                    rows.extend(self.read(slot, answer)?);
                }
            }
            rows.truncate(answers.len());
            return Ok(rows);
        }
        let ids: Vec<i32> = answers
            .iter()
            .filter_map(|ids| ids.last())
            .map(|id| *id as i32)
            .collect();
        let tape = Tape::inference();
        let x = language_model.embed(&tape, &ids, None)?;
        let new: Vec<usize> = (0..slots)
            .map(|slot| usize::from(slot < ids.len()))
            .collect();
        let hidden = language_model.forward_cached(&x, &mut self.cache, &new)?;
        rows(&language_model.logits(&tape, &hidden)?)
    }

    /// Makes sequence `i` a continuation of sequence `parents[i]`; those beyond stay out of use.
    pub(crate) fn reorder(&mut self, parents: &[usize]) -> Result<()> {
        let slots = self.cache.lengths().len();
        let parents: Vec<usize> = (0..slots)
            .map(|slot| parents.get(slot).copied().unwrap_or(slot))
            .collect();
        Ok(self.cache.reorder(&parents, self.prompt.len())?)
    }

    /// Reads the prompt and an answer into one empty sequence; logits after the last id.
    fn read(&mut self, slot: usize, answer: &[u32]) -> Result<Vec<Vec<f32>>> {
        let language_model = &self.model.language_model;
        let tape = Tape::inference();
        let ids: Vec<i32> = self
            .prompt
            .iter()
            .copied()
            .chain(answer.iter().map(|id| *id as i32))
            .collect();
        let x = language_model.embed(&tape, &ids, self.features.as_ref())?;
        let mut new = vec![0; self.cache.lengths().len()];
        if let Some(n) = new.get_mut(slot) {
            *n = ids.len();
        }
        let hidden = language_model.forward_cached(&x, &mut self.cache, &new)?;
        let last = tape.narrow(&hidden, ids.len().saturating_sub(1), 1)?;
        rows(&language_model.logits(&tape, &last)?)
    }
}

fn rows(logits: &Var) -> Result<Vec<Vec<f32>>> {
    let width = logits.value().last_dim();
    Ok(logits
        .value()
        .data::<f32>()?
        .chunks_exact(width.max(1))
        .map(<[f32]>::to_vec)
        .collect())
}
