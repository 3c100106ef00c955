//! Range requests over HTTP.

use std::{io::Read, ops::Range, sync::OnceLock, time::Duration};

use ureq::{Agent, Body, http::Response};

use super::{Fetch, Identity, RemoteError};

/// Name look-up, connection and TLS.
const CONNECT: Duration = Duration::from_secs(20);
/// Head of the answer, and its body.
const ANSWER: Duration = Duration::from_secs(60);

/// A file at an address. Connections are shared by all files of the process.
#[derive(Debug)]
pub(super) struct Http {
    url: String,
}

/// Proxies come from `ALL_PROXY`, `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY`.
fn agent() -> &'static Agent {
    static AGENT: OnceLock<Agent> = OnceLock::new();
    AGENT.get_or_init(|| {
        Agent::config_builder()
            .user_agent(concat!("llavar/", env!("CARGO_PKG_VERSION")))
            .http_status_as_error(false)
            .timeout_resolve(Some(CONNECT))
            .timeout_connect(Some(CONNECT))
            .timeout_send_request(Some(CONNECT))
            .timeout_recv_response(Some(ANSWER))
            .timeout_recv_body(Some(ANSWER))
            .build()
            .new_agent()
    })
}

impl Http {
    pub(super) fn new(url: &str) -> Self {
        Self { url: url.into() }
    }

    fn get(&self, range: Option<&Range<u64>>) -> Result<Response<Body>, RemoteError> {
        // Bytes at positions are those of the file itself, not of a compressed form.
        let mut request = agent().get(&self.url).header("Accept-Encoding", "identity");
        if let Some(range) = range {
            let bytes = format!("bytes={}-{}", range.start, range.end.saturating_sub(1));
            request = request.header("Range", bytes);
        }
        let response = request.call().map_err(of_transport)?;
        let status = response.status().as_u16();
        if (200..300).contains(&status) || (range.is_some() && status == 416) {
            return Ok(response);
        }
        let wait = header(&response, "retry-after").and_then(|v| v.trim().parse().ok());
        Err(RemoteError::Status {
            status,
            wait: wait.map(Duration::from_secs),
        })
    }
}

impl Fetch for Http {
    fn fetch(&self, range: Range<u64>) -> Result<(Vec<u8>, Identity), RemoteError> {
        let mut response = self.get(Some(&range))?;
        let version = ["etag", "last-modified"]
            .iter()
            .find_map(|name| header(&response, name));
        let version = version.unwrap_or_default();
        let total = header(&response, "content-range");
        let total = total.and_then(|text| text.rsplit_once('/')?.1.trim().parse::<u64>().ok());
        match response.status().as_u16() {
            206 => {}
            // Nothing at that place: an empty file, or one that has become shorter.
            416 => {
                let len = total.unwrap_or(0);
                return Ok((Vec::new(), Identity { len, version }));
            }
            _ => return Err(RemoteError::NoRanges),
        }
        let Some(len) = total else {
            return Err(RemoteError::NoRanges);
        };
        let most = range.end.min(len).saturating_sub(range.start);
        let bytes = read(&mut response, most)?;
        if (bytes.len() as u64) < most {
            return Err(RemoteError::short(range, bytes.len()));
        }
        Ok((bytes, Identity { len, version }))
    }

    fn fetch_all(&self, limit: u64) -> Result<Vec<u8>, RemoteError> {
        let mut response = self.get(None)?;
        let announced = header(&response, "content-length").and_then(|v| v.parse::<u64>().ok());
        if announced.is_some_and(|len| len > limit) {
            return Err(RemoteError::TooLarge { limit });
        }
        let bytes = read(&mut response, limit + 1)?;
        match announced {
            _ if bytes.len() as u64 > limit => Err(RemoteError::TooLarge { limit }),
            Some(len) if (bytes.len() as u64) < len => Err(RemoteError::short(0..len, bytes.len())),
            _ => Ok(bytes),
        }
    }
}

fn header(response: &Response<Body>, name: &str) -> Option<String> {
    Some(response.headers().get(name)?.to_str().ok()?.to_owned())
}

/// Reads a body, at most so many bytes.
fn read(response: &mut Response<Body>, most: u64) -> Result<Vec<u8>, RemoteError> {
    let mut bytes = Vec::new();
    let reader = response.body_mut().with_config().limit(u64::MAX).reader();
    match reader.take(most).read_to_end(&mut bytes) {
        Ok(_) => Ok(bytes),
        Err(error) => Err(RemoteError::Transport {
            reason: format!("the answer broke off after {} bytes: {error}", bytes.len()),
            transient: true,
        }),
    }
}

fn of_transport(error: ureq::Error) -> RemoteError {
    use ureq::Error as E;
    let transient = match &error {
        E::Timeout(_) | E::ConnectionFailed | E::Protocol(_) => true,
        // A name that does not exist, a certificate that is not trusted: the same the next time.
        E::Io(io) => io.kind() != std::io::ErrorKind::InvalidData,
        _ => false,
    };
    RemoteError::Transport {
        reason: error.to_string(),
        transient,
    }
}
