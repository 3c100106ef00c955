//! One sample: what it is and what is wrong with it.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use llavar_data::{ImageSource, Role, Sample, Turn};
use llavar_image::{DecodeLimits, decode_bytes, decode_file, probe_bytes, probe_file};

use crate::{
    SampleFault,
    data::{
        Record, SampleSource,
        cells::{CELLS, supervised_cells},
    },
    error::chain,
};

/// What was found out about one sample.
pub(super) struct Checked {
    pub(super) fault: Option<SampleFault>,
    pub(super) index: usize,
    pub(super) id: String,
    pub(super) words: usize,
    /// Images counted in full.
    pub(super) tokens: usize,
    pub(super) supervised: usize,
    pub(super) turns: usize,
    pub(super) dropped_turns: usize,
    pub(super) images: usize,
    /// Width and height of each picture whose header was read.
    pub(super) sizes: Vec<(u32, u32)>,
    pub(super) cut: Option<(usize, usize)>,
    pub(super) unknown: Vec<String>,
    /// Of pictures and turns.
    pub(super) content: u64,
    /// Only where a copy is written.
    pub(super) sample: Option<Sample>,
}

type Size = Result<(u32, u32), String>;

pub(super) struct Checker<'a> {
    source: &'a SampleSource,
    tokenizes: bool,
    images: bool,
    pixels: bool,
    limits: DecodeLimits,
    /// Pictures are shared by many samples.
    seen: Mutex<HashMap<PathBuf, Size>>,
}

impl<'a> Checker<'a> {
    pub(super) fn new(
        source: &'a SampleSource,
        tokenizes: bool,
        images: bool,
        pixels: bool,
    ) -> Self {
        Self {
            source,
            tokenizes,
            images,
            pixels,
            limits: DecodeLimits::default(),
            seen: Mutex::default(),
        }
    }

    pub(super) fn check(&self, index: usize, keep: bool) -> Checked {
        let mut found = Checked {
            fault: None,
            index,
            id: "?".into(),
            words: 0,
            tokens: 0,
            supervised: 0,
            turns: 0,
            dropped_turns: 0,
            images: 0,
            sizes: Vec::new(),
            cut: None,
            unknown: Vec::new(),
            content: 0,
            sample: None,
        };
        let text = match self.tokenizes {
            false => self.source.record(index).map(|record| (record, None)),
            true => self
                .source
                .text(index)
                .map(|text| (text.record, Some((text.encoded, text.cells, text.cut)))),
        };
        let (record, encoded) = match text {
            Ok(found) => found,
            Err(fault) => {
                found.id.clone_from(&fault.id);
                found.fault = Some(fault);
                return found;
            }
        };
        let sample = &record.sample;
        found.id = sample.id.to_string();
        found.words = sample.words();
        found.turns = sample.conversations.len();
        found.dropped_turns = sample.dropped_turns;
        found.images = sample.images.len();
        let unknown = sample.extra.keys().filter(|key| *key != CELLS);
        found.unknown = unknown.cloned().collect();
        found.content = content(sample);
        // With a tokenizer this is seen where labels are made.
        let is_answer = |turn: &Turn| turn.from == Role::Gpt && !turn.value.trim().is_empty();
        if !self.tokenizes && !sample.conversations.iter().any(is_answer) {
            found.fault = Some(SampleFault {
                index,
                id: found.id.clone(),
                path: Some(record.set.path().to_owned()),
                phase: "encode",
                reason: "there is no answer to learn from".into(),
            });
            return found;
        }
        if let Some((encoded, cells, cut)) = encoded {
            found.tokens = encoded.expanded_len(self.source.image_tokens());
            found.supervised = encoded.supervised() + supervised_cells(&cells);
            found.cut = cut.map(|cut| (cut.tokens_cut, cut.images_dropped));
        }
        if self.images {
            for nth in 0..sample.images.len() {
                match self.picture(&record, nth) {
                    Ok(size) => found.sizes.push(size),
                    Err(fault) => {
                        found.fault = Some(fault);
                        break;
                    }
                }
            }
        }
        found.sample = keep.then_some(record.sample);
        found
    }

    fn picture(&self, record: &Record<'_>, nth: usize) -> Result<(u32, u32), SampleFault> {
        let source = record.image(nth)?;
        let size = match &source {
            ImageSource::File(path) => {
                let seen = || self.seen.lock().unwrap_or_else(PoisonError::into_inner);
                let known = seen().get(path).cloned();
                known.unwrap_or_else(|| {
                    let size = self.read(&source);
                    seen().insert(path.clone(), size.clone());
                    size
                })
            }
            ImageSource::Bytes { .. } => self.read(&source),
        };
        size.map_err(|reason| record.image_fault(&source, reason))
    }

    fn read(&self, source: &ImageSource) -> Size {
        if self.pixels {
            let image = match source {
                ImageSource::File(path) => decode_file(path, &self.limits),
                ImageSource::Bytes { name, bytes } => decode_bytes(bytes, name, &self.limits),
            };
            return image
                .map(|image| (image.width as u32, image.height as u32))
                .map_err(|e| chain(&e));
        }
        let (info, path) = match source {
            ImageSource::File(path) => (probe_file(path, &self.limits), path),
            ImageSource::Bytes { name, bytes } => (probe_bytes(bytes, name), name),
        };
        info.and_then(|info| {
            self.limits.check_size(path, info.width, info.height)?;
            Ok((info.width, info.height))
        })
        .map_err(|e| chain(&e))
    }
}

/// Equal for samples that teach the same.
fn content(sample: &Sample) -> u64 {
    let mut hasher = DefaultHasher::new();
    sample.images.hash(&mut hasher);
    for turn in &sample.conversations {
        (turn.from, &turn.value).hash(&mut hasher);
    }
    hasher.finish()
}
