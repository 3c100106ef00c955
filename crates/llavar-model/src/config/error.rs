//! Why a configuration cannot be used, with every problem at once.

use std::{fmt, io, path::PathBuf};

use thiserror::Error;

/// One thing that is wrong with one key of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key, with dots for nested ones (`rope_scaling.factor`).
    pub key: String,
    /// The value as found, or `missing`.
    pub value: String,
    /// What is allowed there.
    pub allowed: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}: must be {}", self.key, self.value, self.allowed)
    }
}

/// Failure to read or to accept a configuration file.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is too large to be a configuration.
    #[error("{path} has {bytes} bytes, a configuration has at most {limit}; is it another file?", path = path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        bytes: u64,
        /// The largest accepted size in bytes.
        limit: u64,
    },
    /// The text is not JSON, or not a JSON object.
    #[error("{path} is not a JSON object: {source}", path = path.display())]
    Json {
        /// The file, or the name under which the text was given.
        path: PathBuf,
        /// Line, column and reason.
        source: serde_json::Error,
    },
    /// Keys are missing, impossible or contradict each other.
    #[error("{path} cannot be used, {count} problem(s):{list}", path = path.display(), count = problems.len(), list = List(problems))]
    Invalid {
        /// The file, or the name under which the text was given.
        path: PathBuf,
        /// Every problem, in the order of the checks.
        problems: Vec<Problem>,
    },
    /// No preset has this name.
    #[error("no preset is called `{name}`; there are {known}", known = known.join(", "))]
    UnknownPreset {
        /// The name asked for.
        name: String,
        /// All names.
        known: Vec<&'static str>,
    },
}

struct List<'a>(&'a [Problem]);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|p| write!(f, "\n  {p}"))
    }
}
