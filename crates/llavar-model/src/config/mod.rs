//! Model configuration as published folders carry it: one `config.json`, typed views of it, and the
//! original object, so that unknown keys are written back where they were.

mod clip;
mod convnext;
mod error;
mod fields;
mod generation;
mod llm;
mod parameters;
mod pathways;
mod presets;
mod projector;
mod vision;

#[cfg(test)]
mod tests;

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};

pub use clip::{ClipActivation, ClipConfig};
pub use convnext::ConvNextConfig;
pub use error::{ConfigError, Problem};
pub use generation::GenerationConfig;
pub use llm::{LlmConfig, LlmFamily, RopeScaling};
pub use parameters::{Parameter, parameters, projector_parameters};
pub use pathways::Pathways;
pub(crate) use presets::vision_keys;
pub use presets::{PRESETS, Preset};
pub use projector::{ProjectorConfig, ProjectorKind};
pub use vision::{FeatureSelect, MAX_IMAGE_SIZE, SLOW_STRIDE, VisionConfig, VisionTower};

use fields::{Fields, Problems};

/// A configuration file is a few kilobytes; the limit only keeps a wrong file from filling memory.
const MAX_CONFIG_BYTES: u64 = 16 << 20;

/// How a picture that is not square is made square, `image_aspect_ratio`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageAspectRatio {
    /// Pad the shorter side with the mean colour (`pad`).
    Pad,
    /// Cut off the empty border and stretch the shorter side at most twice, then as `pad` (`fit`; not of the
    /// reference).
    Fit,
    /// Resize both sides to the same length (`square`, `resize` or absent).
    Square,
}

/// A whole model's configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// The language model.
    pub llm: LlmConfig,
    /// The vision tower; `None` for a plain language model.
    pub vision: Option<VisionConfig>,
    /// The projector; present exactly when the vision tower is.
    pub projector: Option<ProjectorConfig>,
    /// How pictures are made square.
    pub image_aspect_ratio: ImageAspectRatio,
    /// Longest sequence in training, tokens (`tokenizer_model_max_length`).
    pub tokenizer_model_max_length: Option<usize>,
    /// Longest context in serving, tokens (`max_sequence_length`).
    pub max_sequence_length: Option<usize>,
    /// Side on which other programs pad (`tokenizer_padding_side`); packed batches need none.
    pub tokenizer_padding_side: Option<String>,
    raw: Map<String, Value>,
}

