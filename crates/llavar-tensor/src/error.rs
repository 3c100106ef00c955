//! Typed errors of the engine.

use crate::DType;

/// What went wrong inside an operation. Every variant names the operation.
#[derive(Debug, thiserror::Error, Clone, PartialEq)]
#[non_exhaustive]
pub enum Error {
    /// Two shapes do not fit together.
    #[error("{op}: expected shape {expected}, got {got:?}")]
    ShapeMismatch {
        /// The operation.
        op: &'static str,
        /// What it needs, in the notation of its documentation.
        expected: String,
        /// What it was given.
        got: Vec<usize>,
    },
    /// A tensor has another element type than the operation takes.
    #[error("{op}: expected dtype {expected}, got {got}")]
    DTypeMismatch {
        /// The operation.
        op: &'static str,
        /// What it needs.
        expected: DType,
        /// What it was given.
        got: DType,
    },
    /// An index (token id, position, row) lies outside its table.
    #[error("{op}: index {index} is outside 0..{len}")]
    IndexOutOfRange {
        /// The operation.
        op: &'static str,
        /// The offending index.
        index: i64,
        /// Length of the table.
        len: usize,
    },
    /// An argument other than a shape is impossible.
    #[error("{op}: {reason}")]
    InvalidArgument {
        /// The operation.
        op: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// Operands live on different devices, or on one that the operation cannot use.
    #[error("{op}: a tensor on {expected} is needed, got one on {got}")]
    DeviceMismatch {
        /// The operation.
        op: &'static str,
        /// Where it should live.
        expected: String,
        /// Where it lives.
        got: String,
    },
    /// A GPU cannot be used.
    #[error("no GPU can be used: {reason}")]
    NoDevice {
        /// Which driver, library or card is missing, and where it comes from.
        reason: String,
    },
    /// A GPU has not enough memory for a tensor.
    #[error(
        "{device} is out of memory: {requested} bytes more were needed, {in_use} of {total} bytes are in use \
         by tensors"
    )]
    OutOfMemory {
        /// The GPU.
        device: String,
        /// Bytes asked for.
        requested: usize,
        /// Bytes that tensors of this process hold on it.
        in_use: usize,
        /// Bytes it has.
        total: usize,
    },
    /// A CUDA library reported an error.
    #[error("{op}: {reason}")]
    Cuda {
        /// What was being done.
        op: &'static str,
        /// The library's words.
        reason: String,
    },
    /// An operation between processes failed, or they cannot come together.
    #[error("{op}: {reason}")]
    Collective {
        /// What was being done.
        op: &'static str,
        /// What was wrong, in the library's words where it has some.
        reason: String,
    },
    /// Another process of the run is gone, so that the run cannot go on.
    #[error("rank {rank} ({host}) is lost: {reason}")]
    RankLost {
        /// Its number.
        rank: usize,
        /// Its machine and process.
        host: String,
        /// How that was noticed, or what it said last.
        reason: String,
    },
    /// A gradient was asked of something that the tape did not record.
    #[error("{op}: the value was not recorded on this tape")]
    NotRecorded {
        /// The operation.
        op: &'static str,
    },
}

/// Result of an engine operation.
pub type Result<T> = std::result::Result<T, Error>;

/// Returns a [`Error::ShapeMismatch`] unless `ok`.
pub(crate) fn ensure_shape(
    op: &'static str,
    ok: bool,
    expected: impl FnOnce() -> String,
    got: &[usize],
) -> Result<()> {
    if ok {
        return Ok(());
    }
    Err(Error::ShapeMismatch {
        op,
        expected: expected(),
        got: got.to_vec(),
    })
}
