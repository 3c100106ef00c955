//! `FeatureCache`: what a frozen vision tower makes of each picture, kept on disk from one pass to the next.
//!
//! ```text
//! DIR/KEY/ab/abcdef..  one file a picture: magic, checksum, values as they were computed
//! ```
//! `KEY` stands for everything that decides the values beside the picture: weights of the tower, preprocessing,
//! element type, kind of device. A picture is known by a hash of its encoded bytes, so it is neither decoded nor
//! resized again. Files are written aside and renamed; a damaged one is as good as none.
//!
//! On the CPU the values of a picture do not depend on its batch, so that the results of a run are the same bits
//! with and without. Towers of test size (64 channels and less) are an exception: the matrix library sums products
//! of so few rows and columns in another order.

mod entry;
mod room;

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use llavar_model::{LlavaModel, TowerFeatures};
use llavar_tensor::{DType, Device, Param, Tensor};
use serde::Serialize;
use twox_hash::XxHash3_128;

use crate::{
    Recipe, TrainError,
    data::{Pictures, SampleSource, blocks},
    recipe::Stage,
};

pub(crate) use entry::Features;

/// Layout of the files; another one is another key.
const LAYOUT: &str = "llavar-features-1";
/// Share of the free disk that is left alone.
const SPARE: f64 = 0.05;

/// A picture's encoded bytes in short.
pub(crate) type PictureKey = u128;

/// The key of encoded bytes.
pub(crate) fn key_of(bytes: &[u8]) -> PictureKey {
    XxHash3_128::oneshot(bytes)
}

/// What a run says about its cache before it begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FeatureReport {
    /// The folder.
    pub path: PathBuf,
    /// Different pictures of the data.
    pub pictures: usize,
    /// Pictures whose features are there already, of these or other data.
    pub present: usize,
    /// Bytes of one picture's features.
    pub picture_bytes: u64,
    /// Bytes that the run will write, at most.
    pub to_write: u64,
    /// Bytes that are free there; `None` where the system does not tell.
    pub free: Option<u64>,
}

/// The cache of a run.
#[derive(Debug)]
pub(crate) struct FeatureCache {
    folder: PathBuf,
    /// Of one picture: fast path, then slow path.
    shapes: Vec<Vec<usize>>,
    dtype: DType,
    /// Why nothing is written any more.
    failed: Mutex<Option<String>>,
    written: AtomicU64,
}

impl FeatureCache {
    /// The cache that a recipe asks for, for a model whose weights are on the CPU and know whether they train.
    ///
    /// # Errors
    /// [`TrainError::Setting`] where the tower trains, has adapters, or is kept in parts.
    pub(crate) fn open(
        recipe: &Recipe,
        model: &LlavaModel,
        device: &Device,
        dtype: DType,
        whole_weights: bool,
    ) -> Result<Option<Self>, TrainError> {
        let Some(folder) = &recipe.data.vision_features_cache else {
            return Ok(None);
        };
        let refused = |reason: String| TrainError::Setting {
            key: "data.vision_features_cache",
            reason,
        };
        let Some(tower) = &model.vision_tower else {
            return Err(refused("the model has no vision tower".into()));
        };
        let params = model.params();
        let frozen = || params.iter().filter(|p| is_frozen_part(p.name()));
        // In stage 1 only adapters of the folder train: those are what is wrong then.
        let stage_1 = recipe.train.stage == Stage::Pretrain && tower.has_adapters();
        if let Some(trained) = frozen().find(|p| p.requires_grad())
            && !stage_1
        {
            return Err(refused(format!(
                "the tower trains (`{}`), so that its features change with every step; keep it frozen, as in stage 1",
                trained.name()
            )));
        }
        if tower.has_adapters() {
            return Err(refused(
                "the tower has adapters (`llavar init --preset` makes them), whose gates round differently for a picture \
                 that is alone in its batch, so that results would not be the same bits; a tower without them can have \
                 the cache in stage 1"
                    .into(),
            ));
        }
        if !whole_weights {
            return Err(refused(
                "train.zero_stage=3 keeps the tower in parts that all ranks need at the same time; take stage 2".into(),
            ));
        }
        let kind = if device.is_cuda() { "cuda" } else { "cpu" };
        let settings = format!(
            "{LAYOUT} {} {} {kind} {dtype}",
            tower.image_size(),
            recipe.data.image_aspect_ratio
        );
        let weights = weights_hash(frozen())?;
        let key = XxHash3_128::oneshot(format!("{settings} {weights:032x}").as_bytes());
        let folder = Path::new(folder).join(format!("{key:032x}"));
        fs::create_dir_all(&folder).map_err(|e| TrainError::save(&folder, e))?;
        Ok(Some(Self {
            folder,
            shapes: tower.feature_shapes(),
            dtype,
            failed: Mutex::default(),
            written: AtomicU64::new(0),
        }))
    }

