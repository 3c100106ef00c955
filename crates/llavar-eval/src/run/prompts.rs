//! From question to prompt.

use super::RunError;
use crate::fingerprint::Fingerprint;
use crate::tasks::Task;

/// The user's turn after picture and OCR text; `{question}` stands for the question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptFormat(String);

const PLACE: &str = "{question}";

impl PromptFormat {
    /// A format of the user's.
    ///
    /// # Errors
    /// [`RunError::NoQuestion`].
    pub fn new(format: &str) -> Result<Self, RunError> {
        if format.contains(PLACE) {
            Ok(Self(format.to_string()))
        } else {
            Err(RunError::NoQuestion {
                format: format.to_string(),
            })
        }
    }

    /// The question and a suffix; the task's own where none is given.
    pub fn with_suffix(task: &Task, suffix: Option<&str>) -> Self {
        Self(format!("{PLACE}{}", suffix.unwrap_or(task.prompt_suffix)))
    }

    /// The format as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The prompt of a question.
    pub fn prompt(&self, question: &str) -> String {
        self.0.replace(PLACE, question)
    }

    /// Fingerprint of all prompts of a task with their ids, without OCR text.
    pub fn hash(&self, task: &Task) -> String {
        let mut hash = Fingerprint::default();
        for item in &task.items {
            hash.field(&item.id).field(&self.prompt(&item.question));
        }
        hash.hex()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_question_is_put_in_as_it_is() {
        let format = PromptFormat::new("Q: {question}\nA:").unwrap();
        assert_eq!(format.prompt("a {question} b"), "Q: a {question} b\nA:");
        assert!(PromptFormat::new("no place").is_err());
    }
}
