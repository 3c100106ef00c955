//! `SampleSource`: reads, tokenizes and decodes one sample by its number.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use llavar_data::{Dataset, Encoded, MaskMode, Sample, Template, Tokenizer};
use llavar_image::{DecodeLimits, ImageProcessor, RgbImage, decode_file};

use super::cache::ImageCache;
use crate::{
    Recipe, TrainError,
    error::{SampleFault, chain},
};

/// A sample that only waits for its place in a batch.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// Its tokens, images not yet expanded.
    pub(crate) encoded: Encoded,
    /// Its pictures, square, in the order of their tags. Bytes take a quarter of the room of floats.
    pub(crate) images: Vec<Arc<RgbImage>>,
}

impl Prepared {
    /// Tokens whose prediction counts: nothing stands before the first, so it is never predicted.
    pub(crate) fn supervised(&self) -> usize {
        let labels = self.encoded.labels.iter().skip(1);
        labels.filter(|&&l| l != llavar_data::IGNORE_INDEX).count()
    }

    /// Bytes held, about.
    pub(crate) fn bytes(&self) -> usize {
        self.encoded.ids.len() * 16 + self.images.iter().map(|i| i.data.len()).sum::<usize>()
    }
}

/// All data files of a run as one numbered set.
#[derive(Debug)]
pub(crate) struct SampleSource {
    sets: Vec<Dataset>,
    tokenizer: Tokenizer,
    template: Template,
    mask: MaskMode,
    max_length: usize,
    processor: Option<ImageProcessor>,
    limits: DecodeLimits,
    cache: ImageCache,
}

impl SampleSource {
    /// Opens the files of a recipe. `image_size` is the side of the model's input, `None` for a model
    /// that takes no images.
    pub(crate) fn open(
        recipe: &Recipe,
        tokenizer: Tokenizer,
        image_size: Option<usize>,
    ) -> Result<Self, TrainError> {
        let files = recipe.data.data_path.list();
        let folders = recipe.data.image_folder.list();
        if files.is_empty() {
            return Err(TrainError::Setting {
                key: "data.data_path",
                reason: "not given; name a LLaVA JSON or JSONL file".into(),
            });
        }
        let sets = files
            .iter()
            .enumerate()
            .map(|(i, file)| {
                let folder = folders.get(i).or(folders.first()).map(|f| Path::new(*f));
                Dataset::open(Path::new(file), folder)
            })
            .collect::<Result<_, _>>()?;
        let aspect = recipe
            .data
            .image_aspect_ratio
            .parse()
            .map_err(|_| TrainError::Setting {
                key: "data.image_aspect_ratio",
                reason: "must be pad or square".into(),
            })?;
        Ok(Self {
            sets,
            tokenizer,
            template: Template::new(recipe.model.version.parse()?),
            mask: recipe.data.mask_compat.parse()?,
            max_length: recipe.train.model_max_length,
            processor: image_size.map(|size| ImageProcessor::new(size, aspect)),
            limits: DecodeLimits::default(),
            cache: ImageCache::new(recipe.data.image_cache_bytes),
        })
    }

    /// Number of samples.
    pub(crate) fn len(&self) -> usize {
        self.sets.iter().map(Dataset::len).sum()
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

    /// What the data are, for a check when a run resumes: number of samples and bytes of the files.
    pub(crate) fn fingerprint(&self) -> String {
        let sizes: Vec<String> = self
            .sets
            .iter()
            .map(|set| {
                let bytes = std::fs::metadata(set.path()).map_or(0, |m| m.len());
                format!("{} samples in {bytes} bytes", set.len())
            })
            .collect();
        sizes.join(" + ")
    }

    /// The tokenizer.
    pub(crate) fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The image processor; `None` for a model that takes no images.
    pub(crate) fn processor(&self) -> Option<&ImageProcessor> {
        self.processor.as_ref()
    }

    /// Reads sample `index`.
    pub(crate) fn prepare(&self, index: usize) -> Result<Prepared, SampleFault> {
        let mut local = index;
        let mut found = None;
        for set in &self.sets {
            if local < set.len() {
                found = Some(set);
                break;
            }
            local -= set.len();
        }
        let fault = |id: &str, path: Option<PathBuf>, phase, reason: String| SampleFault {
            index,
            id: id.to_owned(),
            path,
            phase,
            reason,
        };
        let Some(set) = found else {
            return Err(fault("?", None, "read", "there is no such sample".into()));
        };
        let file = || Some(set.path().to_owned());
        let sample = set.get(local).map_err(|error| {
            let id = match &error {
                llavar_data::Error::Sample { at, .. } => at.id.clone(),
                _ => None,
            };
            fault(id.as_deref().unwrap_or("?"), file(), "read", chain(&error))
        })?;
        let id = sample.id.to_string();
        let mut encoded = self
            .template
            .encode_sample(&self.tokenizer, &sample, self.mask)
            .map_err(|error| fault(&id, file(), "encode", chain(&error)))?;
        // The reference cuts the text before the image features are inserted: an image counts as one.
        encoded
            .truncate(self.max_length, 1)
            .map_err(|error| fault(&id, file(), "encode", chain(&error)))?;
        let prepared = Prepared {
            encoded,
            images: Vec::new(),
        };
        if prepared.supervised() == 0 {
            let reason = "no supervised token has another token before it".into();
            return Err(fault(&id, file(), "encode", reason));
        }
        // Tags stand in the order of the images, and cutting removes from the end.
        let wanted = prepared.encoded.images();
        let mut images = Vec::with_capacity(wanted);
        for name in sample.images.iter().take(wanted) {
            let path = set
                .image_path(name)
                .map_err(|error| fault(&id, Some(name.into()), "image path", chain(&error)))?;
            images.push(
                self.image(&path)
                    .map_err(|reason| fault(&id, Some(path.clone()), "image", reason))?,
            );
        }
        Ok(Prepared { images, ..prepared })
    }

    fn image(&self, path: &Path) -> Result<Arc<RgbImage>, String> {
        let Some(processor) = &self.processor else {
            return Err("the model takes no images".into());
        };
        if let Some(image) = self.cache.get(path) {
            return Ok(image);
        }
        let image = decode_file(path, &self.limits).map_err(|error| chain(&error))?;
        let image = Arc::new(processor.to_square(&image).map_err(|error| chain(&error))?);
        self.cache.put(path, &image);
        Ok(image)
    }
}
