//! Results of a column.

use super::{Column, RunError};
use crate::results::{RESULTS_FILE, RunResult, SCORED_FILE, ScoredRow, write_json, write_rows};
use crate::samples::{AnswersFile, SampleKey, SampleRow};
use crate::score::{ScoreOptions, score};
use std::collections::{HashMap, HashSet};

impl Column<'_> {
    /// Scores answers and errors of all chunks, and writes `results.json` and `scored.jsonl`.
    ///
    /// Questions without a picture were never asked: they are counted, and left out of the score.
    ///
    /// # Errors
    /// [`RunError::Score`] where no number would mean anything, [`RunError::Results`].
    pub fn finish(
        &self,
        rows: &[SampleRow],
        errors: &[SampleRow],
        options: &ScoreOptions,
    ) -> Result<(RunResult, Vec<ScoredRow>), RunError> {
        let asked: HashMap<SampleKey, &SampleRow> = rows
            .iter()
            .chain(errors)
            .rev()
            .map(|row| (row.key(), row))
            .collect();
        if self.task.answerable().next().is_none() {
            return Err(RunError::NoPictures {
                task: self.task.name.clone(),
                split: self.task.split.clone(),
                questions: self.task.items.len(),
            });
        }
        // A run of fewer questions than the one before leaves answers that are not of its task.
        let ids: HashSet<&str> = self.task.items.iter().map(|item| &*item.id).collect();
        let own = |row: &&SampleRow| ids.contains(&*row.question_id);
        let file = AnswersFile::from_rows(rows.iter().chain(errors).filter(own));
        let options = ScoreOptions {
            only_with_image: true,
            ..options.clone()
        };
        let (mut result, mut scored) = score(self.task, &file, &options)?;
        for row in &mut scored {
            if let Some(asked) = asked.get(&row.sample.key()) {
                row.sample = (*asked).clone();
            } else {
                row.sample.prompt = self.format.prompt(&row.sample.prompt);
            }
        }
        result.model_id = Some(self.settings.model.id.clone());
        result.prompt_hash = Some(self.settings.prompt.hash.clone());
        result.run = Some(self.settings.fingerprint());
        result.settings = Some(self.settings.clone());
        if let Some(limit) = self.source.limit {
            let note = format!("only the first {limit} questions of the split (--limit)");
            result.notes.insert(0, note);
        }
        if let Some(first) = errors.first() {
            let why = first.error.as_deref().unwrap_or_default();
            result.notes.push(format!(
                "{} question(s) failed (first: {:?}: {why})",
                errors.len(),
                first.question_id
            ));
        }
        write_json(&self.folder.join(RESULTS_FILE), &result)?;
        write_rows(&self.folder.join(SCORED_FILE), &scored)?;
        Ok((result, scored))
    }
}
