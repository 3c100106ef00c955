//! Text side of the data path: records, tokenizers, conversation templates with label spans,
//! samplers, packing, importers and statistics.
//!
//! The crate reads files and numbers only. It knows nothing of tensors or models, and images pass
//! through it as paths (pixels are the business of `llavar-image`).
//!
//! # Tour
//!
//! 1. [`Dataset::open`] indexes a LLaVA JSON array, JSONL, Parquet or tar file in one streaming pass;
//!    [`Dataset::get`] fetches one checked [`Sample`].
//! 2. [`Tokenizer::from_folder`] loads `tokenizer.json` and `tokenizer_config.json`.
//! 3. [`Template::encode_sample`] renders the conversation and yields ids, labels and the token
//!    ranges of each question and answer in one go.
//! 4. [`sampler`] orders an epoch, [`packing`] joins samples into a token stream.
//!
//! # Example
//!
//! ```no_run
//! use llavar_data::{Dataset, MaskMode, Template, TemplateName, Tokenizer};
//! use std::path::Path;
//!
//! fn main() -> Result<(), llavar_data::Error> {
//!     let data = Dataset::open(Path::new("data.json"), Some(Path::new("images")))?;
//!     let tokenizer = Tokenizer::from_folder(Path::new("model"))?;
//!     let template = Template::new(TemplateName::V1);
//!     let encoded = template.encode_sample(&tokenizer, &data.get(0)?, MaskMode::Exact)?;
//!     assert_eq!(encoded.ids.len(), encoded.labels.len());
//!     Ok(())
//! }
//! ```
#![forbid(unsafe_code)]

pub mod dataset;
mod error;
pub mod image_folder;
pub mod import;
pub mod packing;
pub mod record;
pub mod remote;
pub mod sampler;
pub mod stats;
pub mod template;
pub mod tokenizer;
pub mod write;

pub use dataset::{Cache, Dataset, ImageSource};
pub use error::{EncodeError, Error, ImagePathError, Place, SampleError};
pub use image_folder::ImageFolder;
pub use record::{Role, Sample, SampleId, Turn};
pub use template::{Encoded, MaskMode, Message, Template, TemplateName, TurnSpan};
pub use tokenizer::Tokenizer;

/// Id that stands for one image in a token stream (`IMAGE_TOKEN_INDEX` of LLaVA).
pub const IMAGE_TOKEN_INDEX: i64 = -200;
/// Label of a position that does not count in the loss (`IGNORE_INDEX` of LLaVA).
pub const IGNORE_INDEX: i64 = -100;
/// The literal that marks an image in a conversation (`DEFAULT_IMAGE_TOKEN` of LLaVA).
pub const IMAGE_TAG: &str = "<image>";
