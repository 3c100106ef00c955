//! Failures of the model as a whole.

use thiserror::Error;

use crate::{
    config::ConfigError,
    weights::{SaveError, WeightsError},
};

/// Why a model cannot be loaded, built or run.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Weight files cannot be read or do not fit the configuration.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A model folder cannot be written.
    #[error(transparent)]
    Save(#[from] SaveError),
    /// An operation refused its inputs.
    #[error(transparent)]
    Tensor(#[from] llavar_tensor::Error),
    /// A module asked for a parameter that the list of the configuration does not hold.
    #[error("the parameter `{name}` is not in the model's list, the list and the modules disagree")]
    MissingParameter {
        /// Published name.
        name: String,
    },
    /// An adapter was asked for on a layer that is not there.
    #[error(transparent)]
    LoraTarget(#[from] crate::lora::TargetError),
    /// An adapter folder cannot be used.
    #[error("the adapter in {path} cannot be used: {reason}", path = path.display())]
    Adapter {
        /// The folder.
        path: std::path::PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file or folder that a model is to be put together from is not what it is given as.
    #[error("{path} cannot be used as {what}: {reason}", path = path.display())]
    Part {
        /// The file or folder.
        path: std::path::PathBuf,
        /// What it is given as.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A configuration asks for weights of few bits in a form that is not known.
    #[error(
        "quantization_config = {found}: only load_in_4bit with bnb_4bit_quant_type \"nf4\" is known here"
    )]
    Quantization {
        /// What it says.
        found: String,
    },
    /// A weight that has no scale.
    #[error("the weight `{name}` holds a value that is not finite and cannot be stored in 8 bits")]
    NotFinite {
        /// Published name.
        name: String,
    },
    /// Pictures were given to a plain language model.
    #[error(
        "this model has no vision tower and cannot take pictures, leave them out or use another model"
    )]
    NoVisionTower,
    /// The pixels are not a batch of the tower's input size.
    #[error("expected pixels of shape [pictures, {size}, {size}, 3], got {got:?}")]
    PixelShape {
        /// Side of the tower's input.
        size: usize,
        /// Shape given.
        got: Vec<usize>,
    },
    /// The text does not have the positions that its pictures need.
    #[error(
        "the text has {got} image positions, its pictures need {expected}: give each picture \
         {tokens_per_image} negative ids"
    )]
    ImagePositions {
        /// Positions needed.
        expected: usize,
        /// Negative ids in the text.
        got: usize,
        /// Positions of one picture.
        tokens_per_image: usize,
    },
    /// Ids, labels and segments do not have the same number of tokens.
    #[error("{what}: expected {expected} tokens as in the ids, got {got}")]
    TokenCount {
        /// What has another length.
        what: &'static str,
        /// Number of ids.
        expected: usize,
        /// Its length.
        got: usize,
    },
    /// A prompt without a single token.
    #[error("the prompt is empty, give at least the id that begins a text")]
    EmptyPrompt,
    /// The prompt leaves no room for an answer.
    #[error(
        "the prompt has {prompt} tokens (pictures included) and the model's context {context}: shorten \
         the text or use fewer pictures"
    )]
    PromptTooLong {
        /// Tokens of the prompt.
        prompt: usize,
        /// The longest sequence the model is meant for.
        context: usize,
    },
    /// A generation option has an impossible value.
    #[error("generation option {option} = {value}: must be {allowed}")]
    GenerationOption {
        /// Name of the option.
        option: &'static str,
        /// The value given.
        value: String,
        /// What is allowed.
        allowed: &'static str,
    },
}

/// Result of a model operation.
pub type Result<T> = std::result::Result<T, ModelError>;
