//! Writing model folders in the layout of transformers, so that a folder is either complete or not there.
//!
//! Everything goes into a new folder beside the target; each file is flushed to the disk; then the new
//! folder takes the target's place in one step. A full disk, a kill or a crash before that leaves
//! the old folder as it was.

mod error;
mod output;
mod replace;
#[cfg(test)]
mod tests;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use llavar_tensor::mapped::MappedFile;
use serde_json::{Map, Value, json};

use super::{Dtype, dtype::byte_len};
use crate::config::{GenerationConfig, ModelConfig};
use output::{Output, Quota};

pub use error::SaveError;
pub use output::TensorSink;

/// Name, element type and shape of a tensor to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Published name.
    pub name: String,
    /// Element type in the file.
    pub dtype: Dtype,
    /// Shape, outermost first.
    pub shape: Vec<usize>,
}

impl TensorSpec {
    /// Makes one.
    pub fn new(name: impl Into<String>, dtype: Dtype, shape: impl Into<Vec<usize>>) -> Self {
        Self {
            name: name.into(),
            dtype,
            shape: shape.into(),
        }
    }

    /// What it takes in the header of a file, at most: type, offsets and sizes have up to 20 digits.
    fn header_bytes(&self) -> u64 {
        (self.name.len() + 80 + 20 * (2 + self.shape.len())) as u64
    }

    fn bytes(&self) -> Result<usize, SaveError> {
        byte_len(&self.shape, self.dtype).ok_or_else(|| SaveError::TooLarge {
            name: self.name.clone(),
            shape: self.shape.clone(),
        })
    }
}

/// How a model folder is written.
#[derive(Debug, Clone)]
pub struct SaveOptions {
    /// Largest weight file in bytes, unless a single tensor is larger; the default is that of
    /// transformers, 5 GB.
    pub max_shard_bytes: u64,
    /// Whether an existing model folder is replaced. Its files other than weights are carried over.
    pub overwrite: bool,
    /// Fail as a full disk does after this many bytes (a quota; also used to test that path).
    pub byte_limit: Option<u64>,
}

impl Default for SaveOptions {
    fn default() -> Self {
        Self {
            max_shard_bytes: 5_000_000_000,
            overwrite: false,
            byte_limit: None,
        }
    }
}

/// How the weights of a model folder are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WeightFormat {
    /// Element type, one of F32, BF16 and F16.
    pub dtype: Dtype,
    /// Weights of fewer elements are f32 all the same: norms and biases cost next to nothing, and a value near 1 has
    /// steps of 1/256 in bf16.
    pub f32_below: usize,
    /// As [`SaveOptions::max_shard_bytes`].
    pub max_shard_bytes: u64,
}

impl From<Dtype> for WeightFormat {
    fn from(dtype: Dtype) -> Self {
        Self {
            dtype,
            f32_below: 0,
            max_shard_bytes: SaveOptions::default().max_shard_bytes,
        }
    }
}

impl WeightFormat {
    /// Element type of a weight of that shape.
    pub fn dtype_of(&self, shape: &[usize]) -> Dtype {
        match shape.iter().product::<usize>() < self.f32_below {
            true => Dtype::F32,
            false => self.dtype,
        }
    }
}

/// Files that belong to the tokenizer and the pre-processing, copied from folder to folder.
const COMPANIONS: [&str; 10] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
];

/// Writes one model folder; nothing is visible at the target before [`FolderWriter::finish`].
///
/// Dropped without `finish`, it removes what it wrote.
#[derive(Debug)]
pub struct FolderWriter {
    target: PathBuf,
    temporary: PathBuf,
    options: SaveOptions,
    quota: Quota,
    finished: bool,
}

impl FolderWriter {
    /// Makes the temporary folder beside `target` (and the parents of `target`).
    ///
    /// # Errors
    /// [`SaveError::Exists`], [`SaveError::NotModelFolder`], [`SaveError::Io`], [`SaveError::DiskFull`].
    pub fn create(target: &Path, options: SaveOptions) -> Result<Self, SaveError> {
        // A link is followed, so that the folder behind it is replaced and not the link.
        let target = fs::canonicalize(target).unwrap_or_else(|_| target.to_owned());
        if target.exists() {
            let empty = fs::read_dir(&target).is_ok_and(|mut entries| entries.next().is_none());
            if !empty && !options.overwrite {
                return Err(SaveError::Exists { path: target });
            }
            if !empty && !target.join("config.json").is_file() {
                return Err(SaveError::NotModelFolder { path: target });
            }
        }
        let temporary = temporary_sibling(&target)?;
        fs::create_dir(&temporary).map_err(|e| SaveError::io(&temporary, e))?;
        let quota = Quota::new(options.byte_limit);
        Ok(Self {
            target,
            temporary,
            options,
            quota,
            finished: false,
        })
    }

