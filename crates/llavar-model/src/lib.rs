//! The LLaVAR-2 model: configuration and weights as published folders carry them, the vision tower, the
//! projector, the language model and generation.
//!
//! This crate may call `llavar-tensor` and nothing else of the workspace.
//!
//! Start with [`config::ModelConfig::read`], [`weights::WeightFiles::open`] and
//! [`weights::match_parameters`].

#![forbid(unsafe_code)]

pub mod config;
pub mod weights;
