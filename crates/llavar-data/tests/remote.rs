//! Data sets on a web server: the same samples as from a local file, with faults on the way.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    collections::HashMap,
    fs,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use llavar_data::{
    Cache, Dataset, ImageSource,
    remote::{RemoteError, RemoteFile, Retry, fetch},
};

/// What the server does instead of answering well.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
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

/// Serves a folder with range requests.
struct Server {
    address: String,
    requests: Arc<AtomicUsize>,
    bytes: Arc<AtomicUsize>,
    fault: Arc<Mutex<Option<Fault>>>,
}

impl Server {
    fn start(root: &Path) -> Self {
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

    fn url(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    fn set(&self, fault: Option<Fault>) {
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
        let path = line.split_whitespace().nth(1).unwrap_or("/").to_owned();
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
        let name = path
            .split('?')
            .next()
            .unwrap()
            .trim_start_matches('/')
            .replace("%20", " ");
        let mut stream = stream;
        let mut answer = |head: String, body: &[u8]| {
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
            "ETag: \"{}{}\"\r\n",
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

const QUICK: Retry = Retry {
    attempts: 4,
    base: Duration::from_millis(1),
    cap: Duration::from_millis(20),
};

fn record(i: usize) -> serde_json::Value {
    serde_json::json!({"id": i, "image": format!("a b/{i}.png"), "conversations": [
        {"from": "human", "value": format!("<image>\nwhat is {i}?")},
        {"from": "gpt", "value": "x".repeat(1 + i % 700)}]})
}

/// A folder with `data.jsonl`, `data.tar` and pictures, 3,000 samples, and its server.
fn world() -> (tempfile::TempDir, Server) {
    let dir = tempfile::tempdir().unwrap();
    let lines: Vec<String> = (0..3000).map(|i| record(i).to_string()).collect();
    fs::write(dir.path().join("data.jsonl"), lines.join("\n")).unwrap();
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

fn open(path: &str, images: Option<&str>) -> Result<Dataset, llavar_data::Error> {
    Dataset::open_with(Path::new(path), images.map(Path::new), &Cache::none())
}

#[test]
fn a_set_on_a_server_is_the_set_on_disk() {
    let (dir, server) = world();
    let images = format!("{}/", server.address);
    let here = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let local = open(&here("data.jsonl"), Some(dir.path().to_str().unwrap())).unwrap();
    let remote = open(&server.url("data.jsonl?signature=secret"), Some(&images)).unwrap();
    assert_eq!(remote.len(), 3000);
    assert_eq!(remote.stamp().bytes, local.stamp().bytes);
    for i in [0, 1, 2999, 1500, 7] {
        assert_eq!(remote.get(i).unwrap(), local.get(i).unwrap());
    }
    let sample = remote.get(2).unwrap();
    let ImageSource::Bytes { name, bytes } = remote.image(2, &sample, 0).unwrap() else {
        panic!("bytes");
    };
    assert_eq!(bytes, vec![2; 5000]);
    assert!(name.ends_with("a%20b/2.png"), "{}", name.display());
    // A picture that is not there is named, without what signs the address.
    let sample = remote.get(9).unwrap();
    let error = remote.image(9, &sample, 0).unwrap_err().to_string();
    assert!(
        error.contains("a b/9.png") && error.contains("404"),
        "{error}"
    );

    let local = open(&here("data.tar"), None).unwrap();
    let remote = open(&server.url("data.tar"), None).unwrap();
    for i in (0..40).rev() {
        let sample = remote.get(i).unwrap();
        assert_eq!(sample, local.get(i).unwrap());
        assert_eq!(
            remote.image(i, &sample, 0).map(bytes_of).unwrap(),
            local.image(i, &sample, 0).map(bytes_of).unwrap()
        );
    }
}

fn bytes_of(source: ImageSource) -> Vec<u8> {
    match source {
        ImageSource::Bytes { bytes, .. } => bytes,
        ImageSource::File(path) => fs::read(path).unwrap(),
    }
}

#[test]
fn reading_through_takes_few_requests_and_one_sample_little() {
    let (_dir, server) = world();
    let remote = open(&server.url("data.jsonl"), None).unwrap();
    let size = remote.stamp().bytes as usize;
    assert!(size > 1 << 20, "{size}");
    let (requests, bytes) = (server.requests.load(Relaxed), server.bytes.load(Relaxed));
    assert!(requests <= 8, "{requests} requests for {size} bytes");
    assert!(bytes < size + (128 << 10), "{bytes} of {size}");
    // Twice the file's pages that are kept, read at random: never more than a page each.
    let big = RemoteFile::open(&server.url("data.jsonl"), QUICK).unwrap();
    server.set(None);
    let mut buffer = [0; 100];
    big.read_at(&mut buffer, 900_000).unwrap();
    assert_eq!(server.bytes.load(Relaxed), 64 << 10);
    assert_eq!(big.read_at(&mut buffer, size as u64).unwrap(), 0);
    assert_eq!(big.read_at(&mut buffer, size as u64 - 7).unwrap(), 7);
}

#[test]
fn faults_are_tried_again_or_named() {
    let (dir, server) = world();
    let whole = fs::read(dir.path().join("data.jsonl")).unwrap();
    let read = |retry| -> Result<Vec<u8>, RemoteError> {
        let file = RemoteFile::open(&server.url("data.jsonl"), retry)?;
        let (mut all, mut buffer) = (Vec::new(), vec![0; 10_000]);
        loop {
            match file.read_at(&mut buffer, all.len() as u64)? {
                0 => return Ok(all),
                count => all.extend_from_slice(&buffer[..count]),
            }
        }
    };
    for fault in [None, Some(Fault::Busy(3)), Some(Fault::Cut(3))] {
        server.set(fault);
        assert!(read(QUICK).unwrap() == whole, "{fault:?}");
    }
    for (fault, word) in [
        (Fault::Busy(99), "503"),
        (Fault::Cut(99), "broke off"),
        (Fault::NoRanges, "range requests"),
        (Fault::Changes, "changed on the server"),
        (Fault::Forbidden, "403"),
    ] {
        server.set(Some(fault));
        let error = read(QUICK).unwrap_err().to_string();
        assert!(error.contains(word), "{fault:?}: {error}");
        if fault == Fault::Forbidden || fault == Fault::NoRanges {
            assert_eq!(
                server.requests.load(Relaxed),
                1,
                "{fault:?} is not tried again"
            );
        }
    }
    server.set(None);
    let error = open(&server.url("gone.jsonl"), None).unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("404"), "{cause}");
    assert_eq!(
        fetch(&server.url("a%20b/1.png"), 5000, &QUICK).unwrap(),
        vec![1; 5000]
    );
    let error = fetch(&server.url("a%20b/1.png"), 4999, &QUICK).unwrap_err();
    assert!(
        matches!(error, RemoteError::TooLarge { limit: 4999 }),
        "{error}"
    );
    // Nobody listens there.
    let refused = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    assert!(RemoteFile::open(&format!("http://{refused}/x"), QUICK).is_err());
    #[cfg(not(feature = "object-store"))]
    {
        let error = open("s3://bucket/data.jsonl", None).unwrap_err();
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains("--features object-store"), "{cause}");
    }
}

#[test]
fn names_that_lead_out_are_refused_before_anything_is_fetched() {
    let (_dir, server) = world();
    let folder = llavar_data::ImageFolder::open(&PathBuf::from(&server.address)).unwrap();
    server.set(None);
    for name in ["../x.png", "/etc/passwd", "a/../../b", ""] {
        assert!(folder.fetch(name).is_err(), "{name}");
    }
    assert_eq!(server.requests.load(Relaxed), 0);
}
