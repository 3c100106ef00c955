//! What can go wrong with a file on the network.

use std::{io, ops::Range, time::Duration};

/// Why bytes could not be had. The address stands in the error around it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RemoteError {
    /// An address that nothing here reads.
    #[error("addresses begin with http://, https://, s3://, gs:// or az://")]
    Scheme,
    /// An address that this build does not read.
    #[error(
        "{scheme}:// needs a build with `--features object-store`; this one reads http:// and https:// (a signed address works)"
    )]
    NotBuiltIn {
        /// The scheme.
        scheme: String,
    },
    /// What the server answered.
    #[error("the server answered {status}{}", reason(*.status))]
    Status {
        /// HTTP status.
        status: u16,
        /// How long it asks to wait.
        wait: Option<Duration>,
    },
    /// A server that gives whole files alone.
    #[error(
        "the server does not give parts of a file (no range requests); download the file, or serve it by one that does"
    )]
    NoRanges,
    /// The file is another one than when it was opened.
    #[error("the file has changed on the server while it was read; start again")]
    Changed,
    /// Fewer bytes than were announced.
    #[error("bytes {start} to {end} were asked for and {got} bytes came")]
    Short {
        /// First byte.
        start: u64,
        /// Behind the last byte.
        end: u64,
        /// Bytes that came.
        got: usize,
    },
    /// A file that is too large to be taken whole.
    #[error("the file is larger than {limit} bytes")]
    TooLarge {
        /// Most bytes allowed.
        limit: u64,
    },
    /// Connection, name, certificate, time-out.
    #[error("{reason}")]
    Transport {
        /// What the HTTP library says.
        reason: String,
        /// Whether another attempt may help.
        transient: bool,
    },
}

impl RemoteError {
    pub(super) fn short(range: Range<u64>, got: usize) -> Self {
        Self::Short {
            start: range.start,
            end: range.end,
            got,
        }
    }

    /// Whether another attempt may help.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Status { status, .. } => matches!(status, 408 | 429 | 500 | 502 | 503 | 504),
            Self::Transport { transient, .. } => *transient,
            Self::Short { .. } => true,
            _ => false,
        }
    }

    /// How long the server asks to wait.
    pub(super) fn wait(&self) -> Option<Duration> {
        match self {
            Self::Status { wait, .. } => *wait,
            _ => None,
        }
    }
}

impl From<RemoteError> for io::Error {
    fn from(error: RemoteError) -> Self {
        let kind = match &error {
            RemoteError::Status {
                status: 404 | 410, ..
            } => io::ErrorKind::NotFound,
            RemoteError::Status {
                status: 401 | 403, ..
            } => io::ErrorKind::PermissionDenied,
            RemoteError::Scheme | RemoteError::NotBuiltIn { .. } => io::ErrorKind::Unsupported,
            RemoteError::Short { .. } => io::ErrorKind::UnexpectedEof,
            _ => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        401 => " (not authorised)",
        403 => " (forbidden)",
        404 => " (not found)",
        429 => " (too many requests)",
        500..=599 => " (a fault of the server)",
        _ => "",
    }
}
