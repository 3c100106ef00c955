//! The optimizer's state on disk.
//!
//! Moments are `NAME.exp_avg` and `NAME.exp_avg_sq` in their element type, moving averages `NAME.ema`. In the small
//! form a moment is `NAME.exp_avg.q8`, a byte a value, and `NAME.exp_avg.scale`, an f32 for 256 of them
//! ([`llavar_tensor::compact`]). Where a file would become too large, a tensor goes on in the next one; where ranks hold
//! pieces, each writes its own files, and the parts of a tensor follow each other in the order of their names.

use std::{
    collections::HashSet,
    fs,
    ops::Range,
    path::{Path, PathBuf},
};

use bytemuck::allocation::pod_collect_to_vec;
use half::{bf16, slice::HalfFloatSliceExt};
use llavar_tensor::{
    DType, Tensor,
    compact::{BLOCK, Code, is_large},
    mapped::MappedFile,
    optim::Moments,
};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use super::{Entry, Optimizer, Shared};
use crate::{
    TrainError,
    lazy::{Stored, write_tensors},
};

const CODES: &str = ".q8";
const SCALES: &str = ".scale";

/// Bytes of a header for each tensor, at most; names are of some 80 characters.
const HEADER_BYTES: u64 = 512;

/// What a tensor becomes in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Plain,
    Rounded,
    Packed(Code),
}

/// A tensor, or the elements of it that are in one file.
#[derive(Debug, Clone)]
struct Item {
    name: String,
    tensor: Tensor,
    form: Form,
    /// `None`: all.
    part: Option<Range<usize>>,
}

impl Optimizer {
    /// Writes the state into a checkpoint, in the small form where the recipe asks for it.
    pub(crate) fn save(&self, checkpoint: &Path) -> Result<(), TrainError> {
        let stem = match &self.shared {
            None => "optimizer".to_owned(),
            Some(Shared { group, .. }) => {
                format!("optimizer-{:05}-of-{:05}", group.rank(), group.size())
            }
        };
        let items = self.entries.iter().flat_map(|e| self.items(e));
        let files = cut(items, self.max_shard_bytes);
        let count = files.len();
        for (number, items) in files.into_iter().enumerate() {
            let name = match count {
                1 => format!("{stem}.safetensors"),
                _ => format!("{stem}-part-{:05}.safetensors", number + 1),
            };
            let mut tensors = Vec::new();
            for item in items {
                item.store(&mut tensors)?;
            }
            write_tensors(&checkpoint.join(name), tensors)?;
        }
        Ok(())
    }

    fn items(&self, entry: &Entry) -> Vec<Item> {
        let small = self.compact && is_large(&entry.whole);
        let item = |suffix: &str, tensor: &Tensor, form| Item {
            name: format!("{}.{suffix}", entry.param.name()),
            tensor: tensor.clone(),
            form: if small { form } else { Form::Plain },
            part: None,
        };
        let mut items = Vec::new();
        if let Some(moments) = &entry.moments {
            let Moments {
                exp_avg,
                exp_avg_sq,
                ..
            } = moments;
            items.push(item("exp_avg", exp_avg, Form::Packed(Code::Signed)));
            items.push(item("exp_avg_sq", exp_avg_sq, Form::Packed(Code::Unsigned)));
        }
        if let Some(average) = &entry.average {
            items.push(item("ema", average, Form::Rounded));
        }
        items
    }

