//! The data card: what is in the set, what was turned down, what it cost.

use std::collections::BTreeMap;

use llavar_data::IMAGE_TAG;
use serde::Serialize;

use super::{Agreement, Formats, Selection, agreement, records::is_test};
use crate::{Ledger, PictureResult, RunFile, State, Verdict};

/// Words of texts.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Lengths {
    /// Texts.
    pub texts: usize,
    /// Mean, words.
    pub mean: f64,
    /// Shortest, words.
    pub least: usize,
    /// Longest, words.
    pub most: usize,
}

impl Lengths {
    fn of<'a>(texts: impl Iterator<Item = &'a str>) -> Self {
        let words: Vec<usize> = texts.map(|text| text.split_whitespace().count()).collect();
        Self {
            texts: words.len(),
            mean: words.iter().sum::<usize>() as f64 / words.len().max(1) as f64,
            least: words.iter().copied().min().unwrap_or(0),
            most: words.iter().copied().max().unwrap_or(0),
        }
    }
}

/// Sizes of a split.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Counts {
    /// Pictures with anything kept.
    pub pictures: usize,
    /// Captions.
    pub captions: usize,
    /// Duos; two questions each.
    pub duos: usize,
}

/// The card.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Card {
    /// How the set was made.
    pub run: RunFile,
    /// Pictures by what became of them.
    pub pictures: BTreeMap<String, usize>,
    /// By split.
    pub splits: BTreeMap<String, Counts>,
    /// Words of captions, questions and answers.
    pub words: BTreeMap<String, Lengths>,
    /// First words of extractive questions, by number.
    pub question_types: BTreeMap<String, usize>,
    /// Duos that were proposed.
    pub duos_proposed: usize,
    /// Of them, those that passed all checks.
    pub duos_accepted: usize,
    /// Captions that were proposed.
    pub captions_proposed: usize,
    /// By step and reason, what was turned down.
    pub rejected: BTreeMap<String, BTreeMap<String, usize>>,
    /// Decisions of people.
    pub verdicts: usize,
    /// Edits that hold `<image>` and were not applied.
    pub unusable_edits: usize,
    /// How far they agree.
    pub agreement: Vec<Agreement>,
    /// Duos by what selection said of them: `kept`, or why not; empty without selection.
    pub selection: BTreeMap<String, usize>,
    /// What it cost.
    pub ledger: Ledger,
}

impl Card {
    pub(super) fn of(
        run: &RunFile,
        made: &[PictureResult],
        kept: &[PictureResult],
        verdicts: &[Verdict],
        unusable_edits: usize,
        selected: Option<&Selection>,
        ledger: &Ledger,
    ) -> Self {
        let mut selection: BTreeMap<String, usize> = BTreeMap::new();
        if let Some(selected) = selected {
            selection.insert("kept".to_owned(), selected.kept.len());
            for reason in selected.dropped.values() {
                *selection.entry(reason.clone()).or_default() += 1;
            }
        }
        let mut pictures = BTreeMap::new();
        let mut rejected: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
        for picture in made {
            let state = match picture.state {
                State::Done => "done",
                State::Unusable { .. } => "unusable",
                State::Failed { .. } => "failed",
                State::Pending => "pending",
            };
            *pictures.entry(state.to_owned()).or_default() += 1;
            for one in &picture.rejected {
                let of_step = rejected.entry(one.step.clone()).or_default();
                *of_step.entry(one.reason.as_str().to_owned()).or_default() += 1;
            }
        }
        let mut splits: BTreeMap<String, Counts> = BTreeMap::new();
        let used = |picture: &&PictureResult| picture.caption.is_some() || !picture.duos.is_empty();
        for picture in kept.iter().filter(used) {
            let test = is_test(&picture.hash, run.test_fraction);
            let counts = splits
                .entry(if test { "test" } else { "train" }.to_owned())
                .or_default();
            counts.captions += usize::from(picture.caption.is_some());
            counts.duos += picture.duos.len();
            counts.pictures += 1;
        }
        let duos = || kept.iter().flat_map(|picture| &picture.duos);
        let captions = kept.iter().filter_map(|picture| picture.caption.as_deref());
        let mut words = BTreeMap::new();
        words.insert("caption".to_owned(), Lengths::of(captions));
        for (i, name) in crate::Duo::FIELDS.iter().enumerate() {
            let texts = duos().map(|duo| duo.texts()[i]);
            words.insert((*name).to_owned(), Lengths::of(texts));
        }
        let mut question_types = BTreeMap::new();
        for duo in duos() {
            let kind = question_type(&duo.extractive_question);
            *question_types.entry(kind.to_owned()).or_default() += 1;
        }
        let captions_rejected = rejected.get("caption").map_or(0, |r| r.values().sum());
        Self {
            run: run.clone(),
            pictures,
            splits,
            words,
            question_types,
            duos_proposed: made.iter().map(|picture| picture.proposed).sum(),
            duos_accepted: made.iter().map(|picture| picture.duos.len()).sum(),
            captions_proposed: captions_rejected
                + made
                    .iter()
                    .filter(|picture| picture.caption.is_some())
                    .count(),
            rejected,
            verdicts: verdicts.len(),
            unusable_edits,
            agreement: agreement(verdicts),
            selection,
            ledger: ledger.clone(),
        }
    }

