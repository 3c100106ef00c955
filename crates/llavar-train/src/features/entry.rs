//! One picture's features as a file: magic, checksum of what follows, values of all parts one after the other.

use std::{fs, io, ops::Range, path::Path};

use bytemuck::allocation::pod_collect_to_vec;
use half::{bf16, f16};
use llavar_tensor::{DType, Tensor};

const MAGIC: &[u8; 8] = b"llvfeat1";
/// Bytes before the values.
pub(super) const HEADER: usize = MAGIC.len() + 4;

/// Values of all parts, in the machine's order of bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Features(pub(super) Vec<u8>);

impl Features {
    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        self.0.len()
    }
}

/// Reads a file; `None` where there is none or it is not whole.
pub(super) fn read(path: &Path, dtype: DType, shapes: &[Vec<usize>]) -> Option<Features> {
    let elements: usize = shapes.iter().map(|s| s.iter().product::<usize>()).sum();
    let mut bytes = fs::read(path).ok()?;
    let body = bytes.get(HEADER..)?;
    let sum = bytes.get(MAGIC.len()..HEADER)?;
    let sound = bytes.starts_with(MAGIC)
        && body.len() == elements * dtype.size()
        && sum == crc32fast::hash(body).to_le_bytes();
    sound.then(|| {
        bytes.drain(..HEADER);
        Features(bytes)
    })
}

/// Writes a file aside and renames it. It is not forced to disk: one that a power cut leaves broken fails its
/// checksum. `number` keeps writers apart.
pub(super) fn write(path: &Path, features: &Features, number: u64) -> io::Result<()> {
    if let Some(shelf) = path.parent() {
        fs::create_dir_all(shelf)?;
    }
    let aside = path.with_extension(format!("{}-{number}.partial", std::process::id()));
    let sum = crc32fast::hash(&features.0).to_le_bytes();
    let written = fs::write(&aside, [MAGIC.as_slice(), &sum, &features.0].concat())
        .and_then(|()| fs::rename(&aside, path));
    if written.is_err() {
        let _ = fs::remove_file(&aside);
    }
    written
}

/// Appends some elements of a tensor in main memory.
pub(super) fn append(
    bytes: &mut Vec<u8>,
    tensor: &Tensor,
    range: Range<usize>,
) -> Result<(), llavar_tensor::Error> {
    fn part<T: bytemuck::Pod>(values: &[T], range: Range<usize>) -> &[u8] {
        bytemuck::cast_slice(values.get(range).unwrap_or_default())
    }
    bytes.extend_from_slice(match tensor.dtype() {
        DType::F32 => part(tensor.data::<f32>()?, range),
        DType::BF16 => part(tensor.data::<bf16>()?, range),
        DType::F16 => part(tensor.data::<f16>()?, range),
        DType::I32 => part(tensor.data::<i32>()?, range),
        // Features are never of 4 bits; the error would say so.
        DType::Nf4 => part(tensor.data::<f32>()?, range),
    });
    Ok(())
}

/// A tensor of bytes.
pub(super) fn tensor(
    bytes: &[u8],
    dtype: DType,
    shape: &[usize],
) -> Result<Tensor, llavar_tensor::Error> {
    match dtype {
        DType::F32 => Tensor::from_vec(pod_collect_to_vec::<u8, f32>(bytes), shape),
        DType::BF16 => Tensor::from_vec(pod_collect_to_vec::<u8, bf16>(bytes), shape),
        DType::F16 => Tensor::from_vec(pod_collect_to_vec::<u8, f16>(bytes), shape),
        DType::I32 => Tensor::from_vec(pod_collect_to_vec::<u8, i32>(bytes), shape),
        DType::Nf4 => Tensor::from_vec(pod_collect_to_vec::<u8, f32>(bytes), shape)?.to_nf4(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_come_back_and_damage_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ab/abcd");
        let values = Tensor::from_vec((0..12).map(|i| i as f32).collect(), &[2, 6]).unwrap();
        let mut bytes = Vec::new();
        append(&mut bytes, &values, 6..12).unwrap();
        let features = Features(bytes);
        let shapes = [vec![2, 2], vec![2]];
        write(&path, &features, 0).unwrap();
        let back = read(&path, DType::F32, &shapes).unwrap();
        assert_eq!(back, features);
        let tensor = tensor(&back.0, DType::F32, &[6]).unwrap();
        assert_eq!(
            tensor.data::<f32>().unwrap(),
            [6.0, 7.0, 8.0, 9.0, 10.0, 11.0]
        );
        assert!(read(&path, DType::BF16, &shapes).is_none());
        assert!(read(&path, DType::F32, &[vec![5]]).is_none());
        let whole = fs::read(&path).unwrap();
        for (at, len) in [
            (20, whole.len()),
            (0, whole.len()),
            (0, whole.len() - 1),
            (0, 3),
        ] {
            let mut bytes = whole[..len].to_vec();
            if len == whole.len() {
                bytes[at] ^= 1;
            }
            fs::write(&path, bytes).unwrap();
            assert!(read(&path, DType::F32, &shapes).is_none(), "{at} {len}");
        }
        assert_eq!(fs::read_dir(dir.path().join("ab")).unwrap().count(), 1);
    }
}
