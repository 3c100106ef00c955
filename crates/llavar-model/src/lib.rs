//! The LLaVAR-2 model: configuration and weights as published folders carry them, the vision tower, the
//! projector, the language model and generation.
//!
//! This crate may call `llavar-tensor` and nothing else of the workspace.
//!
//! Start with [`LlavaModel`] and [`generation::generate`]; below them [`config::ModelConfig`],
//! [`weights::WeightFiles`] and [`weights::match_parameters`].
//!
//! ```no_run
//! use std::{ops::ControlFlow, path::Path};
//! use llavar_model::{LlavaModel, generation::{GenerationOptions, generate}};
//!
//! # fn main() -> llavar_model::Result<()> {
//! let model = LlavaModel::load(Path::new("a-model-folder"))?;
//! let options = GenerationOptions::from_config(&model.config, None);
//! let answer = generate(&model, &[1, 15043], None, &options, |_id| ControlFlow::Continue(()))?;
//! # Ok(()) }
//! ```

#![forbid(unsafe_code)]

mod checkpointing;
pub mod config;
mod error;
pub mod flops;
mod forward_order;
mod fp8;
pub mod generation;
mod glob;
mod init;
mod int8;
mod language_model;
mod layers;
pub mod lora;
pub mod memory;
mod mm_projector;
mod model;
mod parts;
mod vision_tower;
pub mod weights;

pub use checkpointing::Checkpointing;
pub use error::{ModelError, Result};
pub use fp8::{Fp8Weights, takes_fp8};
pub use glob::glob;
pub use int8::{Int8Report, quantize_folder};
pub use language_model::{KvCache, LanguageModel, SharedPrefixes};
pub use mm_projector::MmProjector;
pub use model::{LlavaModel, expand_image_tokens};
pub use parts::{Parts, PartsReport};
pub use vision_tower::{Observer, TowerFeatures, VisionTower, has_layer_scale};
