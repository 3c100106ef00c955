//! Sequences being decoded: the cache, and the tokens that go into it.
//!
//! On a GPU steps are those of [`Decoder`], which picks the most likely ids by itself, so that a step can be
//! queued before the host has seen the ids of the one before; on the CPU a step is a pass over one token of
//! each sequence.

use llavar_tensor::{
    Tape, Tensor, Var,
    decode::{DecodeRow, Decoder, Picks},
};

use super::sampling;
use crate::{LlavaModel, Result, language_model::KvCache};

/// Sequences in their slots of one cache.
pub(crate) struct Session<'a> {
    model: &'a LlavaModel,
    cache: KvCache,
    decoder: Option<Decoder>,
    /// Slots and next ids of the rows that a step reads, by slot.
    rows: Vec<(usize, u32)>,
    vocab_limit: Option<usize>,
}

/// A whole text for an empty slot: a prompt, its features where it has pictures, and the answer so far.
pub(crate) struct Text<'a> {
    pub(crate) slot: usize,
    pub(crate) prompt: &'a [i32],
    pub(crate) features: Option<&'a Tensor>,
    pub(crate) answer: &'a [u32],
}

impl Text<'_> {
    fn len(&self) -> usize {
        self.prompt.len() + self.answer.len()
    }
}

/// What the caller needs to know of the next token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Want {
    /// The most likely id.
    Pick,
    /// All logits.
    Logits,
}

/// What is known of the next token.
#[derive(Debug)]
pub(crate) enum Next {
    /// The most likely id and its log-probability among those that can be.
    Picked(u32, f32),
    /// `[V]`, nothing masked.
    Logits(Vec<f32>),
}

/// The outcome of a step that may still be under way.
pub(crate) enum Pending {
    Known(Vec<Next>),
    OnDevice(Picks),
}

impl Pending {
    /// One entry a row, waited for.
    pub(crate) fn wait(self) -> Result<Vec<Next>> {
        Ok(match self {
            Self::Known(next) => next,
            Self::OnDevice(picks) => {
                let picks = picks.wait()?.into_iter();
                picks.map(|(id, p)| Next::Picked(id, p)).collect()
            }
        })
    }
}

impl<'a> Session<'a> {
    /// `capacity`: tokens of the longest sequence that will be read.
    pub(crate) fn new(
        model: &'a LlavaModel,
        slots: usize,
        capacity: usize,
        vocab_limit: Option<usize>,
    ) -> Result<Self> {
        let language_model = &model.language_model;
        let (device, dtype) = (model.device(), model.activation_dtype());
        let config = language_model.config();
        Ok(Self {
            cache: KvCache::new(config, slots, capacity, &device, dtype)?,
            decoder: language_model.decoder(slots, capacity, vocab_limit)?,
            model,
            rows: Vec::new(),
            vocab_limit,
        })
    }

    /// Steps that are worth having under way at once when nothing but picks is wanted.
    pub(crate) fn depth(&self) -> usize {
        if self.decoder.is_some() { 2 } else { 1 }
    }

    /// Tokens that the cache holds of a sequence.
    pub(crate) fn held(&self, slot: usize) -> usize {
        self.cache.lengths().get(slot).copied().unwrap_or(0)
    }

    /// Forgets a sequence.
    pub(crate) fn clear(&mut self, slot: usize) {
        self.cache.clear_slot(slot);
    }

    /// Whether one more token changes the rotation of every key of a sequence (longrope beyond its original
    /// window), so that it has to be read again.
    pub(crate) fn turns(&self, slot: usize) -> bool {
        let (held, model) = (self.held(slot), &self.model.language_model);
        model.is_long(held + 1) != model.is_long(held)
    }

