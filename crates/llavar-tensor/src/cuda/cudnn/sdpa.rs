//! The graphs of attention forward and backward, as cuDNN's engines recognise them.
//!
//! Sequences lie packed in `[T, H, D]` tensors (ragged offsets say where each begins) or all have one
//! length. Softmax statistics are always padded, `[b, h, s, 1]`: laid out packed, the engines give wrong
//! values or crash.
//!
//! dq comes straight from its product. The engine then keeps the gradients of the scores in its workspace
//! and adds them up in a fixed order; given an f32 accumulator for dq, it adds in the order in which blocks
//! happen to finish, and two runs differ.

use cudarc::cudnn::sys::{
    cudnnDataType_t as Data, cudnnHandle_t, cudnnPointwiseMode_t as Mode,
    cudnnReduceTensorOp_t as Reduction,
};

use super::graph::{Four, Graph, Node, Plan};
use crate::Result;

const BF16: Data = Data::CUDNN_DATA_BFLOAT16;
const F32: Data = Data::CUDNN_DATA_FLOAT;
const I32: Data = Data::CUDNN_DATA_INT32;

/// What a plan depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Shape {
    /// Sequences.
    pub(super) batch: i64,
    /// Query heads.
    pub(super) heads: i64,
    /// Key and value heads.
    pub(super) kv_heads: i64,
    /// Longest sequence.
    pub(super) longest: i64,
    /// Head size.
    pub(super) dim: i64,
    pub(super) causal: bool,
    /// Sequences of several lengths, or all of the longest.
    pub(super) ragged: bool,
    /// Whether queries, keys and values (and their gradients) are the parts of one row `[(heads + 2 kv) D]`, or
    /// each has rows of its own.
    pub(super) in_row: bool,
}

/// Memory that a graph reads or writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slot {
    Q,
    K,
    V,
    O,
    Statistics,
    Scale,
    MinusInfinity,
    One,
    /// Length of every sequence.
    Lengths,
    /// First element of every sequence in q and its gradient.
    QueryOffsets,
    /// First element of every sequence in k, v and their gradients.
    KeyOffsets,
    /// First element of every sequence in o and its gradient.
    OutputOffsets,
    DO,
    DQ,
    DK,
    DV,
    /// `sum over d of o do`, laid out as the statistics.
    Delta,
}

impl Shape {
    fn queries(&self) -> Four {
        [self.batch, self.heads, self.longest, self.dim]
    }

    fn keys(&self) -> Four {
        [self.batch, self.kv_heads, self.longest, self.dim]
    }

    fn scores(&self) -> Four {
        [self.batch, self.heads, self.longest, self.longest]
    }

    /// One number a query.
    fn rows(&self) -> Four {
        [self.batch, self.heads, self.longest, 1]
    }

    fn row_strides(&self) -> Four {
        [self.heads * self.longest, self.longest, 1, 1]
    }

    /// Elements from one token to the next in a tensor of `heads` of queries, keys or values.
    pub(super) fn row(&self, heads: i64) -> i64 {
        match self.in_row {
            true => (self.heads + 2 * self.kv_heads) * self.dim,
            false => heads * self.dim,
        }
    }

    /// Elements from one token to the next in the output.
    pub(super) fn output_row(&self) -> i64 {
        self.heads * self.dim
    }

    /// Strides of `heads` of queries, keys or values seen as `[b, heads, s, D]`.
    fn packed(&self, heads: i64) -> Four {
        let row = self.row(heads);
        [self.longest * row, self.dim, row, 1]
    }

    /// Strides of the output seen as `[b, heads, s, D]`.
    fn output(&self) -> Four {
        let row = self.output_row();
        [self.longest * row, self.dim, row, 1]
    }

    /// The same with the last two axes exchanged.
    fn transposed(&self, heads: i64) -> (Four, Four) {
        let s = self.packed(heads);
        (
            [self.batch, heads, self.dim, self.longest],
            [s[0], s[1], s[3], s[2]],
        )
    }

    /// Bytes that the backward engine keeps: the gradients of all scores, in bf16.
    pub(super) fn kept_scores(&self) -> usize {
        let s = (self.longest as usize).next_multiple_of(128);
        2 * (self.batch * self.heads) as usize * s * s
    }

    /// Elements of the statistics.
    pub(super) fn statistics(&self) -> usize {
        (self.batch * self.heads * self.longest) as usize
    }
}

/// Tensors that both graphs begin with.
struct Common {
    graph: Graph<Slot>,
    q: Node,
    kt: Node,
    lengths: Option<(Node, Node)>,
    query_offsets: Option<Node>,
    key_offsets: Option<Node>,
    output_offsets: Option<Node>,
}

