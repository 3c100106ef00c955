//! `SampleSource`: reads, tokenizes and decodes one sample by its number.

use std::{
    borrow::Cow,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
};

use llavar_data::{Dataset, Encoded, ImageSource, MaskMode, Sample, Template, Tokenizer};
use llavar_image::{DecodeLimits, ImageProcessor, RgbImage, decode_bytes, decode_file, read_file};

use super::{
    cache::ImageCache,
    cells::{CellLabels, supervised_cells},
    cuts::Cut,
    files,
};
use crate::{
    Recipe, TrainError,
    checkpoint::checksum,
    error::{SampleFault, chain},
    features::{FeatureCache, Features, PictureKey, key_of},
};

/// A picture on its way into the model.
#[derive(Debug, Clone)]
pub(crate) enum Picture {
    /// Square pixels (bytes take a quarter of the room of floats), and the key under which its features are
    /// kept.
    Pixels(Arc<RgbImage>, Option<PictureKey>),
    /// What the tower has made of it before.
    Known(Arc<Features>),
}

impl Picture {
    fn bytes(&self) -> usize {
        match self {
            Self::Pixels(image, _) => image.data.len(),
            Self::Known(features) => features.bytes(),
        }
    }
}

/// Files up to this size are read for a checksum.
const CHECKED_BYTES: u64 = 4 << 30;

/// What stands in front of a checksum.
const CHECKSUM: &str = " (crc32 ";

/// A sample that only waits for its place in a batch.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// Its number over all data files, from 0.
    pub(crate) index: usize,
    /// Its tokens, images not yet expanded.
    pub(crate) encoded: Encoded,
    /// Its pictures in the order of their tags.
    pub(crate) images: Vec<Picture>,
    /// What its image tokens are to say, one label each; empty where nothing is known of its picture.
    pub(crate) cells: Vec<i64>,
    /// What was cut off its end, if anything.
    pub(crate) cut: Option<Cut>,
}

/// The text side of a sample: all that is known without its pictures.
#[derive(Debug)]
pub(crate) struct Text<'a> {
    pub(crate) record: Record<'a>,
    pub(crate) encoded: Encoded,
    pub(crate) cells: Vec<i64>,
    pub(crate) cut: Option<Cut>,
}

impl Prepared {
    /// Tokens whose prediction counts: nothing stands before the first, so it is never predicted.
    pub(crate) fn supervised(&self) -> usize {
        let labels = self.encoded.labels.iter().skip(1);
        let text = labels.filter(|&&l| l != llavar_data::IGNORE_INDEX).count();
        text + supervised_cells(&self.cells)
    }

    /// Bytes held, about.
    pub(crate) fn bytes(&self) -> usize {
        (self.encoded.ids.len() * 2 + self.cells.len()) * 8
            + self.images.iter().map(Picture::bytes).sum::<usize>()
    }
}

/// A record and where it is from.
#[derive(Debug)]
pub(crate) struct Record<'a> {
    /// The file, and the sample's number there.
    pub(crate) set: &'a Dataset,
    pub(crate) local: usize,
    /// Its number over all files.
    pub(crate) index: usize,
    pub(crate) sample: Sample,
}

/// All data files of a run as one numbered set.
#[derive(Debug)]
pub(crate) struct SampleSource {
    sets: Vec<Dataset>,
    /// Passes over each of them in an epoch.
    weights: Vec<f64>,
    tokenizer: Tokenizer,
    template: Template,
    mask: MaskMode,
    cells: Option<CellLabels>,
    max_length: usize,
    /// Most tokens with images counted in full; 0: any number.
    pack_tokens: usize,
    image_tokens: usize,
    processor: Option<ImageProcessor>,
    limits: DecodeLimits,
    cache: ImageCache,
    features: Option<Arc<FeatureCache>>,
}

