//! One decoding step of a language model on a GPU: a fixed run of kernels whose changing inputs (ids,
//! positions, lengths) lie on the device, so that it is recorded once as a CUDA graph and replayed.
//!
//! - `weights`: what a model hands over.
//! - `products`: products of a few rows with a weight, fused with what stands around them.
//! - `attention`: rotation, append to the cache, attention over it.
//! - `step`: the run of kernels and its working memory.
//! - [`Decoder`]: rows being decoded, graphs, results.

mod attention;
mod products;
mod step;
#[cfg(test)]
mod tests;
mod weights;

use std::{collections::HashMap, sync::Arc};

pub use weights::{DecodeLayer, DecodeRope, DecodeShape, DecodeWeights};

#[cfg(test)]
use super::Source;
use super::{Cuda, Readback, graph::Graph};
use crate::{DType, Device, Error, Result, Tensor};
use step::Work;

/// All kernels of a step begin with this.
macro_rules! source {
    ($name:literal) => {
        crate::cuda::Source {
            name: $name,
            code: concat!(
                include_str!("../kernels/decode.cuh"),
                include_str!(concat!("../kernels/", $name, ".cu"))
            ),
        }
    };
}
use source;

/// The sources of this module.
#[cfg(test)]
pub(super) fn sources() -> impl Iterator<Item = &'static Source> {
    [
        &products::SOURCE,
        &products::wide::SOURCE,
        &step::PICK_SOURCE,
    ]
    .into_iter()
    .chain(attention::SOURCES)
}

/// Steps of one kind that are queued kernel by kernel before they are recorded: a short answer is over
/// before recording would pay.
const EAGER_STEPS: usize = 3;

/// One sequence of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeRow {
    /// Its stretch of the cache.
    pub slot: usize,
    /// Tokens that the cache holds of it, which is the position of `id`.
    pub position: usize,
    /// The token to read next.
    pub id: u32,
}

/// Rows being decoded with one model and one cache.
#[derive(Debug)]
pub struct Decoder {
    cuda: Arc<Cuda>,
    work: Work,
    rows: Vec<DecodeRow>,
    graphs: HashMap<(usize, usize), Recorded>,
    /// Addresses of the cache that the graphs were recorded with.
    cache: Vec<u64>,
    with_graphs: bool,
}

#[derive(Debug, Default)]
struct Recorded {
    steps: usize,
    graph: Option<Graph>,
}

/// Ids and log-probabilities on their way to the host.
#[derive(Debug)]
pub struct Picks {
    values: Readback,
    rows: usize,
}

impl Picks {
    /// For each row the most likely id, the lowest of several, and its log-probability.
    ///
    /// # Errors
    /// When something failed on the device.
    pub fn wait(self) -> Result<Vec<(u32, f32)>> {
        let values = self.values.wait()?;
        let pairs = values.chunks_exact(2).take(self.rows);
        Ok(pairs.map(|pair| (pair[0] as u32, pair[1])).collect())
    }
}

impl Decoder {
    /// Whether this module has kernels for a model of this shape: widths in multiples of 8, heads of at
    /// most 256.
    pub fn supports(shape: &DecodeShape, device: &Device, dtype: DType) -> bool {
        device.is_cuda()
            && matches!(dtype, DType::F32 | DType::BF16)
            && [shape.hidden, shape.intermediate, shape.head_dim]
                .iter()
                .all(|n| n.is_multiple_of(8) && *n > 0)
            && shape.head_dim <= 256
            && shape.kv_heads > 0
            && shape.heads.is_multiple_of(shape.kv_heads)
            // An id comes back as an f32.
            && (1..1 << 24).contains(&shape.vocab)
    }

    /// Working memory for up to `rows` sequences in a cache of `capacity` tokens each; ids from
    /// `vocab_limit` on are never picked.
    ///
    /// # Errors
    /// When [`Decoder::supports`] says no, weights do not fit the shape or lie elsewhere, a rotary table is
    /// shorter than `capacity`, or the device has no room.
    pub fn new(
        device: &Device,
        shape: DecodeShape,
        weights: DecodeWeights,
        rope: DecodeRope,
        rows: usize,
        capacity: usize,
        vocab_limit: Option<usize>,
    ) -> Result<Self> {
        let dtype = weights.embed.value().dtype();
        let (true, Some(cuda)) = (Self::supports(&shape, device, dtype), device.as_cuda()) else {
            return Err(invalid(format!(
                "no kernels for {shape:?} in {dtype} on {device}"
            )));
        };
        Ok(Self {
            cuda: cuda.clone(),
            work: Work::new(
                cuda,
                shape,
                weights,
                rope,
                bucket(rows),
                capacity,
                vocab_limit,
            )?,
            rows: Vec::new(),
            graphs: HashMap::new(),
            cache: Vec::new(),
            with_graphs: true,
        })
    }

    /// Whether steps are recorded and replayed (they are unless this says otherwise).
    pub fn set_graphs(&mut self, on: bool) {
        self.with_graphs = on;
        self.graphs.clear();
    }

