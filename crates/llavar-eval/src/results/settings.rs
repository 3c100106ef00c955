//! Everything that decides the answers of a run.

use crate::fingerprint::Fingerprint;
use serde::{Deserialize, Serialize};

/// What decides the answers of a run; its fingerprint names the run.
///
/// How the work was split and batched is no part of it: the answers do not depend on that.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunSettings {
    /// Name of the task.
    pub task: String,
    /// Split.
    pub split: String,
    /// The model.
    pub model: ModelInfo,
    /// The prompts.
    pub prompt: PromptSettings,
    /// Decoding.
    pub decode: DecodeSettings,
}

impl RunSettings {
    /// 32 hex digits that change with every setting.
    pub fn fingerprint(&self) -> String {
        let mut hash = Fingerprint::default();
        // The struct has text keys only, so it always has a JSON form.
        hash.field(&serde_json::to_string(self).unwrap_or_default());
        hash.hex()
    }

    /// The first setting that differs: its name, its value here, the other's.
    pub fn difference(&self, other: &Self) -> Option<(&'static str, String, String)> {
        let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "none".into());
        let fields = |own: &Self| {
            let Self {
                model,
                prompt,
                decode,
                ..
            } = own;
            [
                ("task", own.task.clone()),
                ("split", own.split.clone()),
                ("model", model.id.clone()),
                ("model hash", or_none(&model.hash)),
                ("dtype", or_none(&model.dtype)),
                ("template", or_none(&model.template)),
                ("endpoint", or_none(&model.endpoint)),
                ("prompt format", format!("{:?}", prompt.format)),
                ("OCR", prompt.ocr.as_str().into()),
                ("OCR lines", or_none(&prompt.ocr_lines)),
                ("prompts", prompt.hash.clone()),
                ("temperature", decode.temperature.to_string()),
                ("top_p", format!("{:?}", decode.top_p)),
                ("top_k", format!("{:?}", decode.top_k)),
                ("num_beams", decode.num_beams.to_string()),
                ("repetition penalty", decode.repetition_penalty.to_string()),
                ("max_new_tokens", decode.max_new_tokens.to_string()),
                ("seed", decode.seed.to_string()),
                ("closer look", decode.closer.to_string()),
            ]
        };
        let mut pairs = fields(self).into_iter().zip(fields(other));
        pairs
            .find(|((_, a), (_, b))| a != b)
            .map(|((name, a), (_, b))| (name, a, b))
    }
}

/// Which model answered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// Name, as in [`SampleRow::model_id`](crate::samples::SampleRow::model_id).
    pub id: String,
    /// Fingerprint of weights, configuration and tokenizer; none for a remote model.
    pub hash: Option<String>,
    /// Element type of weights and activations.
    pub dtype: Option<String>,
    /// Conversation template.
    pub template: Option<String>,
    /// Address of a remote model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
}

/// How questions become prompts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptSettings {
    /// The user's turn after the picture; `{question}` stands for the question.
    pub format: String,
    /// Whether text read from the picture stands before the question.
    pub ocr: OcrMode,
    /// Where the OCR text comes from: fingerprint of the file of OCR lines, or name of the engine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ocr_lines: Option<String>,
    /// Fingerprint of all prompts with their ids, without OCR text.
    pub hash: String,
}

/// Whether text read from the picture stands before the question.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OcrMode {
    /// The picture alone.
    #[default]
    Off,
    /// The OCR prefix before every question.
    On,
}

impl OcrMode {
    /// `on` or `off`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::On => "on",
        }
    }
}

/// Decoding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DecodeSettings {
    /// Softmax temperature; 0 is greedy.
    pub temperature: f32,
    /// Nucleus mass.
    pub top_p: Option<f32>,
    /// Most likely ids kept.
    pub top_k: Option<usize>,
    /// Beams.
    pub num_beams: usize,
    /// Penalty on ids that occurred; 1 is none.
    pub repetition_penalty: f32,
    /// Longest answer, tokens.
    pub max_new_tokens: usize,
    /// Seed of sampling.
    pub seed: u64,
    /// Whether halves of the picture are looked at where the model is unsure ([`llavar_assistant::UNSURE`]).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub closer: bool,
}