    /// The Parquet files for the head of the card. A split without records has no file.
    fn files(&self) -> String {
        let mut out = String::new();
        for what in ["duos", "captions"] {
            let number = |counts: &Counts| match what {
                "duos" => counts.duos,
                _ => counts.captions,
            };
            let splits = self.splits.iter().filter(|(_, counts)| number(counts) > 0);
            let paths = splits.map(|(split, _)| {
                format!("  - split: {split}\n    path: parquet/{what}-{split}.parquet\n")
            });
            let paths: String = paths.collect();
            if !paths.is_empty() {
                out += &format!("- config_name: {what}\n  data_files:\n{paths}");
            }
        }
        match out.is_empty() {
            true => out,
            false => format!("configs:\n{out}"),
        }
    }

    /// The card as Markdown with the head that hubs read.
    pub fn markdown(&self, formats: Formats) -> String {
        let mut out = String::from(
            "---\npretty_name: Hybrid-Instruct\ntask_categories:\n- visual-question-answering\n- image-to-text\n",
        );
        if formats.parquet {
            out += &self.files();
        }
        out += "---\n\n# Hybrid-Instruct data set\n\n";
        let run = &self.run;
        let by = match &run.sampling {
            Some(sampling) => format!(
                "the model `{}` at temperature {} (seed {})",
                sampling.model, sampling.temperature, sampling.seed
            ),
            None => "templates over OCR and page layout, without a language model".to_owned(),
        };
        out += &format!(
            "Made by `llavar instruct run` {}: detail-enriched captions, and duos of an extractive and a \
             self-explain question, from pictures, OCR ({}) and {} by {by}.\n",
            run.version,
            run.ocr,
            match run.captions {
                Some(_) => "human captions",
                None => "no human captions",
            }
        );
        for prompt in &run.prompts {
            out += &format!(
                "Prompt `{}` version {} ({}).\n",
                prompt.name, prompt.version, prompt.hash
            );
        }
        out += "\n## Size\n\n| split | pictures | captions | duos | question-answer pairs |\n|---|---|---|---|---|\n";
        for (split, counts) in &self.splits {
            out += &format!(
                "| {split} | {} | {} | {} | {} |\n",
                counts.pictures,
                counts.captions,
                counts.duos,
                2 * counts.duos
            );
        }
        out += &format!(
            "\nThe split is by the content of the picture (test share {}).\n\nPictures: ",
            run.test_fraction
        );
        let states: Vec<String> = self
            .pictures
            .iter()
            .map(|(state, n)| format!("{n} {state}"))
            .collect();
        out += &states.join(", ");
        out += ".\n\n## Words\n\n| text | number | mean | least | most |\n|---|---|---|---|---|\n";
        for (name, lengths) in &self.words {
            out += &format!(
                "| {name} | {} | {:.1} | {} | {} |\n",
                lengths.texts, lengths.mean, lengths.least, lengths.most
            );
        }
        out +=
            "\n## Extractive questions by their first word\n\n| first word | number |\n|---|---|\n";
        let mut types: Vec<_> = self.question_types.iter().collect();
        types.sort_by_key(|(name, n)| (std::cmp::Reverse(**n), *name));
        for (name, n) in types {
            out += &format!("| {name} | {n} |\n");
        }
        out += &format!(
            "\n## What was turned down\n\n{} of {} proposed duos passed all checks. Captions proposed: {}.\n\n\
             | step | reason | number |\n|---|---|---|\n",
            self.duos_accepted, self.duos_proposed, self.captions_proposed
        );
        for (step, reasons) in &self.rejected {
            for (reason, n) in reasons {
                out += &format!("| {step} | {reason} | {n} |\n");
            }
        }
        if !self.selection.is_empty() {
            out += "\n## Selection (IFD, VFD, mIFD, FFD)\n\n| duos | number |\n|---|---|\n";
            for (reason, n) in &self.selection {
                out += &format!("| {} | {n} |\n", reason.replace('_', " "));
            }
        }
        if self.verdicts > 0 {
            out += &format!("\n## Review\n\n{} decisions of people.\n", self.verdicts);
            if self.unusable_edits > 0 {
                out += &format!(
                    "{} edits hold `{IMAGE_TAG}` and were not applied.\n",
                    self.unusable_edits
                );
            }
            for one in &self.agreement {
                let kappa = one
                    .kappa
                    .map_or("not defined".to_owned(), |k| format!("{k:.3}"));
                out += &format!(
                    "{} and {}: {} duos in common, {:.1} % the same, Cohen's kappa {kappa}.\n",
                    one.first,
                    one.second,
                    one.duos,
                    100.0 * one.observed
                );
            }
        }
        out += "\n## Cost\n\n| step | model | requests | answers | prompt tokens | answer tokens | USD | in doubt |\n|---|---|---|---|---|---|---|---|\n";
        for row in &self.ledger.rows {
            let usd = row
                .usd
                .map_or("no prices given".to_owned(), |usd| format!("{usd:.4}"));
            out += &format!(
                "| {} | {} | {} | {} | {} | {} | {usd} | {} |\n",
                row.step,
                row.model,
                row.requests,
                row.answers,
                row.prompt_tokens,
                row.completion_tokens,
                row.in_doubt
            );
        }
        if self.ledger.rows.is_empty() {
            out += "| none | | | | | | | |\n";
        }
        let estimated: u64 = self
            .ledger
            .rows
            .iter()
            .map(|row| row.estimated_answers)
            .sum();
        if estimated > 0 {
            out += &format!(
                "\nThe server did not count the tokens of {estimated} answers: they are estimated from the length.\n"
            );
        }
        out
    }
}

