//! What a data set holds, in numbers.

use crate::dataset::Dataset;
use crate::record::{Role, Sample};
use crate::template::{MaskMode, Template};
use crate::tokenizer::Tokenizer;
use serde::Serialize;

/// At most this many faults are told in words; all are counted.
const MAX_FAULTS: usize = 20;

/// Samples with lengths in `[from, to)`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Bucket {
    /// Least length.
    pub from: usize,
    /// One past the largest length.
    pub to: usize,
    /// Samples.
    pub count: usize,
}

/// Numbers of one data set.
///
/// # Units
/// Words are split at white space. Tokens are those of the given tokenizer and template with one
/// token an image; without a tokenizer they are absent and `lengths` counts words.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Stats {
    /// Good samples.
    pub samples: usize,
    /// Samples without image.
    pub text_only: usize,
    /// Image references.
    pub images: usize,
    /// References to images that cannot be resolved (only with an image folder).
    pub missing_images: usize,
    /// Turns of both speakers.
    pub turns: usize,
    /// Answers.
    pub answers: usize,
    /// Leading turns that were dropped.
    pub dropped_turns: usize,
    /// Words of all turns.
    pub words: usize,
    /// Tokens of all samples.
    pub tokens: Option<usize>,
    /// Tokens that count in the loss.
    pub supervised_tokens: Option<usize>,
    /// Longest sample.
    pub longest: usize,
    /// Half of the samples are at most this long.
    pub median: usize,
    /// Samples by length; bucket bounds are powers of two.
    pub lengths: Vec<Bucket>,
    /// Bad samples.
    pub bad_samples: usize,
    /// The first faults of samples and images, in words.
    pub faults: Vec<String>,
}

impl Stats {
    /// Reads a whole data set. Bad samples are counted and named, never fatal.
    pub fn of_dataset(dataset: &Dataset, encoder: Option<(&Tokenizer, &Template)>) -> Self {
        let mut stats = Stats::default();
        if encoder.is_some() {
            (stats.tokens, stats.supervised_tokens) = (Some(0), Some(0));
        }
        let mut lengths = Vec::with_capacity(dataset.len());
        for sample in dataset.iter() {
            match sample {
                Ok(sample) => stats.add(dataset, &sample, encoder, &mut lengths),
                Err(error) => {
                    stats.bad_samples += 1;
                    stats.fault(&error);
                }
            }
        }
        stats.finish(lengths);
        stats
    }

    fn add(
        &mut self,
        dataset: &Dataset,
        sample: &Sample,
        encoder: Option<(&Tokenizer, &Template)>,
        lengths: &mut Vec<usize>,
    ) {
        let mut length = sample.words();
        if let Some((tokenizer, template)) = encoder {
            match template.encode_sample(tokenizer, sample, MaskMode::Exact) {
                Ok(encoded) => {
                    length = encoded.ids.len();
                    self.tokens = self.tokens.map(|n| n + length);
                    self.supervised_tokens =
                        self.supervised_tokens.map(|n| n + encoded.supervised());
                }
                Err(error) => {
                    self.bad_samples += 1;
                    return self.fault(&error);
                }
            }
        }
        lengths.push(length);
        self.samples += 1;
        self.text_only += usize::from(sample.images.is_empty());
        self.images += sample.images.len();
        self.turns += sample.conversations.len();
        let answers = sample.conversations.iter().filter(|t| t.from == Role::Gpt);
        self.answers += answers.count();
        self.dropped_turns += sample.dropped_turns;
        self.words += sample.words();
        if dataset.image_folder().is_some() {
            for image in &sample.images {
                if let Err(error) = dataset.image_path(image) {
                    self.missing_images += 1;
                    self.fault(&error);
                }
            }
        }
    }

    fn fault(&mut self, error: &dyn std::error::Error) {
        if self.faults.len() < MAX_FAULTS {
            self.faults.push(error.to_string());
        }
    }

    fn finish(&mut self, mut lengths: Vec<usize>) {
        lengths.sort_unstable();
        self.longest = lengths.last().copied().unwrap_or(0);
        self.median = lengths
            .get(lengths.len().saturating_sub(1) / 2)
            .copied()
            .unwrap_or(0);
        for length in lengths {
            // [0, 1), [1, 2), [2, 4), [4, 8), ...
            let to = (length + 1).next_power_of_two();
            match self.lengths.last_mut() {
                Some(bucket) if bucket.to == to => bucket.count += 1,
                _ => self.lengths.push(Bucket {
                    from: to / 2,
                    to,
                    count: 1,
                }),
            }
        }
    }
}

impl std::fmt::Display for Stats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut row = |name: &str, value: usize| writeln!(f, "{name:<20}{value:>12}");
        row("samples", self.samples)?;
        row("  without image", self.text_only)?;
        row("  bad", self.bad_samples)?;
        row("images", self.images)?;
        row("  missing", self.missing_images)?;
        row("turns", self.turns)?;
        row("  answers", self.answers)?;
        row("  dropped", self.dropped_turns)?;
        row("words", self.words)?;
        if let (Some(tokens), Some(supervised)) = (self.tokens, self.supervised_tokens) {
            row("tokens", tokens)?;
            row("  supervised", supervised)?;
        }
        row("longest sample", self.longest)?;
        row("median sample", self.median)?;
        let unit = if self.tokens.is_some() {
            "tokens"
        } else {
            "words"
        };
        writeln!(f, "samples by {unit}")?;
        let most = self.lengths.iter().map(|b| b.count).max().unwrap_or(1);
        for Bucket { from, to, count } in &self.lengths {
            // At least one mark, so that a rare length is seen.
            let bar = "#".repeat((count * 40).div_ceil(most));
            writeln!(
                f,
                "  {:<18}{count:>12} {bar}",
                format!("{from} to {}", to - 1)
            )?;
        }
        for fault in &self.faults {
            writeln!(f, "fault: {fault}")?;
        }
        Ok(())
    }
}