impl Common {
    fn new(shape: &Shape) -> Result<Self> {
        let mut graph = Graph::new();
        let (mut query_offsets, mut key_offsets) = (None, None);
        let (mut output_offsets, mut lengths) = (None, None);
        if shape.ragged {
            let offsets = [shape.batch + 1, 1, 1, 1];
            query_offsets = Some(graph.io(I32, offsets, [1; 4], Slot::QueryOffsets, None)?);
            key_offsets = Some(graph.io(I32, offsets, [1; 4], Slot::KeyOffsets, None)?);
            output_offsets = match shape.in_row {
                true => Some(graph.io(I32, offsets, [1; 4], Slot::OutputOffsets, None)?),
                false => query_offsets,
            };
            let mut length = || graph.io(I32, [shape.batch, 1, 1, 1], [1; 4], Slot::Lengths, None);
            lengths = Some((length()?, length()?));
        }
        let q = graph.io(
            BF16,
            shape.queries(),
            shape.packed(shape.heads),
            Slot::Q,
            query_offsets,
        )?;
        let (dims, strides) = shape.transposed(shape.kv_heads);
        let kt = graph.io(BF16, dims, strides, Slot::K, key_offsets)?;
        Ok(Self {
            graph,
            q,
            kt,
            lengths,
            query_offsets,
            key_offsets,
            output_offsets,
        })
    }

    /// Lengths for the m, n and k of a product, where sequences differ.
    fn over(&self, pattern: [Option<Side>; 3]) -> [Option<Node>; 3] {
        let Some((queries, keys)) = self.lengths else {
            return [None; 3];
        };
        pattern.map(|side| {
            side.map(|side| match side {
                Side::Query => queries,
                Side::Key => keys,
            })
        })
    }

    /// Scaled scores with minus infinity outside of the sequence; the causal mask comes apart, because
    /// forward and backward graphs have it at different places.
    fn scores(&mut self, shape: &Shape) -> Result<Node> {
        let scale = self.graph.scalar(Slot::Scale)?;
        let x = self.graph.inner(F32, shape.scores())?;
        let over = self.over([Some(Side::Query), Some(Side::Key), None]);
        self.graph.matmul(&self.q, &self.kt, &x, over)?;
        let x = self
            .graph
            .pointwise(Mode::CUDNN_POINTWISE_MUL, &x, Some(&scale))?;
        let Some((queries, keys)) = self.lengths else {
            return Ok(x);
        };
        let g = &mut self.graph;
        let other = g.scalar(Slot::MinusInfinity)?;
        let (row, column) = (g.index(&x, 2, I32)?, g.index(&x, 3, I32)?);
        let rows = g.compare(Mode::CUDNN_POINTWISE_CMP_LT, &row, &queries)?;
        let columns = g.compare(Mode::CUDNN_POINTWISE_CMP_LT, &column, &keys)?;
        let inside = g.compare(Mode::CUDNN_POINTWISE_LOGICAL_AND, &rows, &columns)?;
        g.select(&x, &inside, &other)
    }

    fn causal(&mut self, shape: &Shape, x: Node) -> Result<Node> {
        if !shape.causal {
            return Ok(x);
        }
        let g = &mut self.graph;
        let other = g.scalar(Slot::MinusInfinity)?;
        let (row, column) = (g.index(&x, 2, F32)?, g.index(&x, 3, F32)?);
        let seen = g.compare(Mode::CUDNN_POINTWISE_CMP_GE, &row, &column)?;
        g.select(&x, &seen, &other)
    }
}

#[derive(Clone, Copy)]
enum Side {
    Query,
    Key,
}

/// Output and statistics from q, k and v.
pub(super) fn forward(handle: cudnnHandle_t, shape: &Shape) -> Result<Plan<Slot>> {
    let mut c = Common::new(shape)?;
    let v = c.graph.io(
        BF16,
        shape.keys(),
        shape.packed(shape.kv_heads),
        Slot::V,
        c.key_offsets,
    )?;
    let o = c.graph.io(
        BF16,
        shape.queries(),
        shape.output(),
        Slot::O,
        c.output_offsets,
    )?;
    let statistics = c.graph.io(
        F32,
        shape.rows(),
        shape.row_strides(),
        Slot::Statistics,
        None,
    )?;
    let x = c.scores(shape)?;
    let x = c.causal(shape, x)?;
    let g = &mut c.graph;
    let per_row =
        |g: &mut Graph<Slot>| g.inner_strided(F32, shape.rows(), shape.row_strides(), None);
    let largest = per_row(g)?;
    g.reduce(Reduction::CUDNN_REDUCE_TENSOR_MAX, &x, &largest)?;
    let x = g.pointwise(Mode::CUDNN_POINTWISE_SUB, &x, Some(&largest))?;
    let e = g.pointwise(Mode::CUDNN_POINTWISE_EXP, &x, None)?;
    let sum = per_row(g)?;
    g.reduce(Reduction::CUDNN_REDUCE_TENSOR_ADD, &e, &sum)?;
    let log = per_row(g)?;
    g.pointwise_to(Mode::CUDNN_POINTWISE_LOG, F32, None, &sum, None, None, &log)?;
    g.pointwise_to(
        Mode::CUDNN_POINTWISE_ADD,
        F32,
        None,
        &largest,
        Some(&log),
        None,
        &statistics,
    )?;
    let p = g.inner(BF16, shape.scores())?;
    g.pointwise_to(
        Mode::CUDNN_POINTWISE_DIV,
        F32,
        None,
        &e,
        Some(&sum),
        None,
        &p,
    )?;
    let over = c.over([Some(Side::Query), None, Some(Side::Key)]);
    c.graph.matmul(&p, &v, &o, over)?;
    c.graph.plan(handle)
}

