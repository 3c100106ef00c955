//! Answers as bytes.

use crate::Head;

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Response {
    /// HTTP's status.
    pub status: u16,
    kind: &'static str,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Response {
    /// An answer of this kind (a media type).
    pub fn new(status: u16, kind: &'static str, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            kind,
            headers: Vec::new(),
            body: body.into(),
        }
    }

    /// Plain text.
    pub fn text(status: u16, text: impl Into<String>) -> Self {
        Self::new(status, "text/plain; charset=utf-8", text.into())
    }

    /// JSON.
    pub fn json(status: u16, value: &serde_json::Value) -> Self {
        Self::new(status, "application/json", value.to_string())
    }

    /// With a header. Line breaks in `value` are left out.
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        let value = value.into().replace(['\r', '\n'], "");
        self.headers.push((name, value));
        self
    }

    /// Head and body as sent. `HEAD` is answered without the body.
    pub(crate) fn bytes(&self, asked: Option<&Head>, extra: &[Extra], close: bool) -> Vec<u8> {
        let mut out = status_line(self.status);
        // An answer without content says nothing about it.
        if self.status != 204 {
            out.push_str(&format!(
                "Content-Type: {}\r\nContent-Length: {}\r\n",
                self.kind,
                self.body.len()
            ));
        }
        let own = self.headers.iter().map(|(name, value)| (*name, value));
        for (name, value) in own.chain(extra.iter().map(|(name, value)| (*name, value))) {
            out.push_str(&format!("{name}: {value}\r\n"));
        }
        out.push_str(connection(close));
        let mut out = out.into_bytes();
        if asked.is_none_or(|head| head.method != "HEAD") && self.status != 204 {
            out.extend(&self.body);
        }
        out
    }
}

/// A header that every answer of a request has.
pub(crate) type Extra = (&'static str, String);

/// The head of a stream of events.
pub(crate) fn stream_head(extra: &[Extra], chunked: bool, close: bool) -> Vec<u8> {
    let mut out = status_line(200);
    // Proxies hold answers back unless they are told not to.
    out.push_str("Content-Type: text/event-stream; charset=utf-8\r\nX-Accel-Buffering: no\r\n");
    if chunked {
        out.push_str("Transfer-Encoding: chunked\r\n");
    }
    for (name, value) in extra {
        out.push_str(&format!("{name}: {value}\r\n"));
    }
    out.push_str(connection(close));
    out.into_bytes()
}

fn status_line(status: u16) -> String {
    format!(
        "HTTP/1.1 {status} {}\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n",
        reason(status)
    )
}

fn connection(close: bool) -> &'static str {
    match close {
        true => "Connection: close\r\n\r\n",
        false => "Connection: keep-alive\r\n\r\n",
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        411 => "Length Required",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "Unknown",
    }
}
