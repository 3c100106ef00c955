//! One reader over every form in which weights are published.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Component, Path, PathBuf},
};

use llavar_tensor::mapped::MappedFile;
use serde::Deserialize;

use super::{
    Dtype, TensorEntry, WeightsError,
    error::IndexError,
    int8, safetensors,
    storage::Stored,
    torch::{self, FileError},
};

/// An index names each tensor once; that of a 13B model has 100 kB.
const MAX_INDEX: usize = 32 << 20;

/// Names of files in a checkpoint folder that hold no model weights.
const NOT_WEIGHTS: [&str; 6] = [
    "training_args",
    "optimizer",
    "scheduler",
    "rng_state",
    "adapter_model",
    "non_lora_trainables",
];

/// Open weight files, mapped and not copied: one file, or all shards of a folder.
///
/// Reads safetensors (single and sharded), PyTorch `.bin` and `.pt` (zip and legacy, nested dicts, views,
/// shared storages, sharded). Pickles are read as data; nothing is executed. A matrix of 8-bit codes with the
/// scales of its rows is one tensor of f32 here.
#[derive(Debug)]
pub struct WeightFiles {
    path: PathBuf,
    files: Vec<MappedFile>,
    tensors: Vec<Held>,
    by_name: HashMap<String, usize>,
}

/// A tensor and the file that has it.
#[derive(Debug)]
struct Held {
    file: usize,
    stored: Stored,
    /// Of 8-bit codes.
    widened: Option<Widened>,
}

/// What 8-bit codes stand for.
#[derive(Debug)]
struct Widened {
    entry: TensorEntry,
    scales: Vec<f32>,
}

impl Held {
    fn new(file: usize, stored: Stored) -> Self {
        Self {
            file,
            stored,
            widened: None,
        }
    }

    fn entry(&self) -> &TensorEntry {
        self.widened
            .as_ref()
            .map_or(&self.stored.entry, |w| &w.entry)
    }

    /// Into a buffer of as many elements as it has.
    fn read_f32(&self, file: &[u8], out: &mut [f32]) {
        let data = self.stored.data(file);
        match &self.widened {
            Some(widened) => int8::widen(&data, &widened.scales, out),
            None => self.stored.entry.dtype.decode_f32(&data, out),
        }
    }
}

impl WeightFiles {
    /// Opens a weight file, an index file (`*.index.json`) or a model folder.
    ///
    /// In a folder the first of these is taken: `model.safetensors`, `model.safetensors.index.json`,
    /// `pytorch_model.bin`, `pytorch_model.bin.index.json`, the only other weight file. Safetensors is
    /// preferred to pickles. `mm_projector.*` is not taken here, see [`WeightFiles::open_projector`].
    ///
    /// # Errors
    /// [`WeightsError`], naming the file.
    pub fn open(path: &Path) -> Result<Self, WeightsError> {
        if !path.is_dir() {
            if path.to_string_lossy().ends_with(".index.json") {
                return Self::open_index(path);
            }
            return Self::open_file(path);
        }
        for name in [
            "model.safetensors",
            "model.safetensors.index.json",
            "pytorch_model.bin",
            "pytorch_model.bin.index.json",
        ] {
            let file = path.join(name);
            if file.is_file() {
                return Self::open(&file);
            }
        }
        let mut found = other_weight_files(path)?;
        let safe: Vec<String> = found
            .iter()
            .filter(|n| n.ends_with(".safetensors"))
            .cloned()
            .collect();
        if !safe.is_empty() {
            found = safe;
        }
        match found.as_slice() {
            [] => Err(WeightsError::NoWeights {
                path: path.to_owned(),
            }),
            [only] => Self::open_file(&path.join(only)),
            _ => Err(WeightsError::Ambiguous {
                path: path.to_owned(),
                found,
            }),
        }
    }

    /// Opens the stage-1 file of a folder, `mm_projector.safetensors` or `mm_projector.bin` (or that file
    /// itself); `Ok(None)` when the folder has none.
    ///
    /// # Errors
    /// [`WeightsError`], naming the file.
    pub fn open_projector(path: &Path) -> Result<Option<Self>, WeightsError> {
        if !path.is_dir() {
            return Self::open_file(path).map(Some);
        }
        ["mm_projector.safetensors", "mm_projector.bin"]
            .into_iter()
            .map(|name| path.join(name))
            .find(|file| file.is_file())
            .map(|file| Self::open_file(&file))
            .transpose()
    }

    fn open_file(path: &Path) -> Result<Self, WeightsError> {
        let (file, stored) = read_file(path)?;
        let by_name = stored
            .iter()
            .enumerate()
            .map(|(i, s)| (s.entry.name.clone(), i))
            .collect();
        let all = Self {
            path: path.to_owned(),
            files: vec![file],
            tensors: stored.into_iter().map(|s| Held::new(0, s)).collect(),
            by_name,
        };
        all.with_scales()
    }