    /// Bytes of one picture's file.
    fn picture_bytes(&self) -> u64 {
        let elements: usize = self
            .shapes
            .iter()
            .map(|s| s.iter().product::<usize>())
            .sum();
        entry::HEADER as u64 + (elements * self.dtype.size()) as u64
    }

    /// Counts what is to be written, and refuses where the disk has no room for it.
    ///
    /// # Errors
    /// [`TrainError::Setting`] with both numbers.
    pub(crate) fn state_size(&self, source: &SampleSource) -> Result<FeatureReport, TrainError> {
        let pictures = count_pictures(source);
        let present = count_files(&self.folder).map_err(TrainError::io(&self.folder))?;
        let missing = pictures.saturating_sub(present);
        let report = FeatureReport {
            path: self.folder.clone(),
            pictures,
            present,
            picture_bytes: self.picture_bytes(),
            to_write: missing as u64 * self.picture_bytes(),
            free: room::free_bytes(&self.folder),
        };
        match report.free {
            Some(free) if report.to_write as f64 > free as f64 * (1.0 - SPARE) => {
                let gb = |bytes: u64| bytes as f64 / 1e9;
                Err(TrainError::Setting {
                    key: "data.vision_features_cache",
                    reason: format!(
                        "{missing} pictures of {:.2} MB need {:.2} GB in {}, where {:.2} GB are free; give a folder \
                         on a larger disk, or leave it away",
                        report.picture_bytes as f64 / 1e6,
                        gb(report.to_write),
                        self.folder.display(),
                        gb(free)
                    ),
                })
            }
            _ => Ok(report),
        }
    }

    fn path(&self, key: PictureKey) -> PathBuf {
        let name = format!("{key:032x}");
        let shelf = name.get(..2).unwrap_or_default().to_owned();
        self.folder.join(shelf).join(name)
    }

    /// The features of a picture, where they are there and sound.
    pub(crate) fn load(&self, key: PictureKey) -> Option<Features> {
        entry::read(&self.path(key), self.dtype, &self.shapes)
    }