    /// Reads what any number of ranks wrote with [`Optimizer::save`], into main memory. Moments of another
    /// precision are converted. Those of weights that do not train now are an error, or passed over where they may be
    /// `left` behind; gives the number of such weights.
    pub(crate) fn load(&mut self, checkpoint: &Path, left: bool) -> Result<usize, TrainError> {
        let paths = state_files(checkpoint)?;
        let maps = paths
            .iter()
            .map(|path| MappedFile::open(path).map_err(TrainError::io(path)));
        let maps: Vec<MappedFile> = maps.collect::<Result<_, _>>()?;
        let mut files = Vec::with_capacity(maps.len());
        let mut passed_over = HashSet::new();
        for (path, map) in paths.iter().zip(&maps) {
            let file = SafeTensors::deserialize(map).map_err(|e| bad(path, e.to_string()))?;
            for name in file.names() {
                let weight = weight_of(name);
                if weight.is_some_and(|weight| self.trained.contains(weight)) {
                    continue;
                }
                if let (true, Some(weight)) = (left, weight) {
                    passed_over.insert(weight.to_owned());
                } else {
                    let reason = format!(
                        "its tensor `{name}` belongs to no weight that trains (train.stage, train.freeze and \
                         train.trainable say which do)"
                    );
                    return Err(bad(path, reason));
                }
            }
            files.push(file);
        }
        for entry in &mut self.entries {
            let read = |suffix: &str, code, dtype: DType| -> Result<Option<Tensor>, TrainError> {
                let name = format!("{}.{suffix}", entry.param.name());
                let range = entry.start..entry.start + entry.param.numel();
                let values = read_range(&files, &name, code, &entry.whole, range);
                let values = values.map_err(|reason| bad(checkpoint, reason))?;
                let Some(values) = values else {
                    return Ok(None);
                };
                let tensor = Tensor::from_vec(values, entry.param.shape())?;
                Ok(Some(tensor.cast(dtype)?))
            };
            if self.ema_decay.is_some() {
                entry.average = read("ema", Code::Signed, DType::F32)?;
            }
            let states = self.precision.states();
            let exp_avg = read("exp_avg", Code::Signed, states)?;
            let exp_avg_sq = read("exp_avg_sq", Code::Unsigned, states)?;
            entry.moments = match (exp_avg, exp_avg_sq) {
                (Some(exp_avg), Some(exp_avg_sq)) => Some(Moments {
                    exp_avg,
                    exp_avg_sq,
                    master: None,
                }),
                (None, None) => None,
                _ => {
                    let name = entry.param.name();
                    let reason = format!("only one of the two moments of `{name}` is there");
                    return Err(bad(checkpoint, reason));
                }
            };
        }
        Ok(passed_over.len())
    }
}

impl Item {
    fn len(&self) -> usize {
        self.part.as_ref().map_or(self.tensor.numel(), Range::len)
    }

    fn bytes(&self, len: usize) -> u64 {
        let data = match self.form {
            Form::Plain => len * self.tensor.dtype().size(),
            Form::Rounded => len * DType::BF16.size(),
            Form::Packed(_) => len + len.div_ceil(BLOCK) * size_of::<f32>(),
        };
        data as u64 + HEADER_BYTES
    }

    /// Elements, a multiple of a block's, that take at most so many bytes; one block at least.
    fn elements_in(&self, bytes: u64) -> usize {
        let block = self.bytes(BLOCK) - HEADER_BYTES;
        let blocks = bytes.saturating_sub(HEADER_BYTES) / block;
        BLOCK * usize::try_from(blocks).unwrap_or(usize::MAX / BLOCK).max(1)
    }

    fn store(self, to: &mut Vec<(String, Stored)>) -> Result<(), TrainError> {
        let tensor = match self.part {
            None => self.tensor,
            Some(part) => {
                let flat = self.tensor.reshape(&[self.tensor.numel()])?;
                flat.narrow(part.start, part.len())?
            }
        };
        match self.form {
            Form::Plain => to.push((self.name, Stored::Tensor(tensor))),
            Form::Rounded => to.push((self.name, Stored::Tensor(tensor.cast(DType::BF16)?))),
            Form::Packed(code) => {
                let (scales, codes) = code.pack(&tensor.to_f32_vec()?);
                let scales = Tensor::from_vec(scales.clone(), &[scales.len()])?;
                to.push((format!("{}{SCALES}", self.name), Stored::Tensor(scales)));
                let stored = Stored::Bytes {
                    dtype: Dtype::U8,
                    shape: tensor.shape().to_vec(),
                    bytes: codes,
                };
                to.push((format!("{}{CODES}", self.name), stored));
            }
        }
        Ok(())
    }
}

