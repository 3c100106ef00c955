//! From samples to rows: prepared sample by sample, computed many at a time.

use std::{error::Error as StdError, path::PathBuf};

use llavar_assistant::Assistant;
use llavar_data::{ImageSource, Sample, Template, TemplateName};
use llavar_image::{DecodeLimits, RgbImage, decode_bytes, decode_file};
use llavar_model::SharedPrefixes;
use llavar_tensor::Tensor;

use crate::{
    Compat, Duos, ScoreRow, ScoreSet, SelectError,
    hash::{START, fnv1a},
    pairs,
    pass::{self, Job},
    remote::{self, RemoteModel, RemotePrompt},
    row::Place,
    texts::{Text, TextBuilder},
};

/// Pictures whose features are kept for samples to come that show them again.
const KEPT_PICTURES: usize = 64;

/// What is scored and how much at a time. Nothing here but `scores`, `duos`, `compat` and `max_length`
/// changes a result.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScoreOptions {
    /// Scores wanted.
    pub scores: ScoreSet,
    /// When conversations are duos.
    pub duos: Duos,
    /// Spans of the formulas.
    pub compat: Compat,
    /// Longest text, tokens; the model's context if absent.
    pub max_length: Option<usize>,
    /// Tokens of one pass of the language model.
    pub batch_tokens: usize,
    /// Pictures of one pass of the vision tower.
    pub batch_images: usize,
}

impl Default for ScoreOptions {
    fn default() -> Self {
        Self {
            scores: ScoreSet::ALL,
            duos: Duos::Auto,
            compat: Compat::Exact,
            max_length: None,
            batch_tokens: 4096,
            batch_images: 1,
        }
    }
}

/// A sample that only waits for the model.
#[derive(Debug)]
pub struct Prepared {
    pub(crate) rows: Vec<ScoreRow>,
    texts: Vec<Text>,
    pictures: Vec<(PathBuf, RgbImage)>,
    /// Tokens to compute, beginnings counted once.
    tokens: usize,
    /// What a server is asked instead of the texts.
    pub(crate) prompts: Vec<RemotePrompt>,
}

impl Prepared {
    /// Rows that it will give.
    pub fn pairs(&self) -> usize {
        self.rows.len()
    }

    /// Tokens that the model computes for it, what its texts have in common counted once.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// A record that cannot be read.
    pub(crate) fn unreadable(mut row: ScoreRow, reason: String) -> Self {
        row.reason = Some(reason);
        Self::rows(vec![row])
    }

    /// Rows that nothing has to be computed for.
    fn rows(rows: Vec<ScoreRow>) -> Self {
        Self {
            rows,
            texts: Vec::new(),
            pictures: Vec::new(),
            tokens: 0,
            prompts: Vec::new(),
        }
    }
}

/// Measures the losses of samples with one model.
#[derive(Debug)]
pub struct Scorer<'a> {
    model: Model<'a>,
    options: ScoreOptions,
}

/// Takes rows with the number of their first sample among those given, in any order.
pub(crate) type Done<'a> = &'a mut dyn FnMut(usize, Vec<ScoreRow>) -> Result<(), SelectError>;

