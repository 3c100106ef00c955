//! The questions that an answers file repeats, references included.

use super::item::Item;
use super::missing::Missing;
use super::task::Task;
use super::{TaskError, registry};
use crate::samples::AnswersFile;
use std::collections::{HashMap, HashSet};
use std::path::Path;

impl Task {
    /// A task of the questions and references that an answers file itself has, for scoring without the
    /// benchmark's folder. What such a file leaves out is not known: [`Task::note`] says so.
    ///
    /// Rows without any reference are kept, and counted in [`Missing::questions_without_answer`].
    ///
    /// # Errors
    /// [`TaskError::UnknownTask`]; [`TaskError::NoReferences`] where no row has a reference.
    pub fn from_answers(name: &str, path: &Path, file: &AnswersFile) -> Result<Self, TaskError> {
        let (benchmark, split) = registry::find(name)?;
        let mut seen = HashSet::new();
        let mut items = Vec::new();
        for answer in &file.answers {
            let id = answer.id.clone().unwrap_or_else(|| {
                let of = |text: &Option<String>| text.clone().unwrap_or_default();
                format!("{}/{}", of(&answer.image), of(&answer.question))
            });
            // Two questions of one sample may share its id (the reference writes them so).
            if !seen.insert((id.clone(), answer.question.clone())) {
                continue;
            }
            items.push(Item {
                source_id: id.clone(),
                id,
                image: answer.image.clone().unwrap_or_default(),
                image_path: None,
                question: answer.question.clone().unwrap_or_default(),
                answers: answer.references.clone(),
                category: answer.category.clone(),
                extra: Default::default(),
            });
        }
        let without = items.iter().filter(|item| item.answers.is_empty()).count();
        if without == items.len() {
            return Err(TaskError::NoReferences {
                task: benchmark.name,
                path: path.to_path_buf(),
            });
        }
        tell_apart(&mut items);
        Ok(Self {
            name: benchmark.name.to_string(),
            split: split.unwrap_or_default(),
            folder: path.to_path_buf(),
            sources: vec![path.to_path_buf()],
            metrics: benchmark.metrics,
            prompt_suffix: "",
            max_new_tokens: benchmark.max_new_tokens,
            missing: Missing {
                questions: items.len(),
                questions_without_answer: without,
                ..Missing::default()
            },
            items,
            note: Some(
                "questions and references were taken from the answers file; questions that it leaves out \
                 are not known (give --data to count them)",
            ),
        })
    }
}

/// Items that share an id get a number each, also the first: they are then found by their question.
fn tell_apart(items: &mut [Item]) {
    let mut counts = HashMap::<String, (usize, usize)>::new();
    for item in items.iter() {
        counts.entry(item.id.clone()).or_default().0 += 1;
    }
    for item in items {
        if let Some((total, number)) = counts.get_mut(&item.id)
            && *total > 1
        {
            *number += 1;
            item.id = format!("{}#{number}", item.id);
        }
    }
}
