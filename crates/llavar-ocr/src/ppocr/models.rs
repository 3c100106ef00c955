//! Which models there are, where they lie, and whether they are the ones that were meant.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use crate::OcrError;

/// What a model of a set is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Where lines are.
    Detection,
    /// What they say.
    Recognition,
    /// Whether one stands on its head.
    Angle,
}

/// One file of a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelFile {
    /// What it is for.
    pub role: Role,
    /// Its name in the package, and in the cache.
    pub name: &'static str,
    /// SHA-256 of its content, in hexadecimal.
    pub sha256: &'static str,
}

/// Models that belong together, and the public package that carries them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelSet {
    /// The engine's name on the command line.
    pub name: &'static str,
    /// The Python package.
    pub package: &'static str,
    /// Its version.
    pub version: &'static str,
    /// Its files that are used.
    pub files: &'static [ModelFile],
}

const ANGLE: &str = "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c";

/// All sets; the first is the default.
pub const SETS: &[ModelSet] = &[
    ModelSet {
        name: "ppocr",
        package: "rapidocr",
        version: "3.10.0",
        files: &[
            ModelFile {
                role: Role::Detection,
                name: "PP-OCRv6_det_small.onnx",
                sha256: "090f04abcd9d9a7498bc4ebf677e4cb9bdce1fe4197ddb7e529f1ef44e1ff94f",
            },
            ModelFile {
                role: Role::Recognition,
                name: "PP-OCRv6_rec_small.onnx",
                sha256: "6f327246b50388f3c176ae304bd95767ea6dc0c9ae92153ef8cbe210b3c14884",
            },
            ModelFile {
                role: Role::Angle,
                name: "ch_ppocr_mobile_v2.0_cls_mobile.onnx",
                sha256: ANGLE,
            },
        ],
    },
    ModelSet {
        name: "ppocr-v4",
        package: "rapidocr-onnxruntime",
        version: "1.4.4",
        files: &[
            ModelFile {
                role: Role::Detection,
                name: "ch_PP-OCRv4_det_infer.onnx",
                sha256: "d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9",
            },
            ModelFile {
                role: Role::Recognition,
                name: "ch_PP-OCRv4_rec_infer.onnx",
                sha256: "48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b",
            },
            ModelFile {
                role: Role::Angle,
                name: "ch_ppocr_mobile_v2.0_cls_infer.onnx",
                sha256: ANGLE,
            },
        ],
    },
];

impl ModelSet {
    /// The set of that name.
    pub fn named(name: &str) -> Option<&'static Self> {
        SETS.iter().find(|set| set.name == name)
    }

    fn file(&self, role: Role) -> Option<&'static ModelFile> {
        self.files.iter().find(|file| file.role == role)
    }
}

/// The folder of a set in the user's cache.
///
/// # Errors
/// Where the system has no place for the user.
pub fn folder(set: &ModelSet) -> Result<PathBuf, OcrError> {
    let cache = crate::cache_folder().ok_or(OcrError::NoCacheFolder)?;
    Ok(cache.join("models").join(set.name))
}

/// Whether all files of a set are in a folder. Their content is not looked at.
pub fn are_in(set: &ModelSet, folder: &Path) -> bool {
    set.files
        .iter()
        .all(|file| folder.join(file.name).is_file())
}

/// SHA-256 in hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    crate::hex(&Sha256::digest(bytes))
}

/// Where a model of a set lies.
pub(crate) fn path(set: &ModelSet, folder: &Path, role: Role) -> PathBuf {
    folder.join(set.file(role).map_or("", |file| file.name))
}

/// A model's bytes, checked; `None` where the set has none of that role.
///
/// # Errors
/// When the file is not there, cannot be read, or is another than the one that is known.
pub fn read(set: &ModelSet, folder: &Path, role: Role) -> Result<Option<Vec<u8>>, OcrError> {
    let Some(file) = set.file(role) else {
        return Ok(None);
    };
    let path = folder.join(file.name);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(OcrError::NoModels {
                set: set.name,
                folder: folder.to_owned(),
            });
        }
        Err(source) => {
            return Err(OcrError::Io {
                verb: "read",
                path,
                source,
            });
        }
    };
    if sha256(&bytes) != file.sha256 {
        return Err(OcrError::BadModel {
            path,
            reason: "its checksum is not the one that is known".to_owned(),
        });
    }
    Ok(Some(bytes))
}