    /// Reads whole texts into empty slots, in the order of their slots and in one pass; what follows each.
    pub(crate) fn read(&mut self, texts: &[Text<'_>], want: Want) -> Result<Vec<Next>> {
        let language_model = &self.model.language_model;
        let tape = Tape::inference();
        let (device, dtype) = (self.model.device(), self.model.activation_dtype());
        let (mut ids, mut pictures, mut last) = (Vec::new(), Vec::new(), Vec::new());
        let mut new = vec![0; self.cache.lengths().len()];
        for text in texts {
            ids.extend(text.prompt);
            ids.extend(text.answer.iter().map(|id| *id as i32));
            if let Some(features) = text.features {
                pictures.push(features.to_device(&device)?.cast(dtype)?);
            }
            last.push(ids.len().saturating_sub(1));
            if let Some(new) = new.get_mut(text.slot) {
                *new = text.len();
            }
        }
        let features = match pictures.as_slice() {
            [] => None,
            pictures => Some(Var::constant(Tensor::concat(pictures)?)),
        };
        let x = language_model.embed(&tape, &ids, features.as_ref())?;
        let hidden = language_model.forward_cached(&x, &mut self.cache, &new)?;
        if let Some(decoder) = &mut self.decoder {
            decoder.head(hidden.value(), &last)?;
            return match want {
                Want::Pick => Pending::OnDevice(decoder.picks(last.len())?).wait(),
                Want::Logits => Ok(known(decoder.logits(last.len())?)),
            };
        }
        let hidden = hidden.value().gather_rows(&last)?;
        let logits = rows(&language_model.logits(&tape, &hidden.into())?)?;
        Ok(self.next(logits, want))
    }

    /// Sets which sequences the steps to come read, and their next ids; in the order of their slots.
    pub(crate) fn begin(&mut self, rows: Vec<(usize, u32)>) -> Result<()> {
        if let Some(decoder) = &mut self.decoder {
            let row = |(slot, id): &(usize, u32)| DecodeRow {
                slot: *slot,
                position: self.cache.lengths().get(*slot).copied().unwrap_or(0),
                id: *id,
            };
            decoder.begin(&rows.iter().map(row).collect::<Vec<_>>())?;
        }
        self.rows = rows;
        Ok(())
    }

    /// Reads one more id of each row; what follows. A pick is the row's next id.
    pub(crate) fn step(&mut self, want: Want) -> Result<Pending> {
        let mut new = vec![0; self.cache.lengths().len()];
        for (slot, _) in &self.rows {
            if let Some(new) = new.get_mut(*slot) {
                *new = 1;
            }
        }
        if let Some(decoder) = &mut self.decoder {
            decoder.step(self.cache.layers_mut())?;
            // A row that has ended may be carried beyond its room for a step; the device leaves it out.
            let room = self.cache.capacity();
            let lengths = self.cache.lengths().iter();
            let new: Vec<usize> = lengths
                .zip(new)
                .map(|(held, new)| new.min(room - held))
                .collect();
            self.cache.advance(&new);
            return match want {
                Want::Pick => Ok(Pending::OnDevice(decoder.picks(self.rows.len())?)),
                Want::Logits => Ok(Pending::Known(known(decoder.logits(self.rows.len())?))),
            };
        }
        let language_model = &self.model.language_model;
        let tape = Tape::inference();
        let ids: Vec<i32> = self.rows.iter().map(|(_, id)| *id as i32).collect();
        let x = language_model.embed(&tape, &ids, None)?;
        let hidden = language_model.forward_cached(&x, &mut self.cache, &new)?;
        let logits = rows(&language_model.logits(&tape, &hidden)?)?;
        let next = self.next(logits, want);
        for ((_, id), next) in self.rows.iter_mut().zip(&next) {
            if let Next::Picked(picked, _) = next {
                *id = *picked;
            }
        }
        Ok(Pending::Known(next))
    }

    /// Replaces the next id of every row.
    pub(crate) fn set_ids(&mut self, ids: &[u32]) -> Result<()> {
        if let Some(decoder) = &mut self.decoder {
            decoder.set_ids(ids)?;
        }
        self.rows
            .iter_mut()
            .zip(ids)
            .for_each(|(row, id)| row.1 = *id);
        Ok(())
    }

    /// Copies the sequence in slot 0 to all others.
    pub(crate) fn spread(&mut self) -> Result<()> {
        Ok(self.cache.spread()?)
    }

    /// Makes sequence `i` a continuation of sequence `parents[i]`, those beyond stay as they are; all have
    /// the first `shared` tokens in common.
    pub(crate) fn reorder(&mut self, parents: &[usize], shared: usize) -> Result<()> {
        let slots = self.cache.lengths().len();
        let parents: Vec<usize> = (0..slots)
            .map(|slot| parents.get(slot).copied().unwrap_or(slot))
            .collect();
        Ok(self.cache.reorder(&parents, shared)?)
    }

    fn next(&self, logits: Vec<Vec<f32>>, want: Want) -> Vec<Next> {
        match want {
            Want::Logits => known(logits),
            Want::Pick => logits
                .into_iter()
                .map(|mut logits| {
                    sampling::mask(&mut logits, self.vocab_limit);
                    let id = sampling::argmax(&logits);
                    sampling::log_softmax(&mut logits, None);
                    Next::Picked(id, logits[id as usize])
                })
                .collect(),
        }
    }
}

fn known(logits: Vec<Vec<f32>>) -> Vec<Next> {
    logits.into_iter().map(Next::Logits).collect()
}

fn rows(logits: &Var) -> Result<Vec<Vec<f32>>> {
    let width = logits.value().last_dim().max(1);
    let values = logits.value().to_f32_vec()?;
    Ok(values.chunks_exact(width).map(<[f32]>::to_vec).collect())
}
