//! Keys and values of past tokens, one stretch of memory for each layer, written in place.
//!
//! The cache holds a fixed number of sequences (slots) with a fixed room for each, allocated once: a
//! decoding step writes one row for each sequence and copies nothing.

use llavar_tensor::{Result as TensorResult, Segments, Tensor, Var};

use crate::config::LlmConfig;

/// Keys and values of some sequences.
#[derive(Debug)]
pub struct KvCache {
    /// Keys and values of each layer, `[slots * capacity, kv_heads, head_dim]`, f32.
    layers: Vec<[Tensor; 2]>,
    lengths: Vec<usize>,
    capacity: usize,
    /// Elements of one row.
    width: usize,
}

impl KvCache {
    /// Room for `slots` sequences of `capacity` tokens: `2 * layers * slots * capacity * kv_size` floats.
    pub fn new(config: &LlmConfig, slots: usize, capacity: usize) -> Self {
        let shape = [
            slots * capacity,
            config.num_key_value_heads,
            config.head_dim,
        ];
        Self {
            layers: (0..config.num_hidden_layers)
                .map(|_| [Tensor::zeros(&shape), Tensor::zeros(&shape)])
                .collect(),
            lengths: vec![0; slots],
            capacity,
            width: config.kv_size(),
        }
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

    /// Makes sequence `i` a continuation of sequence `parents[i]`, where all have the first `shared`
    /// tokens in common. Rows are copied only where the parent is another.
    ///
    /// # Errors
    /// When the tensors are not f32, which they always are.
    pub fn reorder(&mut self, parents: &[usize], shared: usize) -> TensorResult<()> {
        let moves: Vec<(usize, usize)> = parents
            .iter()
            .copied()
            .enumerate()
            .filter(|(slot, parent)| slot != parent)
            .collect();
        if moves.is_empty() {
            return Ok(());
        }
        let range = |slot: usize, length: usize| {
            (slot * self.capacity + shared.min(length)) * self.width
                ..(slot * self.capacity + length) * self.width
        };
        for tensor in self.layers.iter_mut().flatten() {
            let data = tensor.data_mut::<f32>()?;
            // All sources are read before the first is overwritten.
            let rows: Vec<Vec<f32>> = moves
                .iter()
                .map(|(_, parent)| data[range(*parent, self.lengths[*parent])].to_vec())
                .collect();
            for ((slot, parent), rows) in moves.iter().zip(rows) {
                data[range(*slot, self.lengths[*parent])].copy_from_slice(&rows);
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
    /// When the tensors are not f32, which they always are.
    pub fn spread(&mut self) -> TensorResult<()> {
        self.reorder(&vec![0; self.lengths.len()], 0)
    }

    /// Writes the keys and values of new tokens, `new[i]` of them for sequence `i`, behind those held;
    /// [`KvCache::advance`] then counts them.
    pub(crate) fn write(
        &mut self,
        layer: usize,
        new: &[usize],
        keys: &Var,
        values: &Var,
    ) -> TensorResult<()> {
        let (width, capacity) = (self.width, self.capacity);
        for (tensor, rows) in self.layers[layer].iter_mut().zip([keys, values]) {
            let (data, rows) = (tensor.data_mut::<f32>()?, rows.value().data::<f32>()?);
            let mut at = 0;
            for (slot, (length, new)) in self.lengths.iter().zip(new).enumerate() {
                let to = (slot * capacity + length) * width;
                data[to..to + new * width].copy_from_slice(&rows[at..at + new * width]);
                at += new * width;
            }
        }
        Ok(())
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
