//! Errors of the writer.

use std::path::{Path, PathBuf};

/// What can go wrong while checking a config or writing a set.
#[derive(Debug, thiserror::Error)]
pub enum SynthError {
    /// The config breaks its own limits; all problems at once.
    #[error("invalid synthetic-document config: {}", problems.join("; "))]
    Config {
        /// One line for each problem: key, value, allowed range.
        problems: Vec<String>,
    },
    /// A profile name that does not exist.
    #[error("unknown synthetic profile '{name}'; known profiles: {}", known.join(", "))]
    UnknownProfile {
        /// The name asked for.
        name: String,
        /// All names.
        known: &'static [&'static str],
    },
    /// No font could be used.
    #[error("no usable font for {wanted}; name one that the font set has, or leave `fonts` empty")]
    NoFont {
        /// What was asked for.
        wanted: String,
    },
    /// A held-out or training content could not be drawn: the vocabulary is too small to divide.
    #[error(
        "picture {index}: no {kind} content falls into the wanted split after {attempts} draws; \
         raise `vocabulary` or `amount_digits`, or set `split = \"all\"`"
    )]
    SplitTooSmall {
        /// Index of the picture.
        index: u64,
        /// Its kind.
        kind: &'static str,
        /// Draws made.
        attempts: u64,
    },
    /// Fonts or texts that were named cannot be read.
    #[error("cannot {action} {}: {source}", path.display())]
    Input {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file of a set could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// An image could not be encoded.
    #[error("cannot encode {}: {source}", path.display())]
    Encode {
        /// The file meant to be written.
        path: PathBuf,
        /// The encoder's reason.
        source: llavar_image::ImageError,
    },
    /// A record could not be turned into JSON.
    #[error("cannot write JSON to {}: {source}", path.display())]
    Json {
        /// The file meant to be written.
        path: PathBuf,
        /// The serialiser's reason.
        source: serde_json::Error,
    },
    /// The progress callback asked to stop; nothing but finished images was written.
    #[error("writing the set was stopped after {done} of {total} pictures")]
    Stopped {
        /// Pictures finished.
        done: u64,
        /// Pictures asked for.
        total: u64,
    },
}

impl SynthError {
    pub(crate) fn input(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Input {
            action,
            path: path.to_owned(),
            source,
        }
    }

    pub(crate) fn io(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }
}
