//! Weights on disk: reading every published form, matching tensors to parameters, writing model folders.
//!
//! [`WeightFiles`] reads; [`match_parameters`] finds for each parameter of a configuration its tensor and
//! reports everything that does not fit in one message; [`FolderWriter`] writes a model folder that is
//! either complete or not there.

mod dtype;
mod error;
mod files;
pub(crate) mod int8;
mod load;
mod names;
mod pickle;
mod rewrite;
mod safetensors;
mod save;
mod storage;
mod torch;
mod zip;

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::{
    folders as parity_folders, samples as tests_support, shared as parity_shared,
};

pub use dtype::Dtype;
pub use error::{IndexError, WeightsError};
pub use files::WeightFiles;
pub use int8::Int8Error;
pub use load::{Located, Matched, Mismatches, Role, Source, adapters_present, match_parameters};
pub(crate) use names::{of_clip, of_convnext, of_model};
pub use pickle::PickleError;
pub(crate) use rewrite::{Piece, write_pieces};
pub use safetensors::SafetensorsError;
pub use save::{
    FolderWriter, SaveError, SaveOptions, TensorSink, TensorSpec, WeightFormat, write_projector,
    write_safetensors,
};
pub use torch::TorchError;
pub use zip::ZipError;

/// Name, element type and shape of a stored tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorEntry {
    /// Name as stored.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Shape, outermost first; empty for a scalar.
    pub shape: Vec<usize>,
}

impl TensorEntry {
    /// Number of elements; checked when the file was opened.
    pub fn numel(&self) -> usize {
        if self.shape.contains(&0) {
            0
        } else {
            self.shape.iter().product()
        }
    }
}