    /// Keeps features. A failure costs time on the next pass and nothing else: it is told once, and no more is
    /// written.
    fn store(&self, key: PictureKey, features: &Features) {
        if self.lock().is_some() {
            return;
        }
        match entry::write(
            &self.path(key),
            features,
            self.written.fetch_add(1, Relaxed),
        ) {
            Ok(()) => {}
            Err(error) => *self.lock() = Some(error.to_string()),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What went wrong with writing, the first time that it is asked for after that.
    pub(crate) fn take_warning(&self) -> Option<String> {
        let mut failed = self.lock();
        let reason = failed.as_mut().filter(|reason| !reason.is_empty())?;
        let text = format!(
            "features cannot be kept in {} any more: {reason}; the run goes on without",
            self.folder.display()
        );
        // It stays set, so that nothing more is written.
        reason.clear();
        Some(text)
    }

    /// The features of a batch: those that are known, and those that the tower makes now, which are kept.
    pub(crate) fn features(
        &self,
        model: &LlavaModel,
        pictures: &Pictures,
        device: &Device,
        dtype: DType,
    ) -> Result<TowerFeatures, TrainError> {
        let made = match pictures.pixels(device, dtype)? {
            None => Vec::new(),
            Some(pixels) => {
                let made = model
                    .tower_features(&pixels)
                    .map_err(|e| TrainError::model(None, e))?;
                self.split(&made)?
            }
        };
        for (key, features) in pictures.keys().zip(&made) {
            self.store(key, features);
        }
        let mut made = made.into_iter().map(Arc::new);
        let mut all = Vec::with_capacity(pictures.len());
        for known in pictures.known() {
            all.push(match known {
                Some(features) => Arc::clone(features),
                None => made.next().ok_or(TrainError::Workers)?,
            });
        }
        self.join(&all, device)
    }

    /// Features of a batch, picture by picture, in main memory.
    fn split(&self, made: &TowerFeatures) -> Result<Vec<Features>, TrainError> {
        let parts: Vec<Tensor> = made
            .parts()
            .into_iter()
            .map(|part| part.to_device(&Device::Cpu))
            .collect::<Result<_, _>>()?;
        let pictures = parts
            .first()
            .map_or(0, |p| p.shape().first().copied().unwrap_or(0));
        (0..pictures)
            .map(|n| {
                let mut bytes = Vec::new();
                for (part, shape) in parts.iter().zip(&self.shapes) {
                    let len: usize = shape.iter().product();
                    entry::append(&mut bytes, part, n * len..(n + 1) * len)?;
                }
                Ok(Features(bytes))
            })
            .collect()
    }

    /// Features of pictures as the tower gives them for a batch.
    fn join(&self, all: &[Arc<Features>], device: &Device) -> Result<TowerFeatures, TrainError> {
        let mut parts = Vec::with_capacity(self.shapes.len());
        let mut at = 0;
        for shape in &self.shapes {
            let len = shape.iter().product::<usize>() * self.dtype.size();
            let mut bytes = Vec::with_capacity(len * all.len());
            for features in all {
                bytes.extend_from_slice(features.0.get(at..at + len).ok_or(TrainError::Workers)?);
            }
            at += len;
            let shape = [&[all.len()], shape.as_slice()].concat();
            parts.push(entry::tensor(&bytes, self.dtype, &shape)?.to_device(device)?);
        }
        Ok(TowerFeatures::from_parts(parts))
    }
}

/// Weights that decide the features: the tower without the fusion behind it, which trains in stage 1.
fn is_frozen_part(name: &str) -> bool {
    name.contains("vision_tower") && !name.contains(".align_stages.")
}

/// A hash of names and values, however the weights lie in files.
fn weights_hash<'a>(params: impl Iterator<Item = &'a Param>) -> Result<u128, TrainError> {
    let mut all = Vec::new();
    for param in params {
        let value = param.value().to_device(&Device::Cpu)?.cast(DType::F32)?;
        let hash = XxHash3_128::oneshot(bytemuck::cast_slice(value.data::<f32>()?));
        all.push(format!("{} {hash:032x}", param.name()));
    }
    all.sort();
    Ok(XxHash3_128::oneshot(all.join("\n").as_bytes()))
}

/// Different pictures by name; names in containers may repeat, so that each of theirs counts.
fn count_pictures(source: &SampleSource) -> usize {
    let (mut seen, mut unnamed) = (HashSet::new(), 0);
    let names = |index| {
        let record = source.record(index).ok()?;
        let in_container = record.set.is_container();
        let hashes = record.sample.images.iter().map(|name| {
            let folder = record.set.image_folder();
            key_of(format!("{folder:?} {name}").as_bytes())
        });
        Some((in_container, hashes.collect::<Vec<_>>()))
    };
    blocks::in_order(
        source.len(),
        blocks::threads(),
        |range| range.filter_map(names).collect::<Vec<_>>(),
        |_, found| {
            for (in_container, hashes) in found {
                match in_container {
                    true => unnamed += hashes.len(),
                    false => seen.extend(hashes),
                }
            }
            true
        },
    );
    seen.len() + unnamed
}

fn count_files(folder: &Path) -> io::Result<usize> {
    let mut count = 0;
    for shelf in fs::read_dir(folder)? {
        let shelf = shelf?;
        if shelf.file_type()?.is_dir() {
            let files = fs::read_dir(shelf.path())?.flatten();
            count += files.filter(|f| f.file_name().len() == 32).count();
        }
    }
    Ok(count)
}
