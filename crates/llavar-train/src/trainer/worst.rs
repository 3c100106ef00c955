//! The worst samples of all ranks, and their list in the run folder.

use std::fs;

use serde_json::json;

use super::Trainer;
use crate::{TrainError, logs::WorstSample};

/// Characters of question and answer in the list.
const EXCERPT: usize = 300;

impl Trainer {
    /// Brings the lists of all ranks together on each of them.
    pub(super) fn gather_worst(&mut self) -> Result<(), TrainError> {
        if self.group.size() == 1 || !self.worst.is_on() {
            return Ok(());
        }
        let own = serde_json::to_vec(self.worst.samples()).unwrap_or_default();
        for said in self.group.exchange(&own)? {
            let samples: Vec<WorstSample> = serde_json::from_slice(&said).unwrap_or_default();
            samples
                .into_iter()
                .for_each(|sample| self.worst.add(sample));
        }
        Ok(())
    }

    /// Writes `worst_samples.jsonl` anew, with what a person needs to find each sample.
    pub(super) fn write_worst(&self) -> Result<(), TrainError> {
        let mut text = String::new();
        for (rank, worst) in (1..).zip(self.worst.samples()) {
            let mut line = json!({
                "rank": rank,
                "index": worst.index,
                "step": worst.step,
                "loss": worst.loss,
                "excess": worst.excess,
                "tokens": worst.tokens,
            });
            // The data may have gone since.
            if let Ok(record) = self.source.record(worst.index) {
                let said = |who| {
                    let turns = record.sample.conversations.iter();
                    let all: Vec<&str> = turns
                        .filter(|turn| turn.from == who)
                        .map(|turn| turn.value.as_str())
                        .collect();
                    excerpt(&all.join("\n"))
                };
                line["id"] = record.sample.id.to_string().into();
                line["images"] = record.sample.images.clone().into();
                line["question"] = said(llavar_data::Role::Human).into();
                line["answer"] = said(llavar_data::Role::Gpt).into();
                line["data_path"] = json!(record.set.path());
                line["number"] = record.local.into();
                line["image_folder"] = json!(record.set.image_folder().map(|f| f.path()));
            }
            text.push_str(&format!("{line}\n"));
        }
        let path = self.run_dir.join("worst_samples.jsonl");
        let aside = path.with_extension("jsonl.partial");
        fs::write(&aside, text)
            .and_then(|()| fs::rename(&aside, &path))
            .map_err(|e| TrainError::save(&path, e))
    }
}

fn excerpt(text: &str) -> String {
    let mut short: String = text.chars().take(EXCERPT).collect();
    if short.len() < text.len() {
        short.push('\u{2026}');
    }
    short
}