/// Gradients of q, k and v.
pub(super) fn backward(handle: cudnnHandle_t, shape: &Shape) -> Result<Plan<Slot>> {
    let Shape {
        heads,
        longest,
        dim,
        ..
    } = *shape;
    let mut c = Common::new(shape)?;
    let (of_q, of_k) = (shape.packed(heads), shape.packed(shape.kv_heads));
    let (dims, strides) = shape.transposed(shape.kv_heads);
    let g = &mut c.graph;
    let vt = g.io(BF16, dims, strides, Slot::V, c.key_offsets)?;
    let (of_o, offsets) = (shape.output(), c.output_offsets);
    let o = g.io(BF16, shape.queries(), of_o, Slot::O, offsets)?;
    let d_o = g.io(BF16, shape.queries(), of_o, Slot::DO, offsets)?;
    let statistics = g.io(
        F32,
        shape.rows(),
        shape.row_strides(),
        Slot::Statistics,
        None,
    )?;
    let one = g.scalar(Slot::One)?;
    let dq = g.io(BF16, shape.queries(), of_q, Slot::DQ, c.query_offsets)?;
    let dk = g.io(BF16, shape.keys(), of_k, Slot::DK, c.key_offsets)?;
    let dv = g.io(BF16, shape.keys(), of_k, Slot::DV, c.key_offsets)?;
    let delta = g.io(F32, shape.rows(), shape.row_strides(), Slot::Delta, None)?;

    // delta = sum over d of o do
    let strides = [heads * longest * dim, longest * dim, heads * dim, 1];
    let x = g.inner_strided(F32, shape.queries(), strides, None)?;
    g.pointwise_to(
        Mode::CUDNN_POINTWISE_MUL,
        F32,
        None,
        &d_o,
        Some(&o),
        None,
        &x,
    )?;
    let sum = g.inner_strided(F32, shape.rows(), shape.row_strides(), None)?;
    g.reduce(Reduction::CUDNN_REDUCE_TENSOR_ADD, &x, &sum)?;
    g.pointwise_to(
        Mode::CUDNN_POINTWISE_MUL,
        F32,
        None,
        &sum,
        Some(&one),
        None,
        &delta,
    )?;

    // Probabilities again.
    let x = c.scores(shape)?;
    let x = c
        .graph
        .pointwise(Mode::CUDNN_POINTWISE_SUB, &x, Some(&statistics))?;
    let x = c.causal(shape, x)?;
    let p = c.graph.pointwise(Mode::CUDNN_POINTWISE_EXP, &x, None)?;
    let turned = [heads * longest * longest, longest * longest, 1, longest];
    let p_t = c.graph.inner_strided(BF16, shape.scores(), turned, None)?;
    c.graph.reshape(&p, &p_t)?;
    let by_key = c.over([Some(Side::Key), None, Some(Side::Query)]);
    product_over_group(&mut c.graph, shape, &p_t, &d_o, &dv, by_key)?;

    // ds = scale p (do v^T - delta)
    let x = c.graph.inner(F32, shape.scores())?;
    let over = c.over([Some(Side::Query), Some(Side::Key), None]);
    c.graph.matmul(&d_o, &vt, &x, over)?;
    let g = &mut c.graph;
    let x = g.pointwise(Mode::CUDNN_POINTWISE_SUB, &x, Some(&delta))?;
    let x = g.pointwise(Mode::CUDNN_POINTWISE_MUL, &x, Some(&p))?;
    let scale = g.scalar(Slot::Scale)?;
    let ds = g.pointwise(Mode::CUDNN_POINTWISE_MUL, &x, Some(&scale))?;
    let ds_t = g.inner_strided(BF16, shape.scores(), turned, None)?;
    g.reshape(&ds, &ds_t)?;
    let q = c.q;
    product_over_group(&mut c.graph, shape, &ds_t, &q, &dk, by_key)?;
    let k = c
        .graph
        .inner_strided(BF16, shape.keys(), of_k, c.key_offsets)?;
    c.graph.reshape(&c.kt, &k)?;
    let over = c.over([Some(Side::Query), None, Some(Side::Key)]);
    c.graph.matmul(&ds, &k, &dq, over)?;
    c.graph.plan(handle)
}

/// `out = a b`, summed over the query heads that share a key head.
fn product_over_group(
    g: &mut Graph<Slot>,
    shape: &Shape,
    a: &Node,
    b: &Node,
    out: &Node,
    over: [Option<Node>; 3],
) -> Result<()> {
    if shape.heads == shape.kv_heads {
        return g.matmul(a, b, out, over);
    }
    let all = g.inner(BF16, shape.queries())?;
    g.matmul(a, b, &all, over)?;
    g.reduce(Reduction::CUDNN_REDUCE_TENSOR_ADD, &all, out)
}
