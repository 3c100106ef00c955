//! Keys and values of past tokens, one stretch of memory for each layer, written in place.
//!
//! The cache holds a fixed number of sequences (slots) with a fixed room for each, allocated once: a
//! decoding step writes one row for each sequence and copies nothing.

use llavar_tensor::{DType, Device, Result as TensorResult, Segments, Tensor, Var};

use crate::config::LlmConfig;

/// Keys and values of some sequences.
#[derive(Debug)]
pub struct KvCache {
    /// Keys and values of each layer, `[slots * capacity, kv_heads, head_dim]`.
    layers: Vec<[Tensor; 2]>,
    lengths: Vec<usize>,
    capacity: usize,
}

impl KvCache {
    /// Room for `slots` sequences of `capacity` tokens where the model computes, in the type of its
    /// activations.
    ///
    /// # Errors
    /// When the device has not [`KvCache::bytes`] bytes a slot.
    pub fn new(
        config: &LlmConfig,
        slots: usize,
        capacity: usize,
        device: &Device,
        dtype: DType,
    ) -> TensorResult<Self> {
        let shape = [
            slots * capacity,
            config.num_key_value_heads,
            config.head_dim,
        ];
        let zeros = || Tensor::zeros_on(&shape, dtype, device);
        Ok(Self {
            layers: (0..config.num_hidden_layers)
                .map(|_| Ok([zeros()?, zeros()?]))
                .collect::<TensorResult<_>>()?,
            lengths: vec![0; slots],
            capacity,
        })
    }

    /// Bytes of one sequence of `capacity` tokens.
    pub fn bytes(config: &LlmConfig, capacity: usize, dtype: DType) -> usize {
        2 * config.num_hidden_layers * capacity * config.kv_size() * dtype.size()
    }

    /// Tokens held of each sequence.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// Tokens that a sequence can have.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Forgets everything, keeps the memory.
    pub fn clear(&mut self) {
        self.lengths.fill(0);
    }

    /// Forgets one sequence.
    pub(crate) fn clear_slot(&mut self, slot: usize) {
        if let Some(length) = self.lengths.get_mut(slot) {
            *length = 0;
        }
    }

    /// Makes each sequence `to` begin with the first `tokens` of another: `(from, to, tokens)`. What it
    /// held is forgotten. Rows that a forgotten sequence has left can be taken as long as nothing was
    /// written over them.
    ///
    /// # Errors
    /// When the device has no room for the copies.
    pub(crate) fn begin_with(&mut self, moves: &[(usize, usize, usize)]) -> TensorResult<()> {
        let (mut from, mut to) = (Vec::new(), Vec::new());
        for (source, slot, tokens) in moves.iter().filter(|(source, slot, _)| source != slot) {
            from.extend((0..*tokens).map(|i| source * self.capacity + i));
            to.extend((0..*tokens).map(|i| slot * self.capacity + i));
        }
        if !from.is_empty() {
            for tensor in self.layers.iter_mut().flatten() {
                let rows = tensor.gather_rows(&from)?;
                tensor.scatter_rows(&to, &rows)?;
            }
        }
        for (_, slot, tokens) in moves {
            self.lengths[*slot] = *tokens;
        }
        Ok(())
    }

    /// Makes sequence `i` a continuation of sequence `parents[i]`, where all have the first `shared`
    /// tokens in common. Rows are copied only where the parent is another.
    ///
    /// # Errors
    /// When the device has no room for the copies.
    pub fn reorder(&mut self, parents: &[usize], shared: usize) -> TensorResult<()> {
        let moves: Vec<(usize, usize)> = parents
            .iter()
            .copied()
            .enumerate()
            .filter(|(slot, parent)| slot != parent)
            .collect();
        let (mut from, mut to) = (Vec::new(), Vec::new());
        for (slot, parent) in &moves {
            for i in shared.min(self.lengths[*parent])..self.lengths[*parent] {
                from.push(parent * self.capacity + i);
                to.push(slot * self.capacity + i);
            }
        }
        if !from.is_empty() {
            for tensor in self.layers.iter_mut().flatten() {
                // All sources are read before the first is overwritten.
                let rows = tensor.gather_rows(&from)?;
                tensor.scatter_rows(&to, &rows)?;
            }
        }
        let before = self.lengths.clone();
        moves
            .iter()
            .for_each(|(slot, parent)| self.lengths[*slot] = before[*parent]);
        Ok(())
    }

