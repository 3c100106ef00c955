//! What tells that the pictures of a sample are still those that were scored.

use std::{fs::metadata, path::Path};

use llavar_data::{Dataset, ImageFolder, ImageSource, Sample, dataset::Stamp, remote::is_remote};

use crate::hash::{START, fnv1a};

/// A hash over sizes and times of change of the picture files, or over the bytes of pictures in a container,
/// whose own time changes with every sample added. None without pictures, where one is missing, and where
/// they would have to be fetched from the network: nothing can be said then.
pub(crate) fn mark(data: &Dataset, index: usize, sample: &Sample) -> Option<String> {
    let far = data.image_folder().is_some_and(ImageFolder::is_remote) || is_remote(data.path());
    if sample.images.is_empty() || far {
        return None;
    }
    let mut hash = START;
    for nth in 0..sample.images.len() {
        hash = match data.image(index, sample, nth).ok()? {
            ImageSource::File(path) => of_file(hash, &path)?,
            // Lengths keep neighbours apart.
            ImageSource::Bytes { bytes, .. } => {
                fnv1a(fnv1a(hash, &(bytes.len() as u64).to_le_bytes()), &bytes)
            }
        };
    }
    Some(format!("{hash:016x}"))
}

fn of_file(hash: u64, path: &Path) -> Option<u64> {
    let stamp = Stamp::of(&metadata(path).ok()?);
    let hash = fnv1a(hash, &stamp.bytes.to_le_bytes());
    Some(fnv1a(hash, &stamp.modified.to_le_bytes()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use llavar_data::{Cache, write::write_parquet};
    use serde_json::json;

    use super::*;

    /// Marks of the samples of a container with these pictures.
    fn marks(path: &Path, pictures: &[&str]) -> Vec<Option<String>> {
        let samples = pictures.iter().enumerate().map(|(i, picture)| {
            let turns =
                json!([{"from": "human", "value": "<image>\nq"}, {"from": "gpt", "value": "a"}]);
            let sample = json!({"id": i, "image": format!("{i}.png"), "conversations": turns});
            Ok((
                Sample::from_json(sample).unwrap(),
                picture.as_bytes().to_vec(),
            ))
        });
        write_parquet(path, samples).unwrap();
        let data = Dataset::open_with(path, None, &Cache::none()).unwrap();
        (0..data.len())
            .map(|i| mark(&data, i, &data.get(i).unwrap()))
            .collect()
    }

    #[test]
    fn pictures_in_a_container_are_told_apart_by_their_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data.parquet");
        let before = marks(&path, &["one", "two"]);
        assert!(before.iter().all(Option::is_some));
        let after = marks(&path, &["one", "2wo", "more"]);
        assert_eq!(before[0], after[0], "others are added");
        assert_ne!(before[1], after[1]);
    }
}
