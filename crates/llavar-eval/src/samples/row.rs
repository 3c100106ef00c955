//! One answered question as it is kept.

use crate::fingerprint::Fingerprint;
use crate::tasks::{Item, Task};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

/// One line of `samples.jsonl`: the fields of LLaVA's `model_vqa.py`, then ours.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SampleRow {
    /// Id of the question; written as a number where it is one, as the data sets do.
    #[serde(serialize_with = "write_id", deserialize_with = "read_id")]
    pub question_id: String,
    /// The question as asked, with the task's suffix and without OCR text.
    pub prompt: String,
    /// The answer.
    pub text: String,
    /// Id of the answer: the same for the same answer of the same model, so that a repeated run
    /// writes the same file.
    #[serde(default)]
    pub answer_id: String,
    /// Name of the model.
    #[serde(default)]
    pub model_id: String,
    /// What else is said of the answer (tokens, time, OCR mode); empty in the reference.
    #[serde(default)]
    pub metadata: Map<String, Value>,
    /// References (`gt` is the reference's name).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gt: Vec<String>,
    /// Name of the task.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub task: String,
    /// Path of the picture as the data set names it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub image: String,
    /// Kind of the question.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub category: Option<String>,
    /// Fingerprint of everything that decides the answers (model, template, decoding, OCR).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub run: String,
    /// Why there is no answer; `text` is then empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What identifies an answer in a file: task and question.
pub type SampleKey = (String, String);

impl SampleRow {
    /// The row of an answer to `item`.
    pub fn new(task: &Task, item: &Item, text: String, model_id: &str, run: &str) -> Self {
        let mut row = Self {
            question_id: item.id.clone(),
            prompt: task.prompt(item),
            text,
            answer_id: String::new(),
            model_id: model_id.to_string(),
            metadata: Map::new(),
            gt: item.answers.clone(),
            task: task.name.clone(),
            image: item.image.clone(),
            category: item.category.clone(),
            run: run.to_string(),
            error: None,
        };
        row.seal();
        row
    }

    /// Makes the answer's id that of the present content.
    pub(crate) fn seal(&mut self) {
        self.answer_id = self.hash();
    }

    /// What identifies the row in a file.
    pub fn key(&self) -> SampleKey {
        (self.task.clone(), self.question_id.clone())
    }

    /// Fingerprint of everything that makes the answer what it is.
    fn hash(&self) -> String {
        let mut hash = Fingerprint::default();
        for field in [
            &self.model_id,
            &self.run,
            &self.task,
            &self.question_id,
            &self.prompt,
            &self.text,
        ] {
            hash.field(field);
        }
        hash.hex()
    }
}

fn write_id<S: Serializer>(id: &str, serializer: S) -> Result<S::Ok, S::Error> {
    match id.parse::<i64>() {
        // "007" and "+7" are texts: the number would read back as another id.
        Ok(number) if number.to_string() == id => serializer.serialize_i64(number),
        _ => serializer.serialize_str(id),
    }
}

fn read_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let value = Value::deserialize(deserializer)?;
    match value {
        Value::String(_) | Value::Number(_) => crate::tasks::scalar(&value)
            .ok_or_else(|| serde::de::Error::custom("question_id is not a string or a number")),
        _ => Err(serde::de::Error::custom(
            "question_id is not a string or a number",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: &str) -> SampleRow {
        let text = format!("{{\"question_id\": \"{id}\", \"prompt\": \"q\", \"text\": \"a\"}}");
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn the_reference_s_fields_come_first_and_ids_keep_their_kind() {
        let line = serde_json::to_string(&row("34602")).unwrap();
        let expected = r#"{"question_id":34602,"prompt":"q","text":"a","answer_id":"","model_id":"","metadata":{}}"#;
        assert_eq!(line, expected);
        for id in ["007", "+7", "a/0", "", "99999999999999999999", "-3"] {
            let line = serde_json::to_string(&row(id)).unwrap();
            let back: SampleRow = serde_json::from_str(&line).unwrap();
            assert_eq!(back.question_id, id);
        }
    }

    #[test]
    fn a_row_of_the_reference_reads() {
        let line = r#"{"question_id": 7, "prompt": "q", "text": "a", "gt": ["b"], "answer_id": "x", "model_id": "m", "metadata": {"k": 1}, "more": 2}"#;
        let row: SampleRow = serde_json::from_str(line).unwrap();
        assert_eq!((&*row.question_id, &*row.gt[0]), ("7", "b"));
        assert!(
            serde_json::from_str::<SampleRow>(r#"{"question_id": null, "prompt": "", "text": ""}"#)
                .is_err()
        );
    }

    #[test]
    fn hashes_depend_on_each_field_and_on_nothing_else() {
        let one = row("1");
        assert_eq!(one.hash(), row("1").hash());
        assert_ne!(one.hash(), row("2").hash());
        let (mut a, mut b) = (row("1"), row("1"));
        (a.prompt, a.text) = ("ab".into(), "c".into());
        (b.prompt, b.text) = ("a".into(), "bc".into());
        assert_ne!(a.hash(), b.hash());
    }
}
