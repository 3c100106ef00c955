//! Mask arithmetic, and copies between strided heads and contiguous blocks.

use std::{cell::RefCell, marker::PhantomData, ops::Range};

use super::AttentionSpec;

/// One sample: its tokens in both streams and its mask.
#[derive(Debug, Clone)]
pub(crate) struct Segment {
    /// Tokens of the query stream.
    pub(crate) q: Range<usize>,
    /// Tokens of the key stream.
    pub(crate) k: Range<usize>,
    causal: bool,
    window: Option<usize>,
}

impl Segment {
    /// Causal: the last queries and keys of the two ranges stand at the same position.
    pub(crate) fn causal(q: Range<usize>, k: Range<usize>, window: Option<usize>) -> Self {
        let causal = true;
        Self {
            q,
            k,
            causal,
            window,
        }
    }

    /// Keys (counted from the segment's first) that its query `i` sees.
    #[inline(always)]
    pub(crate) fn keys_of(&self, i: usize) -> Range<usize> {
        let (n, m) = (self.q.len(), self.k.len());
        if !self.causal {
            return 0..m;
        }
        // Position plus one; 0 for a query before the first key.
        let end = (m + i + 1).saturating_sub(n);
        let start = self
            .window
            .map_or(0, |w| end.saturating_sub(w.saturating_add(1)));
        start..end
    }

    /// Whether a query sees no later key.
    pub(crate) fn is_causal(&self) -> bool {
        self.causal
    }

    /// Whether a window hides keys that the mask alone would show.
    pub(crate) fn has_window(&self) -> bool {
        self.window
            .is_some_and(|w| w.saturating_add(1) < self.k.len())
    }

    /// Queries (counted from the segment's first) that see its key `j`: one run, since both ends of
    /// [`Self::keys_of`] grow with the query.
    fn queries_of(&self, j: usize) -> Range<usize> {
        let (n, m) = (self.q.len(), self.k.len());
        if !self.causal {
            return 0..n;
        }
        // Query i sees keys up to position m - n + i.
        let first = (j + n).saturating_sub(m).min(n);
        let last = self.window.map_or(n, |w| {
            (j.saturating_add(w).saturating_add(1) + n)
                .saturating_sub(m)
                .min(n)
        });
        first..last.max(first)
    }

    /// The part of a block of keys that query `i` sees, counted in the block.
    #[inline(always)]
    pub(crate) fn keys_in(&self, i: usize, block: Range<usize>) -> (usize, usize) {
        let seen = self.keys_of(i);
        let start = seen.start.clamp(block.start, block.end) - block.start;
        let end = seen.end.clamp(block.start, block.end) - block.start;
        (start.min(end), end)
    }

    /// Keys that any of the queries in a range sees: both ends of [`Self::keys_of`] grow with `i`.
    pub(crate) fn keys_of_any(&self, queries: Range<usize>) -> Range<usize> {
        if queries.is_empty() {
            return 0..0;
        }
        self.keys_of(queries.start).start..self.keys_of(queries.end - 1).end
    }
}

/// Segments of a checked specification.
fn segments(spec: &AttentionSpec) -> Vec<Segment> {
    let (q, k) = (spec.q_segments.ranges(), spec.k_segments.ranges());
    q.zip(k)
        .map(|(q, k)| Segment {
            q,
            k,
            causal: spec.causal,
            window: spec.window,
        })
        .collect()
}

/// Checked sizes of one call.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) dim: usize,
    pub(crate) scale: f32,
    pub(crate) segments: Vec<Segment>,
}

impl Problem {
    /// The problem of a checked specification.
    pub(crate) fn of(spec: &AttentionSpec, heads: usize, kv_heads: usize, dim: usize) -> Self {
        Self {
            heads,
            kv_heads,
            dim,
            scale: spec.scale,
            segments: segments(spec),
        }
    }

    /// Query heads that share a key head.
    pub(crate) fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Whether queries see no later key.
    pub(crate) fn is_causal(&self) -> bool {
        self.segments.iter().any(Segment::is_causal)
    }

    /// Tokens of the query stream.
    pub(crate) fn queries(&self) -> usize {
        self.segments.last().map_or(0, |s| s.q.end)
    }

    /// Tokens of the key stream.
    pub(crate) fn keys(&self) -> usize {
        self.segments.last().map_or(0, |s| s.k.end)
    }

