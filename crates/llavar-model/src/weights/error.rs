//! Why weight files cannot be read.

use std::{io, path::PathBuf};

use thiserror::Error;

use super::{
    int8::Int8Error, load::Mismatches, pickle::PickleError, safetensors::SafetensorsError,
    torch::TorchError, zip::ZipError,
};

/// Failure to read weights. Every message names the file.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// The system could not read a file or folder.
    #[error("cannot read {path}: {source}", path = path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The folder holds no weight file.
    #[error(
        "{path} holds no weights: expected model.safetensors, model.safetensors.index.json, \
         pytorch_model.bin or pytorch_model.bin.index.json",
        path = path.display()
    )]
    NoWeights {
        /// The folder.
        path: PathBuf,
    },
    /// The folder holds several weight files without an index.
    #[error(
        "{path} holds several weight files and no index, give one of them: {list}",
        path = path.display(),
        list = found.join(", ")
    )]
    Ambiguous {
        /// The folder.
        path: PathBuf,
        /// Their names.
        found: Vec<String>,
    },
    /// The file is empty.
    #[error("{path} has 0 bytes, the download or copy did not finish", path = path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The file is a Git LFS pointer.
    #[error("{path} is a Git LFS pointer and not the weights, run `git lfs pull` there", path = path.display())]
    LfsPointer {
        /// The file.
        path: PathBuf,
    },
    /// A broken safetensors file.
    #[error("{path} is not a usable safetensors file: {problem}", path = path.display())]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: SafetensorsError,
    },
    /// A broken zip archive.
    #[error("{path} is not a usable PyTorch archive: {problem}", path = path.display())]
    Zip {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: ZipError,
    },
    /// A pickle that is broken or asks for more than data.
    #[error("{path} holds a pickle that is not read: {problem}", path = path.display())]
    Pickle {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: PickleError,
    },
    /// A PyTorch file whose parts do not fit together.
    #[error("{path} is not a usable PyTorch file: {problem}", path = path.display())]
    Torch {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: TorchError,
    },
    /// A broken index file.
    #[error("{path} is not a usable weight index: {problem}", path = path.display())]
    Index {
        /// The index.
        path: PathBuf,
        /// What is wrong.
        problem: IndexError,
    },
    /// 8-bit weights whose scales do not fit.
    #[error("{path}: the 8-bit weight `{weight}` cannot be used: {problem}", path = path.display())]
    Int8 {
        /// The file or folder.
        path: PathBuf,
        /// The tensor of codes.
        weight: String,
        /// What is wrong.
        problem: Int8Error,
    },
    /// A tensor was asked for that the files do not have.
    #[error("{path} has no tensor `{name}`", path = path.display())]
    NoTensor {
        /// The file or folder.
        path: PathBuf,
        /// The name asked for.
        name: String,
    },
    /// A buffer of the wrong length was given.
    #[error("{path}: tensor `{name}` has {expected} elements, the buffer has {got}", path = path.display())]
    BufferLength {
        /// The file or folder.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Elements of the tensor.
        expected: usize,
        /// Elements of the buffer.
        got: usize,
    },
    /// The tensors are not those the configuration asks for; all are named.
    #[error("{0}")]
    Mismatch(Box<Mismatches>),
}

/// What is wrong with an index of sharded weights.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum IndexError {
    /// Not JSON of the expected form.
    #[error("expected an object with `weight_map`, a map from tensor to file: {source}")]
    Json {
        /// Line, column and reason.
        source: serde_json::Error,
    },
    /// The index is larger than any index of a real model.
    #[error("it has {bytes} bytes, at most {limit} are read")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// It names no file.
    #[error("its `weight_map` is empty")]
    Empty,
    /// A shard's name is not a plain file name.
    #[error("the shard `{shard}` of tensor `{tensor}` is not a file name in the same folder")]
    Outside {
        /// The tensor.
        tensor: String,
        /// The shard.
        shard: String,
    },
    /// Shards are missing.
    #[error("{count} shard(s) are missing: {list}", count = shards.len(), list = shards.join(", "))]
    MissingShards {
        /// Their names.
        shards: Vec<String>,
    },
    /// Tensors are not in the shard that the index says.
    #[error(
        "{count} tensor(s) are not in the shard that it names: {list}",
        count = tensors.len(),
        list = tensors.join(", ")
    )]
    MissingTensors {
        /// `tensor (shard)` for each.
        tensors: Vec<String>,
    },
    /// Two shards hold the same tensor.
    #[error("tensor `{tensor}` is in two shards, {first} and {second}")]
    Twice {
        /// The tensor.
        tensor: String,
        /// One shard.
        first: String,
        /// The other.
        second: String,
    },
}
