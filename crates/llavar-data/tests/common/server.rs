//! A small web server for data sets, with faults on the way, and a data set for it.

use std::{
    collections::HashMap,
    fs,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
};

use llavar_data::{Cache, Dataset, ImageSource};

/// What the server does instead of answering well.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fault {
    /// 503 for so many requests.
    Busy(usize),
    /// The connection ends in the middle of the body, for so many requests.
    Cut(usize),
    /// Whole files alone.
    NoRanges,
    /// Another version of the file from the third request on.
    Changes,
    /// 403 always.
    Forbidden,
}

/// A path without its percent signs.
fn decoded(path: &str) -> String {
    let mut parts = path.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(&part[..2], 16).unwrap());
        bytes.extend(&part.as_bytes()[2..]);
    }
    String::from_utf8(bytes).unwrap()
}

/// Serves a folder with range requests.
pub struct Server {
    pub address: String,
    pub requests: Arc<AtomicUsize>,
    pub bytes: Arc<AtomicUsize>,
    fault: Arc<Mutex<Option<Fault>>>,
}

impl Server {
    pub fn start(root: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self {
            address: format!("http://{}", listener.local_addr().unwrap()),
            requests: Arc::default(),
            bytes: Arc::default(),
            fault: Arc::default(),
        };
        let (requests, bytes) = (Arc::clone(&server.requests), Arc::clone(&server.bytes));
        let (fault, root) = (Arc::clone(&server.fault), root.to_owned());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (requests, bytes) = (Arc::clone(&requests), Arc::clone(&bytes));
                let (fault, root) = (Arc::clone(&fault), root.clone());
                thread::spawn(move || serve(&stream, &root, &requests, &bytes, &fault));
            }
        });
        server
    }

    pub fn url(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    pub fn set(&self, fault: Option<Fault>) {
        *self.fault.lock().unwrap() = fault;
        self.requests.store(0, Relaxed);
        self.bytes.store(0, Relaxed);
    }
}

fn serve(
    stream: &TcpStream,
    root: &Path,
    requests: &AtomicUsize,
    bytes: &AtomicUsize,
    fault: &Mutex<Option<Fault>>,
) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let mut words = line.split_whitespace().map(str::to_owned);
        let head_alone = words.next().as_deref() == Some("HEAD");
        let path = words.next().unwrap_or_else(|| "/".to_owned());
        let mut headers = HashMap::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            match line.trim().split_once(':') {
                Some((name, value)) => {
                    headers.insert(name.to_ascii_lowercase(), value.trim().to_owned())
                }
                None => break,
            };
        }
        let number = requests.fetch_add(1, Relaxed);
        let fault = *fault.lock().unwrap();
        let name = decoded(path.split('?').next().unwrap().trim_start_matches('/'));
        let mut stream = stream;
        let mut answer = |head: String, body: &[u8]| {
            let body = if head_alone { &[] } else { body };
            bytes.fetch_add(body.len(), Relaxed);
            let _ = stream
                .write_all(head.as_bytes())
                .and_then(|()| stream.write_all(body));
        };
        let short = |status: &str| format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
        match fault {
            Some(Fault::Busy(times)) if number < times => {
                answer(
                    short("503 Busy").replace("\r\n\r\n", "\r\nRetry-After: 0\r\n\r\n"),
                    b"",
                );
                continue;
            }
            Some(Fault::Forbidden) => {
                answer(short("403 Forbidden"), b"");
                continue;
            }
            _ => {}
        }
        let Ok(all) = fs::read(root.join(&name)) else {
            answer(short("404 Not Found"), b"");
            continue;
        };
        let changed = fault == Some(Fault::Changes) && number >= 2;
        let tag = format!(
            "Last-Modified: Wed, 01 Jan 2025 00:00:00 GMT\r\nETag: \"{}{}\"\r\n",
            all.len(),
            if changed { "-2" } else { "" }
        );
        let range = headers
            .get("range")
            .filter(|_| fault != Some(Fault::NoRanges));
        let (head, body) = match range.and_then(|r| r.strip_prefix("bytes=")?.split_once('-')) {
            None => {
                let head = format!(
                    "HTTP/1.1 200 OK\r\n{tag}Content-Length: {}\r\n\r\n",
                    all.len()
                );
                (head, &all[..])
            }
            Some((from, to)) => {
                let (from, to): (usize, usize) = (from.parse().unwrap(), to.parse().unwrap());
                let to = (to + 1).min(all.len());
                if from >= all.len() {
                    let total = format!("Content-Range: bytes */{}\r\n\r\n", all.len());
                    answer(
                        short("416 Range").replacen("\r\n\r\n", &format!("\r\n{total}"), 1),
                        b"",
                    );
                    continue;
                }
                let head = format!(
                    "HTTP/1.1 206 Part\r\n{tag}Content-Range: bytes {from}-{}/{}\r\nContent-Length: {}\r\n\r\n",
                    to - 1,
                    all.len(),
                    to - from
                );
                (head, &all[from..to])
            }
        };
        if matches!(fault, Some(Fault::Cut(times)) if number < times) {
            answer(head, &body[..body.len() / 2]);
            let _ = stream.shutdown(std::net::Shutdown::Both);
            return;
        }
        answer(head, body);
    }
}

pub fn record(i: usize) -> serde_json::Value {
    serde_json::json!({"id": i, "image": format!("a b/{i}.png"), "conversations": [
        {"from": "human", "value": format!("<image>\nwhat is {i}?")},
        {"from": "gpt", "value": "x".repeat(1 + i % 700)}]})
}

/// A folder with `data.jsonl`, `data.json`, `data.tar`, two Parquet files and pictures, 3,000 samples, and its server.
pub fn world() -> (tempfile::TempDir, Server) {
    let dir = tempfile::tempdir().unwrap();
    let lines: Vec<String> = (0..3000).map(|i| record(i).to_string()).collect();
    fs::write(dir.path().join("data.jsonl"), lines.join("\n")).unwrap();
    let array = format!("[{}]", lines.join(",\n"));
    fs::write(dir.path().join("data.json"), array).unwrap();
    for name in ["one.parquet", "many.parquet"] {
        let fixtures = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures"));
        fs::copy(fixtures.join(name), dir.path().join(name)).unwrap();
    }
    fs::create_dir(dir.path().join("a b")).unwrap();
    for i in 0..3 {
        fs::write(dir.path().join(format!("a b/{i}.png")), vec![i as u8; 5000]).unwrap();
    }
    let mut tar = tar::Builder::new(fs::File::create(dir.path().join("data.tar")).unwrap());
    let mut add = |name: String, bytes: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, bytes).unwrap();
    };
    for i in 0..40 {
        let mut record = record(i);
        record.as_object_mut().unwrap().remove("image");
        add(format!("{i:04}.json"), record.to_string().as_bytes());
        add(format!("{i:04}.jpg"), &vec![i as u8; 30_000]);
    }
    tar.finish().unwrap();
    drop(tar);
    let server = Server::start(dir.path());
    (dir, server)
}

pub fn open(path: &str, images: Option<&str>) -> Result<Dataset, llavar_data::Error> {
    Dataset::open_with(Path::new(path), images.map(Path::new), &Cache::none())
}

pub fn bytes_of(source: ImageSource) -> Vec<u8> {
    match source {
        ImageSource::Bytes { bytes, .. } => bytes,
        ImageSource::File(path) => fs::read(path).unwrap(),
    }
}