    /// First and end of the keys that every query sees, `[T, 2]`.
    pub(crate) fn seen_keys(&self) -> Vec<i32> {
        let runs = self.segments.iter().flat_map(|s| {
            (0..s.q.len()).map(|i| {
                let seen = s.keys_of(i);
                [seen.start + s.k.start, seen.end.max(seen.start) + s.k.start]
            })
        });
        runs.flatten().map(|n| n as i32).collect()
    }

    /// First and end of the queries that see every key, `[S, 2]`.
    pub(crate) fn seeing_queries(&self) -> Vec<i32> {
        let runs = self.segments.iter().flat_map(|s| {
            (0..s.k.len()).map(|j| {
                let seeing = s.queries_of(j);
                [seeing.start + s.q.start, seeing.end + s.q.start]
            })
        });
        runs.flatten().map(|n| n as i32).collect()
    }

    /// Whether no segment has more than one query.
    pub(crate) fn is_decoding(&self) -> bool {
        self.segments.iter().all(|s| s.q.len() <= 1)
    }
}

/// Copies head `head` of `tokens` of a `[T, heads, dim]` tensor into contiguous rows, times `scale`.
#[inline(always)]
pub(super) fn gather(
    x: &[f32],
    (heads, dim): (usize, usize),
    head: usize,
    tokens: Range<usize>,
    scale: f32,
    to: &mut [f32],
) {
    for (t, to) in tokens.zip(to.chunks_exact_mut(dim)) {
        let row = &x[(t * heads + head) * dim..][..dim];
        to.iter_mut().zip(row).for_each(|(to, x)| *to = scale * x);
    }
}

/// As [`gather`], transposed: `[dim, stride]` with one column a token.
#[inline(always)]
pub(super) fn gather_transposed(
    x: &[f32],
    (heads, dim): (usize, usize),
    head: usize,
    tokens: Range<usize>,
    stride: usize,
    to: &mut [f32],
) {
    // Eight tokens at a time, so that every cache line written is written eight-fold at once.
    let (first, end) = (tokens.start, tokens.end);
    for start in tokens.step_by(8) {
        for d in 0..dim {
            for t in start..(start + 8).min(end) {
                to[d * stride + t - first] = x[(t * heads + head) * dim + d];
            }
        }
    }
}

/// A tensor of rows that parallel tasks write, each its own rows.
#[derive(Clone, Copy)]
pub(super) struct SharedRows<'a> {
    data: *mut f32,
    rows: usize,
    width: usize,
    owner: PhantomData<&'a mut [f32]>,
}

// SAFETY: rows are handed out under the contract of `row`, so threads never touch the same element.
unsafe impl Send for SharedRows<'_> {}
// SAFETY: as above.
unsafe impl Sync for SharedRows<'_> {}

impl<'a> SharedRows<'a> {
    pub(super) fn new(data: &'a mut [f32], width: usize) -> Self {
        Self {
            rows: data.len() / width.max(1),
            data: data.as_mut_ptr(),
            width,
            owner: PhantomData,
        }
    }

    /// Row `index` for writing.
    ///
    /// # Safety
    /// No other reference to this row may live at the same time.
    #[allow(clippy::mut_from_ref, reason = "disjoint rows, see the contract")]
    pub(super) unsafe fn row(&self, index: usize) -> &mut [f32] {
        assert!(index < self.rows, "row outside the tensor");
        // SAFETY: inside the slice given to `new`, which is borrowed exclusively for 'a; the caller
        // vouches for the row.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(index * self.width), self.width) }
    }
}

/// Calls `f` with this thread's scratch memory of `len` floats of unspecified content.
pub(super) fn with_scratch<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    thread_local! {
        static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    }
    // Taken out while in use, so that a nested call would find an empty vector, not a locked one.
    let mut scratch = SCRATCH.take();
    if scratch.len() < len {
        scratch.resize(len, 0.0);
    }
    let result = f(&mut scratch[..len]);
    SCRATCH.set(scratch);
    result
}

/// Cuts the first `len` floats off `rest`.
pub(super) fn cut<'a>(rest: &mut &'a mut [f32], len: usize) -> &'a mut [f32] {
    let (head, tail) = std::mem::take(rest).split_at_mut(len);
    *rest = tail;
    head
}
