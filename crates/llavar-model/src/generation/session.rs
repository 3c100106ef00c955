//! Sequences being decoded: the cache, and the tokens that go into it.
//!
//! On a GPU steps are those of [`Decoder`], which picks the most likely ids by itself, so that a step can be
//! queued before the host has seen the ids of the one before; on the CPU a step is a pass over one token of
//! each sequence.

use llavar_tensor::{
    Tape, Tensor, Var,
    decode::{DecodeRow, Decoder, Picks},
};

use super::{
    prefix::{self, Held},
    sampling,
};
use crate::{
    LlavaModel, Result,
    language_model::{KvCache, check_count},
};

/// Sequences in their slots of one cache.
pub(crate) struct Session<'a> {
    model: &'a LlavaModel,
    cache: KvCache,
    decoder: Option<Decoder>,
    /// Slots and next ids of the rows that a step reads, by slot.
    rows: Vec<(usize, u32)>,
    vocab_limit: Option<usize>,
    /// What the rows of every slot hold from the front, also after it was cleared.
    held: Vec<Option<Held>>,
}

/// A whole text for an empty slot: a prompt, its features where it has pictures, and the answer so far.
pub(crate) struct Text<'a> {
    pub(crate) slot: usize,
    pub(crate) prompt: &'a [i32],
    pub(crate) features: Option<&'a Tensor>,
    pub(crate) answer: &'a [u32],
}

impl Text<'_> {
    pub(crate) fn len(&self) -> usize {
        self.prompt.len() + self.answer.len()
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = i32> {
        let answer = self.answer.iter().map(|id| *id as i32);
        self.prompt.iter().copied().chain(answer)
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
            held: (0..slots).map(|_| None).collect(),
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

    /// Reads whole texts into empty slots; what follows each, in their order. What a text has in common
    /// with one that is there, or with an earlier one of the call, is taken over and not read.
    pub(crate) fn read(&mut self, texts: &[Text<'_>], want: Want) -> Result<Vec<Next>> {
        let language_model = &self.model.language_model;
        let plan = prefix::plan(&self.held, texts, |length| language_model.is_long(length));
        for text in texts {
            self.clear(text.slot);
            // Unless all goes well nothing is known of the slot.
            self.held[text.slot] = None;
        }
        self.cache.begin_with(&plan.before)?;
        let mut next: Vec<Option<Next>> = texts.iter().map(|_| None).collect();
        let whole: Vec<(usize, usize)> = plan.whole.iter().map(|number| (*number, 0)).collect();
        for (copies, part) in [(&[][..], &whole), (&plan.after, &plan.ends)] {
            self.cache.begin_with(copies)?;
            if !part.is_empty() {
                let part_next = self.read_ends(texts, part, want)?;
                for ((number, _), found) in part.iter().zip(part_next) {
                    next[*number] = Some(found);
                }
            }
        }
        for text in texts {
            let long = self.model.language_model.is_long(text.len());
            self.held[text.slot] = Some(Held::new(text, long));
        }
        Ok(next.into_iter().flatten().collect())
    }

    /// Reads, in one pass, what comes after the first tokens of some texts: `(number, tokens)`.
    fn read_ends(
        &mut self,
        texts: &[Text<'_>],
        part: &[(usize, usize)],
        want: Want,
    ) -> Result<Vec<Next>> {
        let language_model = &self.model.language_model;
        let tape = Tape::inference();
        let (device, dtype) = (self.model.device(), self.model.activation_dtype());
        let (mut ids, mut pictures) = (Vec::new(), Vec::new());
        let mut new = vec![0; self.cache.lengths().len()];
        // The cache takes new tokens in the order of their slots.
        let mut order: Vec<usize> = (0..part.len()).collect();
        order.sort_by_key(|at| texts[part[*at].0].slot);
        for at in &order {
            let (number, known) = part[*at];
            let text = &texts[number];
            if let Some(features) = text.features {
                let seen = text.ids().take(known).filter(|id| *id < 0).count();
                if seen < features.rows() {
                    let unseen = features.narrow(seen, features.rows() - seen)?;
                    pictures.push(unseen.to_device(&device)?.cast(dtype)?);
                }
            }
            ids.extend(text.ids().skip(known));
            if let Some(new) = new.get_mut(text.slot) {
                *new = text.len() - known;
            }
        }
        let features = match pictures.as_slice() {
            [] => None,
            pictures => Some(Var::constant(Tensor::concat(pictures)?)),
        };
        let x = language_model.embed(&tape, &ids, features.as_ref())?;
        let hidden = language_model.forward_cached(&x, &mut self.cache, &new)?;
        // Every text has a new token, or rows would be another's.
        check_count("texts with new tokens", order.len(), hidden.value().rows())?;
        let found = if let Some(decoder) = &mut self.decoder {
            let count = order.len();
            decoder.head(hidden.value())?;
            match want {
                Want::Pick => Pending::OnDevice(decoder.picks(count)?).wait()?,
                Want::Logits => known(decoder.logits(count)?),
            }
        } else {
            let logits = rows(&language_model.logits(&tape, &hidden)?)?;
            self.next(logits, want)
        };
        let mut placed: Vec<(usize, Next)> = order.into_iter().zip(found).collect();
        placed.sort_by_key(|(at, _)| *at);
        Ok(placed.into_iter().map(|(_, next)| next).collect())
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
        self.held.iter_mut().for_each(|held| *held = None);
        Ok(self.cache.spread()?)
    }

    /// Makes sequence `i` a continuation of sequence `parents[i]`, those beyond stay as they are; all have
    /// the first `shared` tokens in common.
    pub(crate) fn reorder(&mut self, parents: &[usize], shared: usize) -> Result<()> {
        self.held.iter_mut().for_each(|held| *held = None);
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
