//! The run of kernels of one step, and the memory that they work in.
//!
//! Everything is allocated beforehand and keeps its address, so that a step can be recorded.

use std::sync::Arc;

use super::{
    DecodeRow,
    attention::{Attention, Projected, Rows},
    invalid,
    products::{Input, Launcher},
    weights::{DecodeLayer, DecodeRope, DecodeShape, DecodeWeights},
};
use crate::{
    DType, Device, Error, Param, Result, Tensor,
    cuda::{Cuda, Grid, Kernel, Source, args, ops::copy_rows},
    error::ensure_shape,
};

pub(super) static PICK_SOURCE: Source = super::source!("decode_pick");
const PICK: Kernel = PICK_SOURCE.kernel("pick");

/// Parts of a search for the best id, as in the kernel.
const PICK_PARTS: usize = 32;

/// Weights, constants and working memory of steps.
#[derive(Debug)]
pub(super) struct Work {
    cuda: Arc<Cuda>,
    shape: DecodeShape,
    weights: DecodeWeights,
    capacity: usize,
    vocab_limit: usize,
    attention: Attention,
    memory: Buffers,
    state: State,
}

/// What a step reads and leaves for the next one, `[rows]` i32 each.
#[derive(Debug)]
struct State {
    ids: Tensor,
    positions: Tensor,
    slots: Tensor,
    rows: usize,
}

/// Activations of up to `rows` tokens.
#[derive(Debug)]
struct Buffers {
    /// Residual stream, `[rows, D]`.
    x: Tensor,
    /// The same after a norm.
    normed: Tensor,
    /// Queries, keys and values of a token one behind the other, `[rows, q + 2 kv]`.
    qkv: Tensor,
    /// Each by itself, where a model has them so.
    split_qkv: Vec<Tensor>,
    /// Output of attention, `[rows, q]`.
    heads: Tensor,
    /// Gate and up projections: one of `[rows, 2 F]` or two of `[rows, F]`.
    gate_up: Vec<Tensor>,
    /// `[rows, F]`.
    act: Tensor,
    /// `[rows, V]`, f32.
    logits: Tensor,
    /// `[rows, 2]`, f32: id and log-probability.
    picks: Tensor,
    pick_parts: Tensor,
    pick_counters: Tensor,
}

impl Work {
    pub(super) fn new(
        cuda: &Arc<Cuda>,
        shape: DecodeShape,
        weights: DecodeWeights,
        rope: DecodeRope,
        rows: usize,
        capacity: usize,
        vocab_limit: Option<usize>,
    ) -> Result<Self> {
        weights.check(&shape, &Device::Cuda(cuda.clone()))?;
        let dtype = weights.dtype();
        let empty = |n: usize| cuda.empty(&[rows, n], dtype);
        let (q, kv, f) = (shape.q_width(), shape.kv_width(), shape.intermediate);
        let first = weights.layers.first();
        let is_split = |of: fn(&DecodeLayer) -> &[Param]| first.is_some_and(|l| of(l).len() > 1);
        let split_qkv = match is_split(|l| &l.qkv) {
            true => vec![empty(q)?, empty(kv)?, empty(kv)?],
            false => Vec::new(),
        };
        let gate_up = match is_split(|l| &l.gate_up) {
            true => vec![empty(f)?, empty(f)?],
            false => vec![empty(2 * f)?],
        };
        let integers = || cuda.zeros(&[rows], DType::I32);
        Ok(Self {
            attention: Attention::new(cuda, &shape, &rope, rows, capacity)?,
            memory: Buffers {
                x: empty(shape.hidden)?,
                normed: empty(shape.hidden)?,
                qkv: empty(q + 2 * kv)?,
                split_qkv,
                heads: empty(q)?,
                gate_up,
                act: empty(f)?,
                logits: cuda.empty(&[rows, shape.vocab], DType::F32)?,
                picks: cuda.empty(&[rows, 2], DType::F32)?,
                pick_parts: cuda.empty(&[rows, PICK_PARTS, 3], DType::F32)?,
                pick_counters: integers()?,
            },
            state: State {
                ids: integers()?,
                positions: integers()?,
                slots: integers()?,
                rows,
            },
            cuda: cuda.clone(),
            vocab_limit: vocab_limit.map_or(shape.vocab, |n| n.clamp(1, shape.vocab)),
            capacity,
            shape,
            weights,
        })
    }

    pub(super) fn shape(&self) -> &DecodeShape {
        &self.shape
    }

    /// Most rows.
    pub(super) fn rows(&self) -> usize {
        self.state.rows
    }