    fn open_index(path: &Path) -> Result<Self, WeightsError> {
        #[derive(Deserialize)]
        struct Index {
            weight_map: BTreeMap<String, String>,
        }
        let fail = |problem| WeightsError::Index {
            path: path.to_owned(),
            problem,
        };
        let text = map(path)?;
        if text.len() > MAX_INDEX {
            return Err(fail(IndexError::TooLarge {
                bytes: text.len(),
                limit: MAX_INDEX,
            }));
        }
        let index: Index =
            serde_json::from_slice(&text).map_err(|source| fail(IndexError::Json { source }))?;
        if index.weight_map.is_empty() {
            return Err(fail(IndexError::Empty));
        }
        for (tensor, shard) in &index.weight_map {
            let mut parts = Path::new(shard).components();
            if !matches!(
                (parts.next(), parts.next()),
                (Some(Component::Normal(_)), None)
            ) {
                return Err(fail(IndexError::Outside {
                    tensor: tensor.clone(),
                    shard: shard.clone(),
                }));
            }
        }
        let folder = path.parent().unwrap_or(Path::new("."));
        let shards: Vec<&String> = index
            .weight_map
            .values()
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        let missing: Vec<String> = shards
            .iter()
            .filter(|s| !folder.join(s).is_file())
            .map(|s| s.to_string())
            .collect();
        if !missing.is_empty() {
            return Err(fail(IndexError::MissingShards { shards: missing }));
        }
        let mut all = Self {
            path: folder.to_owned(),
            files: Vec::new(),
            tensors: Vec::new(),
            by_name: HashMap::new(),
        };
        for (n, shard) in shards.iter().enumerate() {
            let (file, stored) = read_file(&folder.join(shard))?;
            all.files.push(file);
            for tensor in stored {
                let name = tensor.entry.name.clone();
                if let Some(first) = all.by_name.insert(name.clone(), all.tensors.len()) {
                    let first = shards[all.tensors[first].file].clone();
                    let second = shard.to_string();
                    return Err(fail(IndexError::Twice {
                        tensor: name,
                        first,
                        second,
                    }));
                }
                all.tensors.push(Held::new(n, tensor));
            }
        }
        let lost: Vec<String> = index
            .weight_map
            .iter()
            .filter(|(tensor, shard)| {
                all.by_name
                    .get(*tensor)
                    .is_none_or(|&i| shards[all.tensors[i].file] != *shard)
            })
            .map(|(tensor, shard)| format!("{tensor} ({shard})"))
            .collect();
        if !lost.is_empty() {
            return Err(fail(IndexError::MissingTensors { tensors: lost }));
        }
        all.with_scales()
    }

    /// Joins 8-bit codes with the scales of their rows, which are no tensors of their own from then on.
    fn with_scales(mut self) -> Result<Self, WeightsError> {
        let mut joined = BTreeSet::new();
        for i in 0..self.tensors.len() {
            let codes = &self.tensors[i].stored.entry;
            if codes.dtype != Dtype::I8 {
                continue;
            }
            let name = int8::scale_name(&codes.name);
            let Some(scale) = self.get(&name) else {
                continue;
            };
            let fail = |problem| WeightsError::Int8 {
                path: self.path.clone(),
                weight: codes.name.clone(),
                problem,
            };
            int8::check_entry(codes, scale).map_err(fail)?;
            let scales = self.read_f32(&name)?;
            int8::check_values(&name, &scales).map_err(fail)?;
            let entry = TensorEntry {
                dtype: Dtype::F32,
                ..codes.clone()
            };
            self.tensors[i].widened = Some(Widened { entry, scales });
            joined.insert(name);
        }
        if !joined.is_empty() {
            self.tensors
                .retain(|held| !joined.contains(&held.stored.entry.name));
            let names = self.tensors.iter().enumerate();
            self.by_name = names.map(|(i, h)| (h.entry().name.clone(), i)).collect();
        }
        Ok(self)
    }

    /// The file, or the folder of the shards.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Size of the files, bytes.
    pub(crate) fn size(&self) -> u64 {
        self.files.iter().map(|file| file.len() as u64).sum()
    }

