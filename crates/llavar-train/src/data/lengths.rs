//! How many tokens each sample takes: what a plan of packs needs, found without any picture.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    path::Path,
};

use llavar_data::dataset::Cache;

use super::{SampleSource, blocks};

const MAGIC: &[u8; 16] = b"llavar-lengths-1";
/// Smaller sets are measured anew, which takes less than a second.
const MIN_KEPT: usize = 4096;

/// Tokens of every sample with images counted in full, 0 for one that cannot be used. Large sets are
/// remembered in the cache for the same files, tokenizer and settings.
pub(crate) fn measure(source: &SampleSource, cache: &Cache) -> Vec<u32> {
    let len = source.len();
    let kept = match source.paths().next() {
        Some(first) if len >= MIN_KEPT => {
            let mut hasher = DefaultHasher::new();
            source.identity().hash(&mut hasher);
            cache.file("lengths", first, &format!("{:016x}", hasher.finish()))
        }
        _ => None,
    };
    if let Some(kept) = &kept
        && let Some(lengths) = read(kept, len)
    {
        return lengths;
    }
    let mut lengths = Vec::with_capacity(len);
    let image_tokens = source.image_tokens();
    let length = |index| {
        let text = source.text(index);
        text.map_or(0, |t| t.encoded.expanded_len(image_tokens) as u32)
    };
    blocks::in_order(
        len,
        blocks::threads(),
        |range| range.map(length).collect::<Vec<u32>>(),
        |_, part| {
            lengths.extend(part);
            true
        },
    );
    if let Some(kept) = kept {
        // The cache is a convenience: without it the next start measures again.
        let _ = write(&kept, &lengths);
    }
    lengths
}

fn read(path: &Path, len: usize) -> Option<Vec<u32>> {
    let bytes = fs::read(path).ok()?;
    let body = bytes.strip_prefix(MAGIC)?;
    let (words, rest) = body.as_chunks::<4>();
    (words.len() == len && rest.is_empty())
        .then(|| words.iter().map(|w| u32::from_le_bytes(*w)).collect())
}

fn write(path: &Path, lengths: &[u32]) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut bytes = MAGIC.to_vec();
    bytes.extend(lengths.iter().flat_map(|l| l.to_le_bytes()));
    let aside = path.with_extension(format!("{}.partial", std::process::id()));
    let written = fs::write(&aside, bytes).and_then(|()| fs::rename(&aside, path));
    if written.is_err() {
        let _ = fs::remove_file(&aside);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_read_back_and_damage_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/lengths");
        let lengths: Vec<u32> = (0..1000).map(|i| i * 17).collect();
        write(&path, &lengths).unwrap();
        assert_eq!(read(&path, 1000).unwrap(), lengths);
        assert!(read(&path, 999).is_none());
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 2]).unwrap();
        assert!(read(&path, 1000).is_none());
    }
}
