//! Names for models: one for people, one that changes with every weight.

use super::RunError;
use crate::fingerprint::Fingerprint;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Files up to this many bytes count whole.
const WHOLE: u64 = 16 << 20;
/// Places of a larger file that count, evenly spread.
const PLACES: u64 = 4096;
/// Bytes of each.
const PLACE: u64 = 1024;

/// Files of a model folder that are no weights and decide answers.
const FILES: [&str; 7] = [
    "adapter_config.json",
    "added_tokens.json",
    "config.json",
    "generation_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
];
const WEIGHTS: [&str; 3] = ["safetensors", "bin", "gguf"];

/// Fingerprint of the weights, configuration and tokenizer in a folder.
///
/// Of files above 16 MiB 4096 evenly spread KiB count, besides the first MiB and the size: any training
/// changes nearly all weights, and 26 GB need not be read before a run.
///
/// # Errors
/// [`RunError::Model`].
pub fn model_hash(folder: &Path) -> Result<String, RunError> {
    let fault = |path: &Path| {
        let path = path.to_path_buf();
        move |source| RunError::Model { path, source }
    };
    let mut files: Vec<(String, PathBuf)> = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(fault(folder))? {
        let path = entry.map_err(fault(folder))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let extension = path.extension().unwrap_or_default();
        let counts = FILES.contains(&&*name) || WEIGHTS.iter().any(|e| extension == *e);
        if counts && path.is_file() {
            files.push((name.into_owned(), path));
        }
    }
    files.sort();
    let mut hash = Fingerprint::default();
    for (name, path) in files {
        hash.field(&name);
        add(&mut hash, &path).map_err(fault(&path))?;
    }
    Ok(hash.hex())
}

fn add(hash: &mut Fingerprint, path: &Path) -> std::io::Result<()> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    hash.bytes(&size.to_le_bytes());
    let mut bytes = Vec::new();
    if size <= WHOLE {
        file.read_to_end(&mut bytes)?;
        hash.bytes(&bytes);
        return Ok(());
    }
    (&mut file).take(1 << 20).read_to_end(&mut bytes)?;
    hash.bytes(&bytes);
    for place in 0..PLACES {
        bytes.clear();
        file.seek(SeekFrom::Start((size - PLACE) / (PLACES - 1) * place))?;
        (&mut file).take(PLACE).read_to_end(&mut bytes)?;
        hash.bytes(&bytes);
    }
    Ok(())
}

/// Name of a model by its folder: the last part of the path, with the one before it for a
/// `checkpoint-N`.
///
/// # Source
/// `get_model_name_from_path` of LLaVA.
pub fn model_id(folder: &Path) -> String {
    let full = std::path::absolute(folder).unwrap_or_else(|_| folder.to_path_buf());
    let parts: Vec<String> = full
        .components()
        .map(|part| part.as_os_str().to_string_lossy().into_owned())
        .collect();
    match parts.as_slice() {
        [.., parent, last] if last.starts_with("checkpoint-") => format!("{parent}_{last}"),
        [.., last] => last.clone(),
        [] => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_reference() {
        assert_eq!(model_id("/a/llava-7b".as_ref()), "llava-7b");
        assert_eq!(model_id("/a/llava-7b/".as_ref()), "llava-7b");
        assert_eq!(
            model_id("/a/run/checkpoint-200".as_ref()),
            "run_checkpoint-200"
        );
    }

    #[test]
    fn one_changed_byte_in_the_middle_of_a_small_file_shows_and_other_files_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let write =
            |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
        write("config.json", b"{}");
        let mut weights = vec![7u8; 3 << 20];
        write("model.safetensors", &weights);
        let first = model_hash(folder.path()).unwrap();
        write("README.md", b"hello");
        assert_eq!(model_hash(folder.path()).unwrap(), first);
        weights[1_500_000] = 8;
        write("model.safetensors", &weights);
        assert_ne!(model_hash(folder.path()).unwrap(), first);
    }
}