    /// Writes one file.
    ///
    /// # Errors
    /// [`SaveError::FileName`] when `name` is a path, [`SaveError::DiskFull`], [`SaveError::Io`].
    pub fn write_file(&mut self, name: &str, bytes: &[u8]) -> Result<(), SaveError> {
        let mut parts = Path::new(name).components();
        let plain = matches!(
            (parts.next(), parts.next()),
            (Some(std::path::Component::Normal(_)), None)
        );
        if !plain {
            return Err(SaveError::FileName {
                name: name.to_owned(),
            });
        }
        let mut output = Output::create(&self.temporary.join(name), &mut self.quota)?;
        output.write(bytes)?;
        output.close()
    }

    /// Writes `config.json` with all keys of the configuration in their order.
    ///
    /// # Errors
    /// As [`FolderWriter::write_file`].
    pub fn write_config(&mut self, config: &ModelConfig) -> Result<(), SaveError> {
        self.write_json("config.json", config.as_json())
    }

    /// Writes `generation_config.json`.
    ///
    /// # Errors
    /// As [`FolderWriter::write_file`].
    pub fn write_generation_config(&mut self, config: &GenerationConfig) -> Result<(), SaveError> {
        self.write_json("generation_config.json", config.as_json())
    }

    /// Writes tensors into a safetensors file of the given name; `fill` as for
    /// [`FolderWriter::write_weights`].
    ///
    /// # Errors
    /// As [`FolderWriter::write_weights`].
    pub fn write_tensors(
        &mut self,
        name: &str,
        specs: &[TensorSpec],
        mut fill: impl FnMut(&TensorSpec, &mut TensorSink<'_, '_>) -> Result<(), SaveError>,
    ) -> Result<(), SaveError> {
        let path = self.temporary.join(name);
        output::write_tensors(&path, specs.to_vec(), &mut self.quota, &mut fill)
    }

    pub(crate) fn write_json(
        &mut self,
        name: &str,
        object: &Map<String, Value>,
    ) -> Result<(), SaveError> {
        // Writing a map of plain values into memory cannot fail; an error would still be reported.
        let mut text = serde_json::to_vec_pretty(object)
            .map_err(|e| SaveError::io(&self.temporary.join(name), e.into()))?;
        text.push(b'\n');
        self.write_file(name, &text)
    }

    /// Copies the tokenizer's and pre-processor's files that `folder` has; gives their names.
    ///
    /// # Errors
    /// [`SaveError::Io`] when one exists and cannot be read, and as [`FolderWriter::write_file`].
    pub fn copy_companions(&mut self, folder: &Path) -> Result<Vec<&'static str>, SaveError> {
        let mut copied = Vec::new();
        for name in COMPANIONS {
            let file = folder.join(name);
            if file.is_file() {
                self.copy_file(name, &file)?;
                copied.push(name);
            }
        }
        Ok(copied)
    }

    /// Copies every file that lies in `folder` itself and whose name does not begin with a dot.
    ///
    /// # Errors
    /// [`SaveError::Io`] when one cannot be read, and as [`FolderWriter::write_file`].
    pub fn copy_folder(&mut self, folder: &Path) -> Result<(), SaveError> {
        let read_error = |e| SaveError::io(folder, e);
        for entry in fs::read_dir(folder).map_err(read_error)? {
            let path = entry.map_err(read_error)?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            match name.filter(|name| !name.starts_with('.') && path.is_file()) {
                Some(name) => self.copy_file(name, &path)?,
                None => continue,
            }
        }
        Ok(())
    }

    fn copy_file(&mut self, name: &str, from: &Path) -> Result<(), SaveError> {
        let bytes = MappedFile::open(from).map_err(|e| SaveError::io(from, e))?;
        self.write_file(name, &bytes)
    }

    /// Writes the weights: `model.safetensors`, or shards with `model.safetensors.index.json` when they
    /// exceed [`SaveOptions::max_shard_bytes`].
    ///
    /// `fill` is called once for each tensor in file order (not the order of `specs`) and writes its
    /// elements, row-major, in one or many pieces, so that memory for one piece is enough.
    ///
    /// # Errors
    /// [`SaveError`]; [`SaveError::DiskFull`] is already given before the first byte when the file system
    /// reports less room than needed.
    pub fn write_weights(
        &mut self,
        specs: &[TensorSpec],
        mut fill: impl FnMut(&TensorSpec, &mut TensorSink<'_, '_>) -> Result<(), SaveError>,
    ) -> Result<(), SaveError> {
        let mut shards: Vec<Vec<TensorSpec>> = vec![Vec::new()];
        let (mut total, mut shard_bytes) = (0_u64, 0_u64);
        for spec in specs {
            let bytes = spec.bytes()? as u64;
            let in_file = bytes + spec.header_bytes();
            if shard_bytes > 0 && shard_bytes + in_file > self.options.max_shard_bytes {
                shards.push(Vec::new());
                shard_bytes = 0;
            }
            shard_bytes += in_file;
            total += bytes;
            if let Some(shard) = shards.last_mut() {
                shard.push(spec.clone());
            }
        }
        replace::check_room(&self.temporary, total)?;
        let count = shards.len();
        let mut weight_map: Vec<(String, String)> = Vec::with_capacity(specs.len());
        for (n, shard) in shards.into_iter().enumerate() {
            let name = if count == 1 {
                "model.safetensors".to_owned()
            } else {
                format!("model-{:05}-of-{count:05}.safetensors", n + 1)
            };
            weight_map.extend(shard.iter().map(|spec| (spec.name.clone(), name.clone())));
            output::write_tensors(
                &self.temporary.join(name),
                shard,
                &mut self.quota,
                &mut fill,
            )?;
        }
        weight_map.sort();
        if let Some(pair) = weight_map.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(SaveError::Twice {
                name: pair[0].0.clone(),
            });
        }
        if count > 1 {
            let map: Map<String, Value> = weight_map
                .into_iter()
                .map(|(name, file)| (name, file.into()))
                .collect();
            let index = json!({ "metadata": { "total_size": total }, "weight_map": map });
            if let Value::Object(index) = index {
                self.write_json("model.safetensors.index.json", &index)?;
            }
        }
        Ok(())
    }

    /// Puts the new folder in the target's place.
    ///
    /// # Errors
    /// [`SaveError::Io`]; the target is then as before.
    pub fn finish(mut self) -> Result<(), SaveError> {
        replace::sync_folder(&self.temporary)?;
        let old = replace::place(&self.temporary, &self.target)?;
        // From here on the temporary name is that of the old folder, if there was one.
        self.finished = true;
        replace::tidy(old.as_deref(), &self.target)
    }
}