    /// Copies sequence 0 to all others.
    ///
    /// # Errors
    /// As [`KvCache::reorder`].
    pub fn spread(&mut self) -> TensorResult<()> {
        self.reorder(&vec![0; self.lengths.len()], 0)
    }

    /// Rows of new tokens, `new[i]` of them for sequence `i` behind those held.
    pub(crate) fn rows_of(&self, new: &[usize]) -> Vec<usize> {
        let sequences = self.lengths.iter().zip(new).enumerate();
        sequences
            .flat_map(|(slot, (length, new))| {
                let first = slot * self.capacity + length;
                first..first + new
            })
            .collect()
    }

    /// Writes the keys and values of new tokens at their [`KvCache::rows_of`]; [`KvCache::advance`] then
    /// counts them.
    pub(crate) fn write(
        &mut self,
        layer: usize,
        rows: &[usize],
        keys: &Var,
        values: &Var,
    ) -> TensorResult<()> {
        let [to_keys, to_values] = &mut self.layers[layer];
        to_keys.scatter_rows(rows, keys.value())?;
        to_values.scatter_rows(rows, values.value())
    }

    /// Keys and values of every layer.
    pub(crate) fn layers_mut(&mut self) -> &mut [[Tensor; 2]] {
        &mut self.layers
    }

    /// Keys and values of a layer as [`KvCache::segments`] cuts them; shared, not copied. They must be
    /// dropped before the next write.
    pub(crate) fn view(&self, layer: usize, new: &[usize]) -> TensorResult<(Var, Var)> {
        let [keys, values] = &self.layers[layer];
        let rows = self.used_rows(new);
        Ok((keys.narrow(0, rows)?.into(), values.narrow(0, rows)?.into()))
    }

    /// Counts the tokens that every layer has written.
    pub(crate) fn advance(&mut self, new: &[usize]) {
        self.lengths
            .iter_mut()
            .zip(new)
            .for_each(|(length, new)| *length += new);
    }

    /// Whether no sequence with new tokens holds any yet, so that they attend to each other alone.
    pub(crate) fn is_fresh(&self, new: &[usize]) -> bool {
        let mut sequences = self.lengths.iter().zip(new);
        sequences.all(|(length, new)| *length == 0 || *new == 0)
    }

    /// Rows up to the end of the last sequence.
    fn used_rows(&self, new: &[usize]) -> usize {
        let last = self.lengths.len().saturating_sub(1);
        last * self.capacity + self.lengths.last().map_or(0, |length| length + new[last])
    }

    /// Query and key segments: each sequence, and between two of them the unused room, which no query
    /// belongs to.
    pub(crate) fn segments(&self, new: &[usize]) -> (Segments, Segments) {
        let last = self.lengths.len().saturating_sub(1);
        let mut queries = Vec::new();
        let mut keys = Vec::new();
        for (slot, (length, new)) in self.lengths.iter().zip(new).enumerate() {
            // A sequence without new tokens needs none of its keys.
            queries.push(*new);
            keys.push(length + new);
            if slot < last {
                queries.push(0);
                keys.push(self.capacity - length - new);
            }
        }
        (
            Segments::from_lengths(queries),
            Segments::from_lengths(keys),
        )
    }

    /// Whether `new[i]` more tokens fit for every sequence.
    pub(crate) fn fits(&self, new: &[usize]) -> bool {
        new.len() == self.lengths.len()
            && self
                .lengths
                .iter()
                .zip(new)
                .all(|(length, new)| length + new <= self.capacity)
    }
}