/// The word that tells what kind of fact is asked for.
fn question_type(question: &str) -> &'static str {
    let question = question.to_lowercase();
    let first_of = |words: &[&str]| {
        words
            .iter()
            .filter_map(|word| {
                let mut parts = question.split(|c: char| !c.is_alphanumeric());
                parts.position(|part| part == *word)
            })
            .min()
    };
    if question.contains("how many") || question.contains("how much") {
        return "how many, how much";
    }
    let kinds = [
        "what", "which", "who", "whose", "when", "where", "why", "how",
    ];
    let found = kinds
        .iter()
        .filter_map(|kind| Some((first_of(&[*kind])?, *kind)))
        .min();
    match found {
        Some((_, kind)) => kind,
        None if [
            "is ", "are ", "does ", "do ", "was ", "were ", "has ", "can ",
        ]
        .iter()
        .any(|start| question.starts_with(start)) =>
        {
            "yes or no"
        }
        None => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn question_types() {
        for (question, kind) in [
            ("What is it?", "what"),
            ("On which date was it printed?", "which"),
            ("How many items are there?", "how many, how much"),
            ("Is it open?", "yes or no"),
            ("In the text, who signs where?", "who"),
            ("東京ですか？", "other"),
        ] {
            assert_eq!(question_type(question), kind, "{question}");
        }
    }
}