    /// Every tensor, in file order, shard after shard.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = &TensorEntry> {
        self.tensors.iter().map(Held::entry)
    }

    /// Name, type and shape of one tensor.
    pub fn get(&self, name: &str) -> Option<&TensorEntry> {
        self.by_name.get(name).map(|&i| self.tensors[i].entry())
    }

    /// The elements of a tensor in row-major order, little-endian; borrowed from the mapping unless the
    /// file stores a strided view or 8-bit codes.
    ///
    /// # Errors
    /// [`WeightsError::NoTensor`].
    pub fn bytes(&self, name: &str) -> Result<Cow<'_, [u8]>, WeightsError> {
        let (file, held) = self.find(name)?;
        if held.widened.is_none() {
            return Ok(held.stored.data(file));
        }
        let values = self.read_f32(name)?;
        let mut bytes = Vec::with_capacity(values.len() * Dtype::F32.size());
        Dtype::F32.encode_f32(&values, &mut bytes);
        Ok(Cow::Owned(bytes))
    }

    /// The elements of a tensor as `f32`.
    ///
    /// # Errors
    /// [`WeightsError::NoTensor`].
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>, WeightsError> {
        let (file, held) = self.find(name)?;
        let mut out = vec![0.0; held.entry().numel()];
        held.read_f32(file, &mut out);
        Ok(out)
    }

    /// As [`WeightFiles::read_f32`], into a buffer.
    ///
    /// # Errors
    /// [`WeightsError::NoTensor`], [`WeightsError::BufferLength`].
    pub fn read_f32_into(&self, name: &str, out: &mut [f32]) -> Result<(), WeightsError> {
        let (file, held) = self.find(name)?;
        let expected = held.entry().numel();
        if out.len() != expected {
            return Err(WeightsError::BufferLength {
                path: self.path.clone(),
                name: name.to_owned(),
                expected,
                got: out.len(),
            });
        }
        held.read_f32(file, out);
        Ok(())
    }

    fn find(&self, name: &str) -> Result<(&[u8], &Held), WeightsError> {
        self.by_name
            .get(name)
            .and_then(|&i| self.tensors.get(i))
            .and_then(|held| Some((&**self.files.get(held.file)?, held)))
            .ok_or_else(|| WeightsError::NoTensor {
                path: self.path.clone(),
                name: name.to_owned(),
            })
    }

    /// The type that most elements have, for writing a model as it was; `None` without tensors. 8-bit codes have
    /// none and do not count.
    pub fn main_dtype(&self) -> Option<Dtype> {
        let mut elements: HashMap<Dtype, usize> = HashMap::new();
        let stored = self.tensors.iter().map(|held| &held.stored.entry);
        for entry in stored.filter(|e| e.dtype.is_float()) {
            *elements.entry(entry.dtype).or_default() += entry.numel();
        }
        elements
            .into_iter()
            .max_by_key(|&(dtype, n)| (n, dtype.size()))
            .map(|(dtype, _)| dtype)
    }
}

fn map(path: &Path) -> Result<MappedFile, WeightsError> {
    MappedFile::open(path).map_err(|source| WeightsError::Read {
        path: path.to_owned(),
        source,
    })
}

/// Maps a file and reads its directory; the form is told by the first bytes, not by the name.
fn read_file(path: &Path) -> Result<(MappedFile, Vec<Stored>), WeightsError> {
    let file = map(path)?;
    let owned = || path.to_owned();
    let torch_error = |error| match error {
        FileError::Zip(problem) => WeightsError::Zip {
            path: owned(),
            problem,
        },
        FileError::Pickle(problem) => WeightsError::Pickle {
            path: owned(),
            problem,
        },
        FileError::Torch(problem) => WeightsError::Torch {
            path: owned(),
            problem,
        },
    };
    let stored = if file.is_empty() {
        return Err(WeightsError::Empty { path: owned() });
    } else if file.starts_with(b"version https://git-lfs") {
        return Err(WeightsError::LfsPointer { path: owned() });
    } else if file.starts_with(b"PK") {
        torch::read_zip(&file).map_err(torch_error)?
    } else if file.first() == Some(&0x80) && file.get(1).is_some_and(|&protocol| protocol <= 5)
        // A safetensors header of a length that ends in 0x80 0x00..0x05 has its brace at byte 8.
        && file.get(8) != Some(&b'{')
    {
        torch::read_legacy(&file).map_err(torch_error)?
    } else {
        safetensors::read(&file).map_err(|problem| WeightsError::Safetensors {
            path: owned(),
            problem,
        })?
    };
    Ok((file, stored))
}

/// Weight files with unusual names, sorted.
fn other_weight_files(folder: &Path) -> Result<Vec<String>, WeightsError> {
    let read_error = |source| WeightsError::Read {
        path: folder.to_owned(),
        source,
    };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(read_error)? {
        let entry = entry.map_err(read_error)?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let weights = [".safetensors", ".bin", ".pt", ".pth"]
            .iter()
            .any(|suffix| name.ends_with(suffix));
        if weights
            && !name.starts_with('.')
            && !name.starts_with("mm_projector")
            && !NOT_WEIGHTS.iter().any(|other| name.starts_with(other))
            && entry.path().is_file()
        {
            found.push(name);
        }
    }
    found.sort();
    Ok(found)
}