impl SampleSource {
    /// Opens the files of a recipe. `image` is the side of the model's input and the tokens that an image
    /// takes, `None` for a model that takes no images.
    pub(crate) fn open(
        recipe: &Recipe,
        tokenizer: Tokenizer,
        image: Option<(usize, usize)>,
    ) -> Result<Self, TrainError> {
        let folders = recipe.data.image_folder.list();
        let (mut sets, mut weights) = (Vec::new(), Vec::new());
        for (i, entry) in recipe.data.data_path.list().iter().enumerate() {
            let folder = folders.get(i).or(folders.first()).map(|f| Path::new(*f));
            for file in files::expand(entry)? {
                sets.push(Dataset::open(&file, folder)?);
                weights.push(recipe.data.weights.get(i).copied().unwrap_or(1.0));
            }
        }
        if sets.is_empty() {
            return Err(TrainError::Setting {
                key: "data.data_path",
                reason: "not given; name a LLaVA JSON, JSONL, Parquet or tar file".into(),
            });
        }
        let aspect = recipe
            .data
            .image_aspect_ratio
            .parse()
            .map_err(|_| TrainError::Setting {
                key: "data.image_aspect_ratio",
                reason: "must be pad, fit or square".into(),
            })?;
        let cells = (recipe.data.cells && image.is_some()).then(|| CellLabels::new(&tokenizer));
        Ok(Self {
            sets,
            weights,
            tokenizer,
            cells,
            template: Template::new(recipe.model.version.parse()?),
            mask: recipe.data.mask_compat.parse()?,
            max_length: recipe.train.model_max_length,
            pack_tokens: recipe.train.pack_tokens,
            image_tokens: image.map_or(0, |(_, tokens)| tokens),
            processor: image.map(|(size, _)| ImageProcessor::new(size, aspect)),
            limits: DecodeLimits::default(),
            cache: ImageCache::new(recipe.data.image_cache_bytes),
            features: None,
        })
    }

    /// Takes features that are known instead of pixels from now on.
    pub(crate) fn use_features(&mut self, features: Option<Arc<FeatureCache>>) {
        self.features = features;
    }

    /// Number of samples.
    pub(crate) fn len(&self) -> usize {
        self.sets.iter().map(Dataset::len).sum()
    }

