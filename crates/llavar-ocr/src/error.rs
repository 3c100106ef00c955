//! The one error type of this crate.

use std::{io, path::PathBuf};

/// Why a picture could not be read, or an engine not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OcrError {
    /// The picture itself is at fault.
    #[error(transparent)]
    Image(#[from] llavar_image::ImageError),
    /// No engine has that name.
    #[error("unknown OCR engine `{name}`; known: {known}")]
    UnknownEngine {
        /// What was asked for.
        name: String,
        /// All names.
        known: &'static str,
    },
    /// A program that an engine runs is not there.
    #[error("the program `{program}` is not installed")]
    NoProgram {
        /// Its name or path.
        program: String,
    },
    /// A program that an engine runs failed on a picture.
    #[error("`{program}` failed on {path}: {reason}", path = path.display())]
    Program {
        /// Its name or path.
        program: String,
        /// The picture.
        path: PathBuf,
        /// Its own words, or how it ended.
        reason: String,
    },
    /// The models of an engine have not been fetched.
    #[error("the models of `{set}` are not in {folder}", folder = folder.display())]
    NoModels {
        /// The engine.
        set: &'static str,
        /// Where they were looked for.
        folder: PathBuf,
    },
    /// A model file cannot be used.
    #[error("{path}: {reason}", path = path.display())]
    BadModel {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Models could not be fetched.
    #[error("cannot get the models of `{set}` from {from}: {reason}")]
    Pull {
        /// The engine.
        set: &'static str,
        /// Where they were to come from.
        from: String,
        /// What went wrong.
        reason: String,
    },
    /// The system has no place for what is kept for a user.
    #[error("there is no cache folder: neither LLAVAR_CACHE nor XDG_CACHE_HOME nor HOME is set")]
    NoCacheFolder,
    /// A network failed on a picture.
    #[error("reading {path} failed: {reason}", path = path.display())]
    Network {
        /// The picture.
        path: PathBuf,
        /// Which operation, and why.
        reason: String,
    },
    /// A sidecar has nothing for a picture.
    #[error("no OCR result for {image} in {sidecar}", image = image.display(), sidecar = sidecar.display())]
    NoSidecar {
        /// The picture.
        image: PathBuf,
        /// The folder or file that was searched.
        sidecar: PathBuf,
    },
    /// A sidecar is no OCR result.
    #[error("{path}: {reason}", path = path.display())]
    BadSidecar {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where in the file.
        reason: String,
    },
    /// A file cannot be read or written.
    #[error("cannot {verb} {path}", path = path.display())]
    Io {
        /// `read` or `write`.
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
}