/// Where the model runs.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Model<'a> {
    Local(&'a Assistant),
    Remote(&'a RemoteModel),
}

impl<'a> Scorer<'a> {
    /// A scorer of these options.
    ///
    /// # Errors
    /// [`SelectError::NoVision`], [`SelectError::PlainTemplate`], [`SelectError::Setting`].
    pub fn new(assistant: &'a Assistant, options: ScoreOptions) -> Result<Self, SelectError> {
        if options.scores.needs_images() && assistant.model().image_size().is_none() {
            return Err(SelectError::NoVision);
        }
        Self::checked(Model::Local(assistant), options)
    }

    /// A scorer whose model is on a server. Where scores of pictures are asked for, the server is asked for
    /// one first.
    ///
    /// # Errors
    /// [`SelectError::ServerVision`], [`SelectError::Server`], [`SelectError::PlainTemplate`],
    /// [`SelectError::Setting`].
    pub fn remote(model: &'a RemoteModel, options: ScoreOptions) -> Result<Self, SelectError> {
        let scorer = Self::checked(Model::Remote(model), options)?;
        if options.scores.needs_images() {
            model.check_pictures()?;
        }
        Ok(scorer)
    }

    fn checked(model: Model<'a>, options: ScoreOptions) -> Result<Self, SelectError> {
        let scorer = Self { model, options };
        if scorer.template().name() == TemplateName::Plain {
            return Err(SelectError::PlainTemplate);
        }
        for (option, value) in [
            ("batch tokens", options.batch_tokens),
            ("batch images", options.batch_images),
            ("max length", options.max_length.unwrap_or(1)),
        ] {
            if value == 0 {
                let reason = "must be at least 1".to_owned();
                return Err(SelectError::Setting { option, reason });
            }
        }
        Ok(scorer)
    }

    /// Its options.
    pub fn options(&self) -> &ScoreOptions {
        &self.options
    }

    /// Its model.
    pub(crate) fn model(&self) -> Model<'a> {
        self.model
    }

    /// The conversation template that texts are rendered with.
    pub fn template(&self) -> &Template {
        match self.model {
            Model::Local(assistant) => assistant.template(),
            Model::Remote(model) => model.template(),
        }
    }

    /// Longest text, tokens; none where a server sets the limit.
    pub fn max_length(&self) -> Option<usize> {
        let own = self.options.max_length;
        match self.model {
            Model::Local(assistant) => {
                let context = assistant.model().context_length();
                Some(own.map_or(context, |n| n.min(context)))
            }
            Model::Remote(_) => own,
        }
    }

    /// Tokenizes a sample and decodes its pictures; `source_of` finds them by number. What is wrong with it
    /// becomes the reason of its rows.
    pub fn prepare<E: StdError>(
        &self,
        sample: &Sample,
        record: usize,
        occurrence: u32,
        source_of: impl Fn(usize) -> Result<ImageSource, E>,
    ) -> Prepared {
        let place = Place::of(sample, record, occurrence);
        let pairs = pairs(sample, self.options.duos);
        let mut rows: Vec<ScoreRow> = pairs
            .iter()
            .map(|pair| ScoreRow::unscored(&place, pair))
            .collect();
        let assistant = match self.model {
            Model::Local(assistant) => assistant,
            Model::Remote(model) => {
                let (pictures, trouble) = self.pictures(sample, source_of, |_, source| {
                    remote::picture(source).map_err(|error| chain(&error))
                });
                let prompts = model.prompts(&pairs, &self.options, pictures.into(), &mut rows);
                for row in &mut rows {
                    row.reason = row.reason.take().or(trouble.clone());
                }
                return Prepared {
                    prompts,
                    ..Prepared::rows(rows)
                };
            }
        };
        let (pictures, trouble) = self.pictures(sample, source_of, |name, source| {
            picture(assistant, name, source)
        });
        let builder = TextBuilder {
            assistant,
            scores: self.options.scores,
            compat: self.options.compat,
            images: pictures.len(),
            limit: self.max_length().unwrap_or(usize::MAX),
        };
        let (texts, reasons) = builder.texts(&pairs).unwrap_or_else(|error| {
            let reason = format!("cannot be encoded: {}", chain(&error));
            (Vec::new(), vec![Some(reason); pairs.len()])
        });
        for (row, reason) in rows.iter_mut().zip(reasons) {
            row.reason = reason.or(trouble.clone());
        }
        let mut shared = SharedPrefixes::new();
        for text in &texts {
            shared.push(&text.ids, false);
        }
        Prepared {
            tokens: shared.tokens(),
            texts,
            pictures,
            ..Prepared::rows(rows)
        }
    }

    /// The pictures of a sample, all or none, and why none; none either where no score needs them.
    fn pictures<E: StdError, P>(
        &self,
        sample: &Sample,
        source_of: impl Fn(usize) -> Result<ImageSource, E>,
        read: impl Fn(&str, ImageSource) -> Result<P, String>,
    ) -> (Vec<P>, Option<String>) {
        let mut pictures = Vec::new();
        if !self.options.scores.needs_images() {
            return (pictures, None);
        }
        for (nth, name) in sample.images.iter().enumerate() {
            let source = source_of(nth).map_err(|error| chain(&error));
            match source.and_then(|source| read(name, source)) {
                Ok(picture) => pictures.push(picture),
                Err(reason) => return (Vec::new(), Some(format!("picture {name}: {reason}"))),
            }
        }
        (pictures, None)
    }

    /// The rows of prepared samples in their order. `seen` keeps features of pictures between calls.
    ///
    /// # Errors
    /// When the model fails or the device has no room.
    pub fn score(
        &self,
        prepared: Vec<Prepared>,
        seen: &mut SeenPictures,
    ) -> Result<Vec<ScoreRow>, SelectError> {
        let mut all = Vec::new();
        self.score_each(prepared, seen, &mut |first, rows| {
            all.push((first, rows));
            Ok(())
        })?;
        all.sort_by_key(|(first, _)| *first);
        Ok(all.into_iter().flat_map(|(_, rows)| rows).collect())
    }

    /// As [`Scorer::score`], to `done` as soon as a pass is through, or on a server a sample.
    pub(crate) fn score_each(
        &self,
        prepared: Vec<Prepared>,
        seen: &mut SeenPictures,
        done: Done<'_>,
    ) -> Result<(), SelectError> {
        let assistant = match self.model {
            Model::Local(assistant) => assistant,
            Model::Remote(model) => return model.score(prepared, self.options.max_length, done),
        };
        let mut first = 0;
        let mut rest = prepared.into_iter().peekable();
        while rest.peek().is_some() {
            let (mut batch, mut tokens) = (Vec::new(), 0);
            while let Some(next) = rest.next_if(|next| {
                batch.is_empty() || tokens + next.tokens <= self.options.batch_tokens
            }) {
                tokens += next.tokens;
                batch.push(next);
            }
            let samples = batch.len();
            done(first, self.score_pass(assistant, batch, seen)?)?;
            first += samples;
        }
        Ok(())
    }

    fn score_pass(
        &self,
        assistant: &Assistant,
        batch: Vec<Prepared>,
        seen: &mut SeenPictures,
    ) -> Result<Vec<ScoreRow>, SelectError> {
        let (pictures, features) = seen.look(assistant, &batch, self.options.batch_images)?;
        let jobs: Vec<Job<'_>> = batch
            .iter()
            .zip(pictures)
            .map(|(prepared, pictures)| Job {
                texts: &prepared.texts,
                pairs: prepared.rows.len(),
                pictures,
            })
            .collect();
        let losses = pass::run(assistant.model(), &jobs, features.as_ref())?;
        let rows = batch
            .into_iter()
            .zip(losses)
            .flat_map(|(prepared, losses)| {
                let rows = prepared.rows.into_iter().zip(losses);
                rows.map(|(mut row, losses)| {
                    row.fill(&losses);
                    row
                })
            });
        Ok(rows.collect())
    }
}

