//! `generation_config.json`: how answers are sampled by default and which ids end them.

use std::path::Path;

use serde_json::{Map, Value};

use super::{
    ConfigError, LlmConfig,
    fields::{Fields, Problems},
    read_object,
};

/// Defaults for generation; every value is `None` where the file does not give it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GenerationConfig {
    /// Id that begins a text.
    pub bos_token_id: Option<u32>,
    /// Ids that end an answer.
    pub eos_token_ids: Vec<u32>,
    /// Padding id.
    pub pad_token_id: Option<u32>,
    /// Whether to sample instead of taking the most likely id.
    pub do_sample: Option<bool>,
    /// Softmax temperature; 0 is the most likely id.
    pub temperature: Option<f64>,
    /// Nucleus mass, above 0.
    pub top_p: Option<f64>,
    /// Number of most likely ids kept.
    pub top_k: Option<usize>,
    /// Beams.
    pub num_beams: Option<usize>,
    /// Power of an answer's length by which the sum of its log-probabilities is divided.
    pub length_penalty: Option<f64>,
    /// Penalty on ids that occurred.
    pub repetition_penalty: Option<f64>,
    /// Longest answer, tokens.
    pub max_new_tokens: Option<usize>,
    raw: Map<String, Value>,
}

impl GenerationConfig {
    /// Reads `folder/generation_config.json`; `Ok(None)` when there is none.
    ///
    /// # Errors
    /// [`ConfigError`] when the file exists and cannot be read, is no JSON object, or has values of the
    /// wrong type (all are listed).
    pub fn read(folder: &Path) -> Result<Option<Self>, ConfigError> {
        let path = folder.join("generation_config.json");
        match read_object(&path) {
            Ok(map) => Self::from_map(&path, map).map(Some),
            Err(ConfigError::Read { source, .. })
                if source.kind() == std::io::ErrorKind::NotFound =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// What follows from the model's own configuration when the folder has no generation file.
    pub fn from_model(llm: &LlmConfig) -> Self {
        let eos = match llm.eos_token_ids.as_slice() {
            [] => Value::Null,
            [id] => (*id).into(),
            ids => ids.into(),
        };
        let keys = [
            ("_from_model_config", Value::Bool(true)),
            ("bos_token_id", llm.bos_token_id.into()),
            ("eos_token_id", eos),
            ("pad_token_id", llm.pad_token_id.into()),
        ];
        let raw = keys
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| (key.to_owned(), value))
            .collect();
        Self {
            bos_token_id: llm.bos_token_id,
            eos_token_ids: llm.eos_token_ids.clone(),
            pad_token_id: llm.pad_token_id,
            raw,
            ..Self::default()
        }
    }

    /// The file's object, unknown keys included, in the order of the file.
    pub fn as_json(&self) -> &Map<String, Value> {
        &self.raw
    }

    fn from_map(path: &Path, raw: Map<String, Value>) -> Result<Self, ConfigError> {
        let mut problems = Problems::default();
        let fields = Fields::new(&raw, "");
        let number = |key: &str, problems: &mut Problems| {
            fields
                .get(key)
                .map(|_| fields.positive(key, None, problems))
        };
        let size = |key: &str, problems: &mut Problems| {
            fields.get(key).map(|_| fields.size(key, None, problems))
        };
        // "Off" in the files of others: 0 for transformers, -1 for vLLM.
        let is_off = |key: &str| {
            let value = fields.get(key).and_then(Value::as_f64);
            value.is_some_and(|value| value <= 0.0)
        };
        let limit = |key: &str, problems: &mut Problems| match is_off(key) {
            true => None,
            false => number(key, problems),
        };
        let config = Self {
            bos_token_id: fields.token_id("bos_token_id", &mut problems),
            eos_token_ids: fields.token_ids("eos_token_id", &mut problems),
            pad_token_id: fields.token_id("pad_token_id", &mut problems),
            do_sample: fields
                .get("do_sample")
                .map(|_| fields.boolean("do_sample", false, &mut problems)),
            temperature: match fields.get("temperature").and_then(Value::as_f64) {
                Some(0.0) => Some(0.0),
                _ => number("temperature", &mut problems),
            },
            top_p: limit("top_p", &mut problems),
            top_k: match is_off("top_k") {
                true => None,
                false => size("top_k", &mut problems),
            },
            num_beams: size("num_beams", &mut problems),
            length_penalty: fields.get("length_penalty").and_then(Value::as_f64),
            repetition_penalty: number("repetition_penalty", &mut problems),
            max_new_tokens: size("max_new_tokens", &mut problems),
            raw: Map::new(),
        };
        if problems.0.is_empty() {
            Ok(Self { raw, ..config })
        } else {
            Err(ConfigError::Invalid {
                path: path.to_owned(),
                problems: problems.0,
            })
        }
    }
}
