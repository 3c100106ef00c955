//! Failures of asking.

/// Why a question could not be answered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The model cannot be loaded or refused its input.
    #[error(transparent)]
    Model(#[from] llavar_model::ModelError),
    /// The tokenizer files cannot be used.
    #[error(transparent)]
    Data(#[from] llavar_data::Error),
    /// A picture cannot be read.
    #[error(transparent)]
    Image(#[from] llavar_image::ImageError),
    /// A text cannot be turned into ids or back.
    #[error("the conversation cannot be encoded")]
    Encode(#[source] llavar_data::EncodeError),
    /// An operation failed.
    #[error(transparent)]
    Tensor(#[from] llavar_tensor::Error),
}