    /// Tokens that a sequence can have.
    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Sends ids, positions and slots; rows beyond are out of use.
    pub(super) fn begin(&mut self, rows: &[DecodeRow]) -> Result<()> {
        let padded = |of: fn(&DecodeRow) -> i32, rest: i32| -> Vec<i32> {
            let rest = std::iter::repeat_n(rest, self.state.rows - rows.len());
            rows.iter().map(of).chain(rest).collect()
        };
        let ids = padded(|row| row.id as i32, 0);
        let positions = padded(|row| row.position as i32, -1);
        let slots = padded(|row| row.slot as i32, 0);
        let state = &mut self.state;
        self.cuda.upload_into(&ids, &mut state.ids)?;
        self.cuda.upload_into(&positions, &mut state.positions)?;
        self.cuda.upload_into(&slots, &mut state.slots)
    }

    /// Addresses of a cache that has room for `slots` sequences: keys and values of each layer.
    pub(super) fn check_cache(&self, cache: &mut [[Tensor; 2]], slots: usize) -> Result<Vec<u64>> {
        if cache.len() != self.weights.layers.len() {
            return Err(invalid(format!(
                "a cache of {} layers for a model of {}",
                cache.len(),
                self.weights.layers.len()
            )));
        }
        let rows = slots * self.capacity;
        let mut addresses = Vec::with_capacity(2 * cache.len());
        for tensor in cache.iter_mut().flatten() {
            let fits = tensor.numel() >= rows * self.shape.kv_width();
            ensure_shape(
                "decode cache",
                fits,
                || format!("[{rows}, {}, {}]", self.shape.kv_heads, self.shape.head_dim),
                tensor.shape(),
            )?;
            if tensor.dtype() != self.weights.dtype() {
                return Err(Error::DTypeMismatch {
                    op: "decode cache",
                    expected: self.weights.dtype(),
                    got: tensor.dtype(),
                });
            }
            addresses.push(tensor.cuda_address_mut()?);
        }
        Ok(addresses)
    }

    /// Queues all kernels of a step of `rows` rows at positions below `span`, with a cache at these
    /// addresses.
    pub(super) fn step(&mut self, cache: &[u64], rows: usize, span: usize) -> Result<()> {
        let launcher = Launcher {
            cuda: self.cuda.clone(),
            dtype: self.weights.dtype(),
        };
        let Buffers { x, .. } = &mut self.memory;
        launcher.embed(&self.weights.embed, &self.state.ids, x, rows)?;
        for (layer, cache) in self.weights.layers.iter().zip(cache.chunks_exact(2)) {
            let pass = Pass {
                launcher: &launcher,
                shape: &self.shape,
                layer,
                rows,
            };
            let new = pass.project(&mut self.memory)?;
            self.attention.run(
                &launcher,
                &self.shape,
                new,
                [cache[0], cache[1]],
                Rows {
                    positions: &self.state.positions,
                    slots: &self.state.slots,
                    count: rows,
                    span,
                },
                self.capacity,
                &mut self.memory.heads,
            )?;
            pass.rest(&mut self.memory)?;
        }
        self.logits_of(&launcher, rows, true)?;
        self.pick(&launcher, rows, true)
    }

    /// Logits and picks of rows of hidden states that have passed the final norm.
    pub(super) fn head(&mut self, hidden: &Tensor, rows: usize) -> Result<()> {
        let d = self.shape.hidden;
        let fits = hidden.last_dim() == d;
        ensure_shape("decode head", fits, || format!("[.., {d}]"), hidden.shape())?;
        let launcher = Launcher {
            cuda: self.cuda.clone(),
            dtype: self.weights.dtype(),
        };
        // Rows beyond repeat the last one, so that nothing unwritten is read.
        let last = hidden.rows().saturating_sub(1);
        let from: Vec<i32> = (0..rows).map(|row| row.min(last) as i32).collect();
        let from = self.cuda.constant(&from)?;
        copy_rows(
            &self.cuda,
            hidden,
            Some(&from),
            &mut self.memory.normed,
            None,
            rows,
            d,
        )?;
        self.logits_of(&launcher, rows, false)?;
        self.pick(&launcher, rows, false)
    }

    /// Logits of `x` after the final norm, or of `normed` as it is.
    fn logits_of(&mut self, launcher: &Launcher, rows: usize, with_norm: bool) -> Result<()> {
        let Buffers {
            x, normed, logits, ..
        } = &mut self.memory;
        let (d, eps) = (self.shape.hidden, self.shape.eps);
        let (norm, head) = (&self.weights.norm, &self.weights.lm_head);
        let input = |x, norm| Input {
            x,
            norm,
            rows,
            k: d,
            n: self.shape.vocab,
            is_gate: false,
        };
        if with_norm {
            let from_x = input(x, Some((norm, eps)));
            if launcher.streamed(from_x, std::slice::from_ref(head), logits, false)? {
                return Ok(());
            }
            launcher.norm(x, norm, eps, normed, rows)?;
        }
        let from_normed = input(normed, None);
        if launcher.streamed(from_normed, std::slice::from_ref(head), logits, false)? {
            return Ok(());
        }
        launcher.product(normed, head, [rows, d], logits, false)
    }