/// Shares items out to files of at most `most` bytes, in order; one that is too large for a file goes on in the next.
fn cut(items: impl Iterator<Item = Item>, most: Option<u64>) -> Vec<Vec<Item>> {
    let (mut files, mut used) = (vec![Vec::new()], 0);
    let most = most.unwrap_or(u64::MAX);
    for mut item in items {
        loop {
            let bytes = item.bytes(item.len());
            if used > 0 && used + bytes > most {
                files.push(Vec::new());
                used = 0;
            }
            let file = files.len() - 1;
            if bytes <= most || item.len() <= item.elements_in(most) {
                used += bytes;
                files[file].push(item);
                break;
            }
            let at = item.part.clone().unwrap_or(0..item.len());
            let split = at.start + item.elements_in(most);
            files[file].push(Item {
                part: Some(at.start..split),
                ..item.clone()
            });
            item.part = Some(split..at.end);
            used = most;
        }
    }
    files
}

/// The weight that a tensor of the file belongs to.
fn weight_of(name: &str) -> Option<&str> {
    let coded = name.strip_suffix(CODES).or(name.strip_suffix(SCALES));
    let moment = coded.unwrap_or(name);
    let suffixes = [".exp_avg", ".exp_avg_sq", ".ema"];
    suffixes.iter().find_map(|s| moment.strip_suffix(s))
}

fn bad(path: &Path, reason: String) -> TrainError {
    TrainError::Checkpoint {
        path: path.to_owned(),
        reason,
    }
}

/// The optimizer's files of a checkpoint, in the order of the ranks that wrote them and of their parts.
fn state_files(checkpoint: &Path) -> Result<Vec<PathBuf>, TrainError> {
    let mut files = Vec::new();
    for entry in fs::read_dir(checkpoint).map_err(TrainError::io(checkpoint))? {
        let path = entry.map_err(TrainError::io(checkpoint))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("optimizer") && name.ends_with(".safetensors") {
            files.push(path);
        }
    }
    files.sort();
    match files.is_empty() {
        true => Err(bad(checkpoint, "it has no optimizer state".into())),
        false => Ok(files),
    }
}

