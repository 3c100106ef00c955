//! Files on a web server, read at positions by range requests and in bounded memory.
//!
//! [`RemoteFile`] keeps the pages that were read last; reading on from where the last read ended fetches ahead in
//! ever larger pieces, a single read fetches little more than it asks for. What cannot be had for the moment is
//! tried again; a file that changes while it is read is an error and never a mixture of both.
//!
//! `http://` and `https://` are read by `ureq`; `s3://`, `gs://` and `az://` by the `object_store` crate, behind the
//! cargo feature `object-store`, because it brings an asynchronous runtime and a second HTTP library into the build.

mod error;
mod http;
#[cfg(feature = "object-store")]
mod object;
mod pages;
mod retry;

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    ops::Range,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

pub use error::RemoteError;
pub use retry::Retry;

use crate::dataset::Stamp;
use pages::{PAGE, Pages};

/// Schemes of addresses, with what reads them.
const OBJECT_SCHEMES: [&str; 8] = ["s3", "s3a", "gs", "gcs", "az", "azure", "abfs", "abfss"];

/// Whether a path is an address on the network.
pub fn is_remote(path: &Path) -> bool {
    scheme(path).is_some()
}

fn scheme(path: &Path) -> Option<&str> {
    let (scheme, _) = path.to_str()?.split_once("://")?;
    let known = matches!(scheme, "http" | "https") || OBJECT_SCHEMES.contains(&scheme);
    known.then_some(scheme)
}

/// What a server says about a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Bytes.
    pub(crate) len: u64,
    /// Entity tag, else time of change, as the server writes it; empty where it tells neither.
    pub(crate) version: String,
}

/// One way to fetch bytes.
pub(crate) trait Fetch: Send + Sync + std::fmt::Debug {
    /// Bytes of a range, fewer where the file ends in it, and what the server says of the file. Not retried.
    fn fetch(&self, range: Range<u64>) -> Result<(Vec<u8>, Identity), RemoteError>;
    /// All bytes, at most `limit`. Not retried.
    fn fetch_all(&self, limit: u64) -> Result<Vec<u8>, RemoteError>;
}

/// A file on the network.
#[derive(Debug)]
pub struct RemoteFile {
    source: Arc<dyn Fetch>,
    identity: Identity,
    retry: Retry,
    pages: Mutex<Pages>,
}

impl RemoteFile {
    /// Opens an address.
    ///
    /// # Errors
    /// [`RemoteError`]: an unknown scheme, what the server says, a server that cannot give parts of a file.
    pub fn open(url: &str, retry: Retry) -> Result<Self, RemoteError> {
        let source = source_of(url)?;
        let (head, identity) = retry.run(|| source.fetch(0..PAGE))?;
        let mut pages = Pages::new();
        pages.put(0, &head);
        Ok(Self {
            source,
            identity,
            retry,
            pages: Mutex::new(pages),
        })
    }

    /// Bytes of the file.
    pub fn len(&self) -> u64 {
        self.identity.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Size and version, in the place of a local file's size and time of change.
    pub fn stamp(&self) -> Stamp {
        let mut hasher = DefaultHasher::new();
        self.identity.version.hash(&mut hasher);
        Stamp {
            bytes: self.identity.len,
            modified: hasher.finish(),
        }
    }

    /// Reads up to `buffer.len()` bytes; 0 at the end.
    ///
    /// # Errors
    /// [`RemoteError`], [`RemoteError::Changed`] among them.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, RemoteError> {
        let want = (buffer.len() as u64).min(self.identity.len.saturating_sub(offset));
        if want == 0 {
            return Ok(0);
        }
        let pages = || self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        let missing = pages().plan(offset..offset + want);
        if let Some(missing) = missing {
            let range = missing.start..missing.end.min(self.identity.len);
            let (bytes, identity) = self.retry.run(|| {
                let (bytes, identity) = self.source.fetch(range.clone())?;
                match bytes.len() as u64 == range.end - range.start || identity != self.identity {
                    true => Ok((bytes, identity)),
                    false => Err(RemoteError::short(range.clone(), bytes.len())),
                }
            })?;
            if identity != self.identity {
                return Err(RemoteError::Changed);
            }
            let mut pages = pages();
            pages.put(range.start, &bytes);
            // The wanted bytes themselves may have been pushed out by other readers meanwhile.
            let from = range.start.max(offset);
            if from == offset {
                let start = (offset - range.start) as usize;
                let fetched = bytes.get(start..).unwrap_or_default();
                let count = fetched.len().min(want as usize);
                buffer[..count].copy_from_slice(&fetched[..count]);
                return Ok(count);
            }
        }
        Ok(pages().copy(offset, &mut buffer[..want as usize]))
    }
}

/// Fetches a whole small file, such as a picture.
///
/// # Errors
/// [`RemoteError`], [`RemoteError::TooLarge`] beyond `limit` bytes.
pub fn fetch(url: &str, limit: u64, retry: &Retry) -> Result<Vec<u8>, RemoteError> {
    let source = source_of(url)?;
    retry.run(|| source.fetch_all(limit))
}

fn source_of(url: &str) -> Result<Arc<dyn Fetch>, RemoteError> {
    match scheme(Path::new(url)) {
        Some("http" | "https") => Ok(Arc::new(http::Http::new(url))),
        #[cfg(feature = "object-store")]
        Some(_) => Ok(Arc::new(object::Object::new(url)?)),
        #[cfg(not(feature = "object-store"))]
        Some(scheme) => Err(RemoteError::NotBuiltIn {
            scheme: scheme.to_owned(),
        }),
        None => Err(RemoteError::Scheme),
    }
}

/// An address for messages: without what follows the path, which may hold a signature, and without a password.
pub(crate) fn shown(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    match url.split_once("://") {
        Some((scheme, rest)) => {
            let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
            let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
            format!("{scheme}://{host}/{path}")
        }
        None => url.to_owned(),
    }
}

/// The address of an image whose name a data file gives, below the address of a folder.
pub(crate) fn join(folder: &str, name: &str) -> String {
    let (path, query) = match folder.split_once('?') {
        Some((path, query)) => (path, format!("?{query}")),
        None => (folder, String::new()),
    };
    let mut url = path.trim_end_matches('/').to_owned();
    for part in name.split('/').filter(|part| !matches!(*part, "" | ".")) {
        url.push('/');
        for byte in part.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    url.push(byte as char)
                }
                _ => url.push_str(&format!("%{byte:02X}")),
            }
        }
    }
    url + &query
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_from_paths_and_joined_safely() {
        for (path, remote) in [
            ("https://host/a.json", true),
            ("s3://bucket/a.tar", true),
            ("data/a.json", false),
            ("C:\\a", false),
            ("ftp://host/a", false),
        ] {
            assert_eq!(is_remote(Path::new(path)), remote, "{path}");
        }
        assert_eq!(
            join("https://h/i/", "a b/ü.png"),
            "https://h/i/a%20b/%C3%BC.png"
        );
        assert_eq!(
            join("https://h/i?sig=1", "a.png"),
            "https://h/i/a.png?sig=1"
        );
        assert_eq!(shown("https://user:key@h/a?sig=secret#x"), "https://h/a");
    }
}