    /// Picks of the logits; in a step they are the next one's ids.
    fn pick(&mut self, launcher: &Launcher, rows: usize, in_step: bool) -> Result<()> {
        let Buffers {
            logits,
            picks,
            pick_parts,
            pick_counters,
            ..
        } = &mut self.memory;
        let state = &mut self.state;
        let grid = Grid::cube([PICK_PARTS, rows, 1], 256);
        let (vocab, limit) = (self.shape.vocab as i32, self.vocab_limit as i32);
        let (ids, positions) = (&mut state.ids, &mut state.positions);
        launcher.launch(
            &PICK,
            grid,
            args![
                &*logits,
                vocab,
                limit,
                pick_parts,
                pick_counters,
                picks,
                in_step.then_some(ids),
                in_step.then_some(positions),
            ],
        )
    }

    /// Ids and log-probabilities of the first rows, `[rows, 2]`.
    pub(super) fn picks(&self, rows: usize) -> Result<Tensor> {
        self.memory.picks.narrow(0, rows)
    }

    /// Logits of the first rows, `[rows, V]`.
    pub(super) fn logits(&self, rows: usize) -> Result<Tensor> {
        self.memory.logits.narrow(0, rows)
    }
}

/// One layer of a step.
struct Pass<'a> {
    launcher: &'a Launcher,
    shape: &'a DecodeShape,
    layer: &'a DecodeLayer,
    rows: usize,
}

impl Pass<'_> {
    /// Queries, keys and values of the normed residual stream.
    fn project(&self, memory: &mut Buffers) -> Result<Projected> {
        let Pass {
            launcher,
            shape,
            layer,
            rows,
        } = *self;
        let (d, eps) = (shape.hidden, shape.eps);
        let (q, kv) = (shape.q_width(), shape.kv_width());
        let Buffers {
            x,
            normed,
            qkv,
            split_qkv,
            ..
        } = memory;
        let input = Input {
            x,
            norm: Some((&layer.input_norm, eps)),
            rows,
            k: d,
            n: q + 2 * kv,
            is_gate: false,
        };
        let streamed = launcher.streamed(input, &layer.qkv, qkv, false)?;
        if !streamed {
            launcher.norm(x, &layer.input_norm, eps, normed, rows)?;
        }
        match layer.qkv.as_slice() {
            [weights] if !streamed => launcher.product(normed, weights, [rows, d], qkv, false)?,
            weights if !streamed => {
                for (weight, y) in weights.iter().zip(&mut *split_qkv) {
                    launcher.product(normed, weight, [rows, d], y, false)?;
                }
                if let [queries, keys, values] = split_qkv.as_slice() {
                    return Ok(Projected {
                        q: queries.cuda_address()?,
                        k: keys.cuda_address()?,
                        v: values.cuda_address()?,
                        q_stride: q,
                        kv_stride: kv,
                    });
                }
            }
            _ => {}
        }
        let (start, size) = (qkv.cuda_address()?, launcher.dtype.size());
        Ok(Projected {
            q: start,
            k: start + (q * size) as u64,
            v: start + ((q + kv) * size) as u64,
            q_stride: q + 2 * kv,
            kv_stride: q + 2 * kv,
        })
    }

    /// Output projection and MLP, both added to the residual stream in place.
    fn rest(&self, memory: &mut Buffers) -> Result<()> {
        let Pass {
            launcher,
            shape,
            layer,
            rows,
        } = *self;
        let (d, f, q, eps) = (shape.hidden, shape.intermediate, shape.q_width(), shape.eps);
        let Buffers {
            x,
            normed,
            heads,
            gate_up,
            act,
            ..
        } = memory;
        let add = |from: &Tensor, k: usize, weight: &Param, x: &mut Tensor| {
            let input = Input {
                x: from,
                norm: None,
                rows,
                k,
                n: d,
                is_gate: false,
            };
            match launcher.streamed(input, std::slice::from_ref(weight), x, true)? {
                true => Ok(()),
                false => launcher.product(from, weight, [rows, k], x, true),
            }
        };
        add(heads, q, &layer.o, x)?;
        let input = Input {
            x,
            norm: Some((&layer.post_norm, eps)),
            rows,
            k: d,
            n: 2 * f,
            is_gate: true,
        };
        if !launcher.streamed_gate(input, &layer.gate_up, act)? {
            launcher.norm(x, &layer.post_norm, eps, normed, rows)?;
            for (weight, y) in layer.gate_up.iter().zip(&mut *gate_up) {
                launcher.product(normed, weight, [rows, d], y, false)?;
            }
            launcher.gate(gate_up, [rows, f], act)?;
        }
        add(act, f, &layer.down, x)
    }
}