    /// Rows that the next step reads.
    pub fn rows(&self) -> &[DecodeRow] {
        &self.rows
    }

    /// Sets the rows of the steps to come.
    ///
    /// # Errors
    /// For more rows than asked for, or a position or an id out of range.
    pub fn begin(&mut self, rows: &[DecodeRow]) -> Result<()> {
        let (most, capacity) = (self.work.rows(), self.work.capacity());
        if rows.len() > most {
            return Err(invalid(format!(
                "{} rows, there is room for {most}",
                rows.len()
            )));
        }
        for row in rows {
            if row.position >= capacity {
                return Err(Error::IndexOutOfRange {
                    op: "decode position",
                    index: row.position as i64,
                    len: capacity,
                });
            }
            if row.id as usize >= self.work.shape().vocab {
                return Err(Error::IndexOutOfRange {
                    op: "embedding",
                    index: i64::from(row.id),
                    len: self.work.shape().vocab,
                });
            }
        }
        self.work.begin(rows)?;
        self.rows = rows.to_vec();
        Ok(())
    }

    /// Queues one step: reads an id for each row, writes its key and value into the cache, and makes logits
    /// and picks. The picked id and the position after this one are the next step's input. A row whose
    /// cache is full is left out.
    ///
    /// # Shapes
    /// `cache`: keys and values of each layer, `[slots * capacity, kv_heads, head_dim]`.
    ///
    /// # Errors
    /// When the cache does not fit the shape, or the device refuses.
    pub fn step(&mut self, cache: &mut [[Tensor; 2]]) -> Result<()> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let slots = self.rows.iter().map(|row| row.slot + 1).max().unwrap_or(0);
        let addresses = self.work.check_cache(cache, slots)?;
        if addresses != self.cache {
            self.graphs.clear();
            self.cache = addresses;
        }
        let capacity = self.work.capacity();
        let longest = self.rows.iter().map(|row| row.position + 1).max();
        let span = longest.unwrap_or(1).next_power_of_two().max(256);
        let key = (bucket(self.rows.len()), span.min(capacity.max(1)));
        let recorded = self.graphs.entry(key).or_default();
        let (rows, span) = key;
        match &mut recorded.graph {
            Some(graph) => graph.launch()?,
            None if self.with_graphs && recorded.steps >= EAGER_STEPS => {
                let (work, addresses) = (&mut self.work, &self.cache);
                let graph = self.cuda.capture(|| work.step(addresses, rows, span))?;
                recorded.graph.insert(graph).launch()?;
            }
            None => self.work.step(&self.cache, rows, span)?,
        }
        recorded.steps += 1;
        for row in self.rows.iter_mut().filter(|row| row.position < capacity) {
            row.position += 1;
        }
        Ok(())
    }

    /// Replaces the ids that the next step reads, one a row.
    ///
    /// # Errors
    /// When there are not as many as rows, or one is outside the vocabulary.
    pub fn set_ids(&mut self, ids: &[u32]) -> Result<()> {
        if ids.len() != self.rows.len() {
            return Err(invalid(format!(
                "{} ids for {} rows",
                ids.len(),
                self.rows.len()
            )));
        }
        let mut rows = self.rows.clone();
        rows.iter_mut().zip(ids).for_each(|(row, id)| row.id = *id);
        self.begin(&rows)
    }

    /// Queues logits and picks of hidden states, without touching the rows of the steps.
    ///
    /// # Shapes
    /// `hidden [n, D]` after the final norm, with as many rows as the decoder has at the most.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn head(&mut self, hidden: &Tensor) -> Result<()> {
        let rows = hidden.rows();
        if rows == 0 || rows > self.work.rows() {
            return Err(invalid(format!("{rows} rows of hidden states")));
        }
        self.work.head(hidden, bucket(rows))
    }

    /// Starts reading the first `rows` picks of the last step or head.
    ///
    /// # Errors
    /// When the device refuses.
    pub fn picks(&self, rows: usize) -> Result<Picks> {
        Ok(Picks {
            values: self.cuda.read_back(&self.work.picks(rows)?)?,
            rows,
        })
    }

    /// Waits for the logits of the first `rows` rows of the last step or head, `[V]` each.
    ///
    /// # Errors
    /// When something failed on the device.
    pub fn logits(&self, rows: usize) -> Result<Vec<Vec<f32>>> {
        let logits = self.work.logits(rows)?.to_f32_vec()?;
        let vocab = self.work.shape().vocab;
        Ok(logits.chunks_exact(vocab).map(<[f32]>::to_vec).collect())
    }
}

/// Rows are filled up to a few numbers, so that graphs are few.
fn bucket(rows: usize) -> usize {
    match rows {
        0..=4 => rows.max(1),
        5..=16 => rows.next_multiple_of(4),
        17..=64 => rows.next_multiple_of(8),
        _ => rows.next_multiple_of(32),
    }
}

fn invalid(reason: String) -> Error {
    Error::InvalidArgument {
        op: "decoder",
        reason,
    }
}
