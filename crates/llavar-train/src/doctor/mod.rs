//! `Doctor`: looks at every sample of a data set before a run does, with the code of the run.
//!
//! Records are read, rendered, tokenized and cut as in training; of pictures the header is read, or
//! everything on request. Nothing is changed: a clean copy and the list of what is not in it are files of
//! their own.

mod check;
mod copy;
mod report;

use std::path::Path;

use llavar_data::{Tokenizer, dataset::Cache, packing::pack_in_windows};

use crate::{
    Recipe, TrainError,
    data::{SampleSource, blocks, lengths},
};

use check::Checker;
use copy::CleanCopy;
pub use copy::quarantine_of;
pub use report::{Duplicate, Finding, LengthStats, Packing, Report};

/// What is looked at.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Decode pictures whole instead of their headers alone.
    pub pixels: bool,
    /// Threads; 0: one for each processor.
    pub threads: usize,
    /// Positions that an image takes.
    pub image_tokens: usize,
}

/// A data set that is looked at.
#[derive(Debug)]
pub struct Doctor {
    source: SampleSource,
    options: Options,
    /// Whether the tokenizer is that of a model; else records and pictures alone are checked.
    tokenizes: bool,
    images: bool,
}

impl Doctor {
    /// Opens the data of a recipe. Without tokenizer nothing is rendered or tokenized.
    ///
    /// # Errors
    /// Data that cannot be opened; [`TrainError::Setting`].
    pub fn open(
        recipe: &Recipe,
        tokenizer: Option<Tokenizer>,
        options: Options,
    ) -> Result<Self, TrainError> {
        let tokenizes = tokenizer.is_some();
        let tokenizer = match tokenizer {
            Some(tokenizer) => tokenizer,
            None => placeholder()?,
        };
        // The side is that of pixels, which are not made here.
        let source = SampleSource::open(recipe, tokenizer, Some((1, options.image_tokens.max(1))))?;
        let images = source.finds_images();
        Ok(Self {
            source,
            options,
            tokenizes,
            images,
        })
    }

    /// The files that are looked at.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.source.paths()
    }

    /// Whether a copy of the records can name the pictures: it cannot where they lie inside Parquet or tar files.
    pub fn can_copy(&self) -> bool {
        !self.source.has_container()
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.source.len()
    }

    /// Whether there is no sample; never true for an opened set.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Packs of an epoch in a run on packs of so many tokens, planned as the run plans them; `None` for 0, which is
    /// a run without packs.
    ///
    /// # Errors
    /// None for lengths that were measured.
    pub fn packs(&self, pack_tokens: usize) -> Result<Option<usize>, TrainError> {
        if pack_tokens == 0 || !self.tokenizes {
            return Ok(None);
        }
        let lengths = lengths::measure(&self.source, &Cache::of_user());
        let usable = |&n: &u32| lengths.get(n as usize).is_some_and(|l| *l > 0);
        let members: Vec<u32> = (0..lengths.len() as u32).filter(usable).collect();
        let packs = pack_in_windows(&members, &lengths, pack_tokens, 0)?;
        Ok(Some(packs.len() + packs.too_long.len()))
    }

    /// Looks at every sample. With `fix`, the samples that can be used go to that file (LLaVA JSON where
    /// its name ends in `.json`, else JSONL), each once, and the others to `FIX.quarantine.jsonl`.
    /// `progress` is told how many samples are done and says whether to go on; `None` is returned where it
    /// said no, and no file is left then.
    ///
    /// # Errors
    /// [`TrainError::Save`] for the files of `fix`; [`TrainError::Setting`] where the pictures of the set
    /// lie in containers, which a copy of the records could not name.
    pub fn examine(
        &self,
        fix: Option<&Path>,
        progress: &mut dyn FnMut(usize) -> bool,
    ) -> Result<Option<Report>, TrainError> {
        if fix.is_some() && !self.can_copy() {
            return Err(TrainError::Setting {
                key: "--fix",
                reason: "the pictures lie inside Parquet or tar files, which a copy of the records cannot \
                         name; unpack them first"
                    .into(),
            });
        }
        let mut copy = fix.map(CleanCopy::create).transpose()?;
        let checker = Checker::new(
            &self.source,
            self.tokenizes,
            self.images,
            self.options.pixels,
        );
        let mut report = Report::new(self.tokenizes, self.images);
        let mut failed = None;
        let mut finished = true;
        let keep = copy.is_some();
        let threads = match self.options.threads {
            0 => blocks::threads(),
            threads => threads,
        };
        blocks::in_order(
            self.len(),
            threads,
            |range| range.map(|i| checker.check(i, keep)).collect::<Vec<_>>(),
            |range, found| {
                for one in found {
                    let sample = one.sample.clone();
                    let finding = report.add(one);
                    let Some(copy) = &mut copy else { continue };
                    let written = match (finding, sample) {
                        (Some(finding), _) => copy.quarantine(finding),
                        (None, Some(sample)) => copy.sample(&sample),
                        (None, None) => Ok(()),
                    };
                    if let Err(error) = written {
                        failed = Some(error);
                        return false;
                    }
                }
                finished = progress(range.end);
                finished
            },
        );
        if let Some(error) = failed {
            return Err(error);
        }
        if !finished && report.samples < self.len() {
            return Ok(None);
        }
        if let Some(copy) = copy {
            copy.publish()?;
        }
        report.finish()?;
        Ok(Some(report))
    }
}

/// A tokenizer of single bytes that nothing is asked of.
fn placeholder() -> Result<Tokenizer, TrainError> {
    let json = r#"{"version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null,
        "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": {"?": 0}, "unk_token": "?"}}"#;
    Tokenizer::from_json(json, &serde_json::Value::Null).map_err(|reason| {
        TrainError::Data(llavar_data::Error::Tokenizer {
            path: "built in".into(),
            reason,
        })
    })
}