impl ModelConfig {
    /// Reads `config.json` of a model folder (or the file itself when `path` is one).
    ///
    /// # Errors
    /// [`ConfigError::Read`], [`ConfigError::Json`], or [`ConfigError::Invalid`] with all problems.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let path = if path.is_dir() {
            path.join("config.json")
        } else {
            path.to_owned()
        };
        Self::from_map(&path, read_object(&path)?)
    }

    /// Takes a JSON text; `name` stands for the file in messages.
    ///
    /// # Errors
    /// As [`ModelConfig::read`].
    pub fn from_json(name: &str, text: &str) -> Result<Self, ConfigError> {
        let path = PathBuf::from(name);
        let map = serde_json::from_str(text).map_err(|source| ConfigError::Json {
            path: path.clone(),
            source,
        })?;
        Self::from_map(&path, map)
    }

    /// Takes a JSON object; `path` stands for it in messages.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] with all problems.
    pub fn from_map(path: &Path, raw: Map<String, Value>) -> Result<Self, ConfigError> {
        let mut problems = Problems::default();
        let config = Self::view(raw, &mut problems);
        if problems.0.is_empty() {
            Ok(config)
        } else {
            Err(ConfigError::Invalid {
                path: path.to_owned(),
                problems: problems.0,
            })
        }
    }

    fn view(raw: Map<String, Value>, problems: &mut Problems) -> Self {
        let fields = Fields::new(&raw, "");
        let (family, may_see) = dispatch(&fields, problems);
        let llm = LlmConfig::read(family, &raw, problems);
        let vision = if may_see {
            VisionConfig::read(&raw, problems)
        } else {
            None
        };
        let projector = vision.as_ref().map(|vision| {
            ProjectorConfig::read(&fields, vision.feature_size(), llm.hidden_size, problems)
        });
        let image_aspect_ratio = match fields.string("image_aspect_ratio", problems) {
            Some("pad") => ImageAspectRatio::Pad,
            Some("fit") => ImageAspectRatio::Fit,
            None | Some("square" | "resize") => ImageAspectRatio::Square,
            Some(other) => {
                problems.add(
                    "image_aspect_ratio",
                    format!("\"{other}\""),
                    "\"pad\", \"fit\" or \"square\"",
                );
                ImageAspectRatio::Pad
            }
        };
        let limit = |key: &str, problems: &mut Problems| {
            // Tokenizer files write "no limit" as a number near 1e30.
            let unlimited = fields
                .get(key)
                .and_then(Value::as_f64)
                .is_some_and(|x| x > 1e9);
            (fields.get(key).is_some() && !unlimited)
                .then(|| fields.size_below(key, None, 1 << 24, problems))
        };
        Self {
            llm,
            vision,
            projector,
            image_aspect_ratio,
            tokenizer_model_max_length: limit("tokenizer_model_max_length", problems),
            max_sequence_length: limit("max_sequence_length", problems),
            tokenizer_padding_side: fields
                .string("tokenizer_padding_side", problems)
                .map(str::to_owned),
            raw,
        }
    }

    /// The object as read, unknown keys included, in the order of the file.
    pub fn as_json(&self) -> &Map<String, Value> {
        &self.raw
    }

    /// The same configuration with some keys changed (or appended) and checked again as a whole.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] when the changed object contradicts itself.
    pub fn with(
        &self,
        changes: impl IntoIterator<Item = (String, Value)>,
    ) -> Result<Self, ConfigError> {
        let mut raw = self.raw.clone();
        raw.extend(changes);
        Self::from_map(Path::new("config.json"), raw)
    }

    /// The same configuration without a key that this crate does not read.
    pub fn without(&self, key: &str) -> Self {
        let mut config = self.clone();
        config.raw.remove(key);
        config
    }

    /// Positions of one picture in the text; `None` for a plain language model.
    pub fn image_tokens(&self) -> Option<usize> {
        self.vision.as_ref().map(VisionConfig::image_tokens)
    }
}

/// The family and whether the type can have a vision tower, from `model_type`, or where that is absent
/// from `architectures`.
fn dispatch(fields: &Fields<'_>, problems: &mut Problems) -> (LlmFamily, bool) {
    let allowed =
        "\"llava\", \"llava_llama\", \"llava_phi\", \"llava_phi3\", \"llama\" or \"phi3\"";
    match fields.string("model_type", problems) {
        Some("llava" | "llava_llama") => (LlmFamily::Llama, true),
        Some("llava_phi" | "llava_phi3") => (LlmFamily::Phi3, true),
        Some("llama") => (LlmFamily::Llama, false),
        Some("phi3") => (LlmFamily::Phi3, false),
        Some(other) => {
            problems.add("model_type", format!("\"{other}\""), allowed);
            (LlmFamily::Llama, false)
        }
        None => {
            let architecture = fields
                .get("architectures")
                .and_then(Value::as_array)
                .and_then(|list| list.first())
                .and_then(Value::as_str)
                .unwrap_or_default();
            let sees = architecture.starts_with("Llava");
            if architecture.contains("Phi") {
                (LlmFamily::Phi3, sees)
            } else if architecture.contains("Llama") {
                (LlmFamily::Llama, sees)
            } else {
                problems.add("model_type", "missing", allowed);
                (LlmFamily::Llama, false)
            }
        }
    }
}

/// Reads a JSON object of bounded size.
pub(crate) fn read_object(path: &Path) -> Result<Map<String, Value>, ConfigError> {
    let read_error = |source| ConfigError::Read {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(read_error)?;
    let bytes = file.metadata().map_err(read_error)?.len();
    if bytes > MAX_CONFIG_BYTES {
        return Err(ConfigError::TooLarge {
            path: path.to_owned(),
            bytes,
            limit: MAX_CONFIG_BYTES,
        });
    }
    let mut text = Vec::new();
    // The limit also holds for what is not a regular file and has no honest length.
    file.take(MAX_CONFIG_BYTES)
        .read_to_end(&mut text)
        .map_err(read_error)?;
    serde_json::from_slice(&text).map_err(|source| ConfigError::Json {
        path: path.to_owned(),
        source,
    })
}