impl Drop for FolderWriter {
    fn drop(&mut self) {
        if !self.finished {
            // Best effort: what stays behind has a name that nothing reads.
            let _ = fs::remove_dir_all(&self.temporary);
        }
    }
}

/// Writes one safetensors file aside and renames it; an existing one is replaced only when the new one is
/// complete. `fill` as for [`FolderWriter::write_weights`].
///
/// # Errors
/// [`SaveError`]; the old file is then untouched.
pub fn write_safetensors(
    path: &Path,
    specs: &[TensorSpec],
    byte_limit: Option<u64>,
    mut fill: impl FnMut(&TensorSpec, &mut TensorSink<'_, '_>) -> Result<(), SaveError>,
) -> Result<(), SaveError> {
    let temporary = temporary_sibling(path)?;
    let result = output::write_tensors(
        &temporary,
        specs.to_vec(),
        &mut Quota::new(byte_limit),
        &mut fill,
    )
    .and_then(|()| fs::rename(&temporary, path).map_err(|e| SaveError::io(path, e)))
    .and_then(|()| replace::sync_folder(&replace::parent(path)));
    if result.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    result
}

/// Writes the stage-1 file `folder/mm_projector.safetensors`, with full names, as
/// [`write_safetensors`]. Other tensors than `mm_projector` and `align_stages` do not belong there; the
/// list is [`crate::config::projector_parameters`].
///
/// # Errors
/// As [`write_safetensors`].
pub fn write_projector(
    folder: &Path,
    specs: &[TensorSpec],
    fill: impl FnMut(&TensorSpec, &mut TensorSink<'_, '_>) -> Result<(), SaveError>,
) -> Result<(), SaveError> {
    fs::create_dir_all(folder).map_err(|e| SaveError::io(folder, e))?;
    write_safetensors(&folder.join("mm_projector.safetensors"), specs, None, fill)
}

/// A new hidden name beside `target`, whose parents are made.
fn temporary_sibling(target: &Path) -> Result<PathBuf, SaveError> {
    /// Makes names differ within this process; the process id makes them differ between processes.
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let Some(name) = target.file_name() else {
        return Err(SaveError::FileName {
            name: target.display().to_string(),
        });
    };
    let parent = replace::parent(target);
    fs::create_dir_all(&parent).map_err(|e| SaveError::io(&parent, e))?;
    let n = COUNT.fetch_add(1, Ordering::Relaxed);
    Ok(parent.join(format!(
        ".{}.tmp-{}-{n}",
        name.to_string_lossy(),
        std::process::id()
    )))
}
