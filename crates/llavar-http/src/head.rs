//! The first line and the headers of a request.

use crate::ReadFault;

/// Headers of a request, at most.
const MOST_HEADERS: usize = 100;

/// How the bytes of a body are told from what follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// There is none.
    None,
    /// So many bytes.
    Length(u64),
    /// In chunks.
    Chunked,
}

/// A request without its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// `GET`, `POST`, as sent.
    pub method: String,
    /// Without the query.
    pub path: String,
    /// What stands behind the path's `?`, as sent.
    pub query: String,
    /// HTTP/1.1, or 1.0.
    pub is_1_1: bool,
    /// Names in lower case.
    headers: Vec<(String, String)>,
    pub(crate) framing: Framing,
}

impl Head {
    /// Reads a head from the beginning of `bytes`, and how many bytes it has; `None` where it does not end
    /// yet.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, ReadFault> {
        let mut slots = [httparse::EMPTY_HEADER; MOST_HEADERS];
        let mut request = httparse::Request::new(&mut slots);
        let size = match request.parse(bytes) {
            Ok(httparse::Status::Complete(size)) => size,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(httparse::Error::TooManyHeaders) => {
                let message = format!("a request may have {MOST_HEADERS} headers");
                return Err(ReadFault::refused(431, message));
            }
            Err(httparse::Error::Version) => {
                let message = "HTTP/1.1 and HTTP/1.0 are spoken here";
                return Err(ReadFault::refused(505, message));
            }
            Err(error) => {
                let message = format!("this is no HTTP/1.1 request: {error}");
                return Err(ReadFault::refused(400, message));
            }
        };
        let (method, target) = (request.method.unwrap_or(""), request.path.unwrap_or(""));
        let headers = request.headers.iter().map(|header| {
            let value = String::from_utf8_lossy(header.value);
            (header.name.to_ascii_lowercase(), value.trim().to_owned())
        });
        let (path, query) = path_and_query(target);
        let mut head = Self {
            method: method.to_owned(),
            path: path.to_owned(),
            query: query.to_owned(),
            is_1_1: request.version == Some(1),
            headers: headers.collect(),
            framing: Framing::None,
        };
        let hosts = head.all("host").count();
        if hosts > 1 || (hosts == 0 && head.is_1_1) {
            return Err(ReadFault::refused(400, "a request names one host"));
        }
        head.framing = head.framing()?;
        Ok(Some((head, size)))
    }

    /// A value of the query, as sent.
    pub fn query_value(&self, name: &str) -> Option<&str> {
        let mut pairs = self
            .query
            .split('&')
            .filter_map(|pair| pair.split_once('='));
        pairs.find(|(own, _)| *own == name).map(|(_, value)| value)
    }

    /// The value of a header, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        let named = self.headers.iter().filter(move |(own, _)| own == name);
        named.map(|(_, value)| value.as_str())
    }

    /// Whether a header that is a list holds `word`.
    fn lists(&self, name: &str, word: &str) -> bool {
        self.all(name)
            .flat_map(|value| value.split(','))
            .any(|item| item.trim().eq_ignore_ascii_case(word))
    }

    /// Whether the client wants to send another request afterwards.
    pub(crate) fn keeps_alive(&self) -> bool {
        match self.is_1_1 {
            true => !self.lists("connection", "close"),
            false => self.lists("connection", "keep-alive"),
        }
    }

    /// Whether the client waits for a word before it sends the body.
    pub(crate) fn expects_continue(&self) -> bool {
        self.is_1_1 && self.lists("expect", "100-continue")
    }

    /// What two readers could understand differently is refused.
    fn framing(&self) -> Result<Framing, ReadFault> {
        let bad = |message: &str| Err(ReadFault::refused(400, message));
        let mut lengths = self.all("content-length");
        let length = lengths.next();
        if lengths.next().is_some() {
            return bad("there is more than one Content-Length");
        }
        let mut codings = self.all("transfer-encoding");
        match (codings.next(), length) {
            (None, None) => Ok(Framing::None),
            (None, Some(length)) => {
                let digits = !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit());
                match length.parse().ok().filter(|_| digits) {
                    Some(0) => Ok(Framing::None),
                    Some(length) => Ok(Framing::Length(length)),
                    None => bad("Content-Length is no number"),
                }
            }
            (Some(_), Some(_)) => bad("there are both Content-Length and Transfer-Encoding"),
            (Some(_), None) if !self.is_1_1 => bad("HTTP/1.0 has no Transfer-Encoding"),
            (Some(coding), None) => {
                match coding.eq_ignore_ascii_case("chunked") && codings.next().is_none() {
                    true => Ok(Framing::Chunked),
                    false => {
                        let message = "of transfer codings only `chunked` is known here";
                        Err(ReadFault::refused(501, message))
                    }
                }
            }
        }
    }
}

/// The path and the query of a target, which a proxy's client gives with the host.
fn path_and_query(target: &str) -> (&str, &str) {
    let path = match target.split_once("://") {
        Some((_, rest)) if !target.starts_with('/') => match rest.find('/') {
            Some(at) => &rest[at..],
            None => "/",
        },
        _ => target,
    };
    let path = path.split('#').next().unwrap_or(path);
    path.split_once('?').unwrap_or((path, ""))
}
