//! One record of LLaVA JSON.

mod parse;

use serde::Serialize;
use serde_json::{Map, Value};

/// Identity of a sample: LLaVA data have strings and integers.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(untagged)]
pub enum SampleId {
    /// An integer id.
    Int(i64),
    /// A string id.
    Text(String),
}

impl std::fmt::Display for SampleId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SampleId::Int(id) => id.fmt(f),
            SampleId::Text(id) => f.write_str(id),
        }
    }
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The user.
    Human,
    /// The model.
    Gpt,
}

impl Role {
    /// The name in LLaVA JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Human => "human",
            Role::Gpt => "gpt",
        }
    }
}

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// Who speaks.
    pub from: Role,
    /// What is said, with `<image>` where an image stands.
    pub value: String,
}

/// One record: images and a conversation that starts with the human and alternates.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Identity, shared by all question-answer pairs of one record.
    pub id: SampleId,
    /// Paths relative to the image folder, as written in the file.
    pub images: Vec<String>,
    /// The turns.
    pub conversations: Vec<Turn>,
    /// Keys that LLaVA does not define, kept and written back.
    pub extra: Map<String, Value>,
    /// Leading turns that were dropped because they are not the human's (0 or 1).
    pub dropped_turns: usize,
}

impl Sample {
    /// Words of all turns, split at white space.
    ///
    /// # Source
    /// `lengths` of LLaVA's `LazySupervisedDataset` (without its 128 for an image).
    pub fn words(&self) -> usize {
        self.conversations
            .iter()
            .map(|turn| turn.value.split_whitespace().count())
            .sum()
    }

    /// [`Sample::words`], negative for a sample without image: the input of
    /// [`crate::sampler::group_by_modality_length`].
    pub fn modality_length(&self) -> i64 {
        let words = i64::try_from(self.words()).unwrap_or(i64::MAX);
        if self.images.is_empty() {
            -words
        } else {
            words
        }
    }

    /// Number of `<image>` tags in all turns.
    pub fn image_tags(&self) -> usize {
        self.conversations
            .iter()
            .map(|turn| turn.value.matches(crate::IMAGE_TAG).count())
            .sum()
    }

    /// The record as LLaVA JSON: `id`, `image` (a string for one, a list for more), `conversations`,
    /// then the unknown keys in their order.
    pub fn to_json(&self) -> Value {
        let mut map = Map::new();
        let id = match &self.id {
            SampleId::Int(id) => Value::from(*id),
            SampleId::Text(id) => Value::from(id.as_str()),
        };
        map.insert("id".into(), id);
        match self.images.as_slice() {
            [] => {}
            [one] => {
                map.insert("image".into(), Value::from(one.as_str()));
            }
            many => {
                map.insert("image".into(), Value::from(many.to_vec()));
            }
        }
        let turns = self
            .conversations
            .iter()
            .map(|turn| serde_json::json!({"from": turn.from.as_str(), "value": turn.value}))
            .collect();
        map.insert("conversations".into(), Value::Array(turns));
        for (key, value) in &self.extra {
            map.insert(key.clone(), value.clone());
        }
        Value::Object(map)
    }
}

impl Serialize for Sample {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_json().serialize(serializer)
    }
}