    /// The files.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.sets.iter().map(Dataset::path)
    }

    /// Samples of each file, with its weight.
    pub(crate) fn weighted(&self) -> Vec<(usize, f64)> {
        let lens = self.sets.iter().map(Dataset::len);
        lens.zip(self.weights.iter().copied()).collect()
    }

    /// Whether pictures can be found: every file has a folder for them or holds them itself.
    pub(crate) fn finds_images(&self) -> bool {
        self.sets
            .iter()
            .all(|set| set.is_container() || set.image_folder().is_some())
    }

    /// Whether pictures lie in Parquet or tar files.
    pub(crate) fn has_container(&self) -> bool {
        self.sets.iter().any(Dataset::is_container)
    }

    /// Positions that an image takes.
    pub(crate) fn image_tokens(&self) -> usize {
        self.image_tokens
    }

    /// Everything that decides the text side of all samples, in words.
    pub(crate) fn identity(&self) -> String {
        let stamps: Vec<_> = self
            .sets
            .iter()
            .map(|set| (set.path(), set.stamp()))
            .collect();
        format!(
            "{stamps:?} {:016x} {:?} {:?} {} {} {}",
            self.tokenizer.identity(),
            self.template.name(),
            self.mask,
            self.max_length,
            self.pack_tokens,
            self.image_tokens
        )
    }

    /// Size in words of each sample, negative without image, as the length-grouping order takes it.
    /// A sample that cannot be read counts as one word: it is reported when its turn comes.
    pub(crate) fn modality_lengths(&self) -> Vec<i64> {
        let length = |sample: Sample| match sample.modality_length() {
            0 => 1,
            length => length,
        };
        self.sets
            .iter()
            .flat_map(Dataset::iter)
            .map(|sample| sample.map_or(1, length))
            .collect()
    }

    /// What the data are, for a check when a run resumes: number of samples, bytes of the files, and a checksum of
    /// those that hold text alone.
    pub(crate) fn fingerprint(&self) -> String {
        let of_set = |set: &Dataset| {
            let bytes = set.stamp().bytes;
            let size = format!("{} samples in {bytes} bytes", set.len());
            let text = !set.is_container() && bytes <= CHECKED_BYTES;
            let sum = text.then(|| checksum(set.path()).ok()).flatten();
            match sum {
                Some(sum) => format!("{size}{CHECKSUM}{})", sum.crc32),
                None => size,
            }
        };
        let sets: Vec<String> = self.sets.iter().map(of_set).collect();
        sets.join(" + ")
    }

    /// Whether these are the data of a fingerprint; earlier versions took no checksum.
    pub(crate) fn is_of(&self, fingerprint: &str) -> bool {
        let now = self.fingerprint();
        let sizes = || {
            let sets = now.split(" + ").map(|set| set.split(CHECKSUM).next());
            sets.flatten().collect::<Vec<_>>().join(" + ")
        };
        now == fingerprint || !fingerprint.contains(CHECKSUM) && sizes() == fingerprint
    }

    /// The tokenizer.
    pub(crate) fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The image processor; `None` for a model that takes no images.
    pub(crate) fn processor(&self) -> Option<&ImageProcessor> {
        self.processor.as_ref()
    }

    /// Reads sample `index` with its pictures.
    pub(crate) fn prepare(&self, index: usize) -> Result<Prepared, SampleFault> {
        guarded(index, || {
            let text = self.read_text(index)?;
            // Tags stand in the order of the images, and cutting removes from the end.
            let wanted = text.encoded.images();
            let mut images = Vec::with_capacity(wanted);
            for nth in 0..wanted {
                let source = text.record.image(nth)?;
                let image = self.image(&source, text.record.local, nth);
                images.push(image.map_err(|reason| text.record.image_fault(&source, reason))?);
            }
            Ok(Prepared {
                index,
                encoded: text.encoded,
                images,
                cells: text.cells,
                cut: text.cut,
            })
        })
    }

    /// Reads and tokenizes sample `index`, and cuts it to the longest allowed; no picture is touched.
    pub(crate) fn text(&self, index: usize) -> Result<Text<'_>, SampleFault> {
        guarded(index, || self.read_text(index))
    }

    /// Reads the record of sample `index` and nothing else.
    pub(crate) fn record(&self, index: usize) -> Result<Record<'_>, SampleFault> {
        guarded(index, || self.read_record(index))
    }

    fn read_record(&self, index: usize) -> Result<Record<'_>, SampleFault> {
        let mut local = index;
        let mut found = None;
        for set in &self.sets {
            if local < set.len() {
                found = Some(set);
                break;
            }
            local -= set.len();
        }
        let fault = |id: &str, path: Option<PathBuf>, reason: String| SampleFault {
            index,
            id: id.to_owned(),
            path,
            phase: "read",
            reason,
        };
        let Some(set) = found else {
            return Err(fault("?", None, "there is no such sample".into()));
        };
        let sample = set.get(local).map_err(|error| {
            let id = match &error {
                llavar_data::Error::Sample { at, .. } => at.id.clone(),
                _ => None,
            };
            let path = Some(set.path().to_owned());
            fault(id.as_deref().unwrap_or("?"), path, chain(&error))
        })?;
        Ok(Record {
            set,
            local,
            index,
            sample,
        })
    }

    fn read_text(&self, index: usize) -> Result<Text<'_>, SampleFault> {
        let record = self.read_record(index)?;
        let sample = &record.sample;
        let fault = |reason: String| SampleFault {
            index,
            id: sample.id.to_string(),
            path: Some(record.set.path().to_owned()),
            phase: "encode",
            reason,
        };
        let mut encoded = self
            .template
            .encode_sample(&self.tokenizer, sample, self.mask)
            .map_err(|error| fault(chain(&error)))?;
        let (tokens, images, supervised) =
            (encoded.ids.len(), encoded.images(), encoded.supervised());
        // The reference cuts the text before the image features are inserted: an image counts as one.
        let mut dropped = encoded.truncate(self.max_length, 1);
        if self.pack_tokens > 0 && dropped.is_ok() {
            dropped = encoded.truncate(self.pack_tokens, self.image_tokens);
        }
        dropped.map_err(|error| fault(chain(&error)))?;
        let cut = (encoded.ids.len() < tokens).then(|| Cut {
            index,
            id: sample.id.to_string(),
            tokens_before: tokens,
            tokens_cut: tokens - encoded.ids.len(),
            images_dropped: images - encoded.images(),
            supervised_cut: supervised - encoded.supervised(),
        });
        // Nothing stands before the first token, so it is never predicted.
        let labels = encoded.labels.iter().skip(1);
        if labels.clone().all(|&l| l == llavar_data::IGNORE_INDEX) {
            let reason = "no supervised token has another token before it".into();
            return Err(fault(reason));
        }
        let cells = match &self.cells {
            // Of several pictures it would not be known whose cells they are.
            Some(cells) if encoded.images() == 1 => cells
                .of(sample, self.image_tokens, &self.tokenizer)
                .map_err(fault)?
                .unwrap_or_default(),
            _ => Vec::new(),
        };
        Ok(Text {
            record,
            encoded,
            cells,
            cut,
        })
    }

    fn image(&self, source: &ImageSource, local: usize, nth: usize) -> Result<Picture, String> {
        let Some(processor) = &self.processor else {
            return Err("the model takes no images".into());
        };
        if let Some(features) = &self.features {
            let (bytes, name) = match source {
                ImageSource::File(path) => {
                    let bytes = read_file(path, &self.limits).map_err(|e| chain(&e))?;
                    (Cow::Owned(bytes), path)
                }
                ImageSource::Bytes { name, bytes } => (Cow::Borrowed(bytes.as_slice()), name),
            };
            let key = key_of(&bytes);
            if let Some(known) = features.load(key) {
                return Ok(Picture::Known(Arc::new(known)));
            }
            let image = decode_bytes(&bytes, name, &self.limits).map_err(|e| chain(&e))?;
            let image = processor.to_square(&image).map_err(|e| chain(&e))?;
            return Ok(Picture::Pixels(Arc::new(image), Some(key)));
        }
        // Names within a container need not differ.
        let key = match source {
            ImageSource::File(path) => path.clone(),
            ImageSource::Bytes { name, .. } => name.join(format!("{local}.{nth}")),
        };
        if let Some(image) = self.cache.get(&key) {
            return Ok(Picture::Pixels(image, None));
        }
        let image = match source {
            ImageSource::File(path) => decode_file(path, &self.limits),
            ImageSource::Bytes { name, bytes } => decode_bytes(bytes, name, &self.limits),
        };
        let image = image.map_err(|error| chain(&error))?;
        let image = Arc::new(processor.to_square(&image).map_err(|error| chain(&error))?);
        self.cache.put(&key, &image);
        Ok(Picture::Pixels(image, None))
    }
}

impl Record<'_> {
    /// Where image `nth` is.
    pub(crate) fn image(&self, nth: usize) -> Result<ImageSource, SampleFault> {
        self.set
            .image(self.local, &self.sample, nth)
            .map_err(|error| SampleFault {
                index: self.index,
                id: self.sample.id.to_string(),
                path: self.sample.images.get(nth).map(PathBuf::from),
                phase: "image path",
                reason: chain(&error),
            })
    }

    /// The fault of an image that was found and cannot be used.
    pub(crate) fn image_fault(&self, source: &ImageSource, reason: String) -> SampleFault {
        let (ImageSource::File(path) | ImageSource::Bytes { name: path, .. }) = source;
        SampleFault {
            index: self.index,
            id: self.sample.id.to_string(),
            path: Some(path.clone()),
            phase: "image",
            reason,
        }
    }
}

/// Whatever a sample does to its readers is its own fault.
fn guarded<T>(
    index: usize,
    read: impl FnOnce() -> Result<T, SampleFault>,
) -> Result<T, SampleFault> {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| {
        Err(SampleFault {
            index,
            id: "?".into(),
            path: None,
            phase: "read",
            reason: "reading it failed in an unforeseen way".into(),
        })
    })
}
