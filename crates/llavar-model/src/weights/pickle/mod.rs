//! A pickle reader that executes nothing.
//!
//! A pickle is a program for a stack machine. This one knows the opcodes that build data, and a short
//! list of globals that PyTorch needs to describe tensors ([`globals`]); those become plain nodes
//! of an arena. Any other global is an error that names it, and no opcode calls anything.
//!
//! Memory is bounded by the pickle's length: each opcode makes at most one node, strings are slices of the
//! input, and shared nodes are never copied, so a "billion laughs" stays as small as it is on disk.
//!
//! # Source
//! Opcodes: `Lib/pickletools.py` of CPython. Tensors: `torch/_utils.py`, `torch/serialization.py`.

mod globals;
mod machine;
mod rebuild;
#[cfg(test)]
mod tests;

use thiserror::Error;

pub(crate) use globals::{Global, StorageType};
pub(crate) use machine::{Pickle, load};

/// Index of a node in the arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Id(u32);

/// A value of the pickle; `'a` is the input.
#[derive(Debug, Clone)]
pub(crate) enum Node<'a> {
    /// Something that carries no tensor and is not looked at (floats, sets, bytes, hooks).
    Opaque,
    None,
    Bool(bool),
    Int(i64),
    /// An integer of more than 64 bits, little-endian (the legacy format's magic number).
    BigInt(&'a [u8]),
    Str(&'a str),
    List(Vec<Id>),
    Tuple(Box<[Id]>),
    Dict(Vec<(Id, Id)>),
    Global(Global),
    /// A storage that lies outside the pickle.
    Storage(Box<StorageRef<'a>>),
    Tensor(Box<TensorRef<'a>>),
}

/// What a persistent id says about a storage.
#[derive(Debug, Clone)]
pub(crate) struct StorageRef<'a> {
    pub(crate) kind: StorageType,
    pub(crate) key: &'a str,
    /// Elements (bytes for an untyped storage).
    pub(crate) numel: usize,
    /// First element and number of elements of a view of it (old legacy files).
    pub(crate) view: Option<(usize, usize)>,
}

/// A tensor as a view of a storage.
#[derive(Debug, Clone)]
pub(crate) struct TensorRef<'a> {
    pub(crate) storage: StorageRef<'a>,
    /// Overrides the storage's own type (untyped storages).
    pub(crate) dtype: Option<super::Dtype>,
    pub(crate) offset: usize,
    pub(crate) shape: Vec<usize>,
    pub(crate) strides: Vec<usize>,
}

/// What is wrong with a pickle. `at` is the byte within the pickle.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PickleError {
    /// A global that is not on the list.
    #[error(
        "it asks for the global `{module}.{name}` (byte {at}), which is not plain tensor data; nothing was \
         executed. save the file again as a state dict of tensors, best as safetensors"
    )]
    Global {
        /// Module as written.
        module: String,
        /// Name as written.
        name: String,
        /// Offset.
        at: usize,
    },
    /// The input ends within an opcode or before STOP.
    #[error("it ends at byte {at} in the middle, the download or copy did not finish")]
    Truncated {
        /// Offset.
        at: usize,
    },
    /// An opcode that this reader does not know or refuses.
    #[error("it has the opcode 0x{opcode:02x} at byte {at}, which is not needed for tensor data")]
    Opcode {
        /// The opcode.
        opcode: u8,
        /// Offset.
        at: usize,
    },
    /// An opcode finds other operands than it needs.
    #[error("it is damaged at byte {at}: {what}")]
    Damaged {
        /// Offset.
        at: usize,
        /// What was expected.
        what: &'static str,
    },
    /// Larger than any pickle of a real model.
    #[error("it has {bytes} bytes besides the tensors, at most {limit} are read")]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// A tensor is described in a way that is not known (quantised, sparse, on `meta`).
    #[error("it describes a tensor by `{how}` (byte {at}), which is not a plain dense tensor")]
    TensorKind {
        /// The function that would build it.
        how: &'static str,
        /// Offset.
        at: usize,
    },
}