/// Elements of a tensor whose parts follow each other in `files`; `None` where it is in none of them.
fn read_range(
    files: &[SafeTensors<'_>],
    name: &str,
    code: Code,
    whole: &[usize],
    range: Range<usize>,
) -> Result<Option<Vec<f32>>, String> {
    let coded = format!("{name}{CODES}");
    let (mut values, mut at, mut found) = (Vec::with_capacity(range.len()), 0, false);
    for file in files {
        let plain = file.tensor(name).ok();
        let Some(view) = plain.or_else(|| file.tensor(&coded).ok()) else {
            continue;
        };
        found = true;
        let len: usize = view.shape().iter().product();
        let from = range.start.clamp(at, at + len) - at;
        let to = range.end.clamp(at, at + len) - at;
        match view.dtype() {
            Dtype::F32 => {
                values.extend(pod_collect_to_vec::<u8, f32>(
                    &view.data()[4 * from..4 * to],
                ));
            }
            Dtype::BF16 => {
                let parts: Vec<bf16> = pod_collect_to_vec(&view.data()[2 * from..2 * to]);
                values.extend(parts.to_f32_vec());
            }
            Dtype::U8 => {
                let scales = file.tensor(&format!("{name}{SCALES}")).ok();
                let part = unpack(code, scales, view.data(), from..to);
                values.extend(
                    part.ok_or_else(|| format!("`{coded}` has not the scales that it needs"))?,
                );
            }
            _ => return Err(format!("`{name}` has another type than moments have")),
        }
        at += len;
        if view.shape().len() > 1 && view.shape() != whole {
            return Err(format!("`{name}` has another shape than its weight"));
        }
    }
    if found && at != whole.iter().product::<usize>() {
        return Err(format!(
            "`{name}` has {at} elements, its weight has another number"
        ));
    }
    Ok(found.then_some(values))
}

/// Some of a packed tensor's values: the blocks that they lie in are decoded.
fn unpack(
    code: Code,
    scales: Option<TensorView<'_>>,
    codes: &[u8],
    range: Range<usize>,
) -> Option<Vec<f32>> {
    let scales = scales.filter(|view| view.dtype() == Dtype::F32)?;
    let scales: Vec<f32> = pod_collect_to_vec(scales.data());
    if scales.len() != codes.len().div_ceil(BLOCK) {
        return None;
    }
    let blocks = range.start / BLOCK..range.end.div_ceil(BLOCK);
    let first = blocks.start * BLOCK;
    let codes = &codes[first..(blocks.end * BLOCK).min(codes.len())];
    let values = code.unpack(&scales[blocks], codes)?;
    Some(values[range.start - first..range.end - first].to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every way to cut a state into files reads back, whole and in pieces.
    #[test]
    fn parts_in_any_number_of_files_read_back() {
        let count = 5000;
        let value = |i: usize| 1.0 / (1 + i * 7 % 911) as f32;
        let tensor = Tensor::from_vec((0..count).map(value).collect(), &[50, 100]).unwrap();
        for form in [
            Form::Plain,
            Form::Rounded,
            Form::Packed(Code::Signed),
            Form::Packed(Code::Unsigned),
        ] {
            let code = match form {
                Form::Packed(code) => code,
                _ => Code::Signed,
            };
            let want = match form {
                Form::Packed(code) => code.round(&tensor).unwrap(),
                Form::Rounded => llavar_tensor::compact::round_weight(&tensor).unwrap(),
                Form::Plain => tensor.clone(),
            };
            let want = want.to_f32_vec().unwrap();
            for (most, least_files) in [(None, 1), (Some(4096), 2), (Some(1000), 6), (Some(1), 20)]
            {
                let dir = tempfile::tempdir().unwrap();
                let item = |name: &str| Item {
                    name: format!("{name}.exp_avg"),
                    tensor: tensor.clone(),
                    form,
                    part: None,
                };
                let files = cut([item("a"), item("b")].into_iter(), most);
                assert!(files.len() >= least_files, "{form:?} {most:?}");
                for (n, items) in files.into_iter().enumerate() {
                    let mut tensors = Vec::new();
                    items
                        .into_iter()
                        .for_each(|i| i.store(&mut tensors).unwrap());
                    let path = dir
                        .path()
                        .join(format!("optimizer-part-{n:05}.safetensors"));
                    write_tensors(&path, tensors).unwrap();
                    let bytes = fs::metadata(path).unwrap().len();
                    let smallest = item("a").bytes(BLOCK);
                    assert!(
                        most.is_none_or(|most| bytes <= most.max(smallest)),
                        "{bytes}"
                    );
                }
                let maps: Vec<Vec<u8>> = state_files(dir.path())
                    .unwrap()
                    .iter()
                    .map(|p| fs::read(p).unwrap())
                    .collect();
                let files: Vec<SafeTensors> = maps
                    .iter()
                    .map(|m| SafeTensors::deserialize(m).unwrap())
                    .collect();
                for name in ["a.exp_avg", "b.exp_avg"] {
                    for range in [0..count, 0..1, 255..257, 4000..5000, 700..701] {
                        let got = read_range(&files, name, code, &[50, 100], range.clone());
                        assert!(
                            got.unwrap().unwrap() == want[range.clone()],
                            "{form:?} {most:?} {range:?}"
                        );
                    }
                }
                assert_eq!(
                    read_range(&files, "c.exp_avg", code, &[50, 100], 0..1),
                    Ok(None)
                );
                assert!(read_range(&files, "a.exp_avg", code, &[50, 101], 0..1).is_err());
            }
        }
    }
}