/// A picture as the tower takes it, under a path that tells it from others.
fn picture(
    assistant: &Assistant,
    name: &str,
    source: ImageSource,
) -> Result<(PathBuf, RgbImage), String> {
    let limits = DecodeLimits::default();
    let (path, image) = match source {
        ImageSource::File(path) => {
            let image = decode_file(&path, &limits);
            (path, image)
        }
        ImageSource::Bytes { name: at, bytes } => {
            // Several pictures of a container may have one name, and none.
            let content = fnv1a(START, &bytes);
            let image = decode_bytes(&bytes, &at, &limits);
            (at.join(format!("{name}.{content:016x}")), image)
        }
    };
    let image = image.map_err(|error| chain(&error))?;
    let square = assistant.to_square(&image);
    Ok((path, square.map_err(|error| chain(&error))?))
}

/// Features of pictures seen last, by file.
#[derive(Debug, Default)]
pub struct SeenPictures {
    kept: Vec<(PathBuf, Tensor)>,
    encoded: usize,
}

impl SeenPictures {
    /// Pictures that went through the vision tower so far.
    pub fn encoded(&self) -> usize {
        self.encoded
    }

    /// Numbers of the pictures of every sample, and the features of all in the order of the numbers.
    fn look(
        &mut self,
        assistant: &Assistant,
        batch: &[Prepared],
        at_once: usize,
    ) -> Result<(Vec<Vec<usize>>, Option<Tensor>), SelectError> {
        let mut needed: Vec<(&PathBuf, &RgbImage)> = Vec::new();
        let mut numbers = Vec::with_capacity(batch.len());
        for prepared in batch {
            let mut own = Vec::new();
            for (path, square) in &prepared.pictures {
                let known = needed.iter().position(|(other, _)| *other == path);
                own.push(known.unwrap_or(needed.len()));
                if known.is_none() {
                    needed.push((path, square));
                }
            }
            numbers.push(own);
        }
        let new: Vec<(&PathBuf, &RgbImage)> = needed
            .iter()
            .copied()
            .filter(|(path, _)| !self.kept.iter().any(|(other, _)| other == *path))
            .collect();
        for some in new.chunks(at_once) {
            let squares: Vec<RgbImage> = some.iter().map(|(_, square)| (*square).clone()).collect();
            let features = assistant.see_squares(&squares)?;
            let rows = features.rows() / some.len();
            for (i, (path, _)) in some.iter().enumerate() {
                let own = features.narrow(i * rows, rows)?;
                self.kept.push(((*path).clone(), own));
            }
            self.encoded += some.len();
        }
        let features: Vec<Tensor> = needed
            .iter()
            .filter_map(|(path, _)| self.kept.iter().find(|(other, _)| other == *path))
            .map(|(_, features)| features.clone())
            .collect();
        let surplus = self.kept.len().saturating_sub(KEPT_PICTURES);
        self.kept.drain(..surplus);
        let features = match features.is_empty() {
            true => None,
            false => Some(Tensor::concat(&features)?),
        };
        Ok((numbers, features))
    }
}

/// An error with its causes in one line.
pub(crate) fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
#[path = "../tests/served/mod.rs"]
#[allow(dead_code, clippy::unwrap_used)]
mod served;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_pass_is_handed_over_before_the_next() {
        let assistant = served::assistant();
        let options = ScoreOptions {
            scores: ScoreSet::TEXT,
            batch_tokens: 1,
            ..ScoreOptions::default()
        };
        let scorer = Scorer::new(&assistant, options).unwrap();
        let none = |_: usize| Err(std::io::Error::other("no picture"));
        let samples = served::samples();
        let prepared = samples.iter().enumerate();
        let mut prepared: Vec<Prepared> = prepared
            .map(|(i, sample)| scorer.prepare(sample, i, 0, none))
            .collect();
        // The model fails at the last sample.
        prepared[2].texts[0].ids[0] = i32::MAX;
        let mut ids = Vec::new();
        let mut done = |first: usize, rows: Vec<ScoreRow>| {
            ids.push((first, rows[0].id.clone()));
            Ok(())
        };
        let scored = scorer.score_each(prepared, &mut SeenPictures::default(), &mut done);
        assert!(scored.is_err());
        assert_eq!(ids, [(0, "a".to_owned()), (1, "b".to_owned())]);
    }
}
