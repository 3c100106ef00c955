//! As much HTTP/1.1 as one page needs: a request a connection, bounded.

use std::{
    collections::HashMap,
    io::{self, BufRead, BufReader, Read, Write},
    net::TcpStream,
};

const MOST_HEAD: u64 = 16 << 10;
const MOST_BODY: usize = 256 << 10;

/// A request.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) method: String,
    /// Without the query.
    pub(super) path: String,
    pub(super) query: HashMap<String, String>,
    /// Names in lower case.
    pub(super) headers: HashMap<String, String>,
    pub(super) body: Vec<u8>,
}

impl Request {
    /// Reads one; `Err` is the status of what is wrong with it.
    pub(super) fn read(stream: &mut TcpStream) -> io::Result<Result<Self, u16>> {
        let mut reader = BufReader::new(stream).take(MOST_HEAD);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let mut parts = line.split_whitespace();
        let (Some(method), Some(target)) = (parts.next(), parts.next()) else {
            return Ok(Err(400));
        };
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let mut request = Self {
            method: method.to_owned(),
            path: path.to_owned(),
            query: pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
            headers: HashMap::new(),
            body: Vec::new(),
        };
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                // The head is longer than allowed, or cut off.
                return Ok(Err(431));
            }
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            let Some((name, value)) = line.split_once(':') else {
                return Ok(Err(400));
            };
            request
                .headers
                .insert(name.trim().to_ascii_lowercase(), value.trim().to_owned());
        }
        if let Some(length) = request.headers.get("content-length") {
            let Ok(length) = length.parse::<usize>() else {
                return Ok(Err(400));
            };
            if length > MOST_BODY {
                return Ok(Err(413));
            }
            reader.set_limit(length as u64);
            reader.read_to_end(&mut request.body)?;
            if request.body.len() != length {
                return Ok(Err(400));
            }
        }
        Ok(Ok(request))
    }
}

/// A response.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) status: u16,
    kind: &'static str,
    body: Vec<u8>,
}

impl Response {
    pub(super) fn new(kind: &'static str, body: Vec<u8>) -> Self {
        Self {
            status: 200,
            kind,
            body,
        }
    }

    pub(super) fn text(status: u16, text: &str) -> Self {
        Self {
            status,
            kind: "text/plain; charset=utf-8",
            body: text.as_bytes().to_vec(),
        }
    }

    pub(super) fn json(value: &serde_json::Value) -> Self {
        Self::new("application/json", value.to_string().into_bytes())
    }

    pub(super) fn write(&self, stream: &mut TcpStream) -> io::Result<()> {
        // Model output is not trusted: only the page's own script runs, and nothing leaves the page.
        let head = format!(
            "HTTP/1.1 {} -\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\n\
             Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\n\
             Content-Security-Policy: default-src 'none'; img-src 'self' data:; connect-src 'self'; \
             script-src 'self'; style-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'\r\n\r\n",
            self.status,
            self.kind,
            self.body.len()
        );
        stream.write_all(head.as_bytes())?;
        stream.write_all(&self.body)?;
        stream.flush()
    }
}
