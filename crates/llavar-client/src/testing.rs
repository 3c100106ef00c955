//! A server for tests that answers, counts and fails by script.
//!
//! It runs in the test's process on a free port of 127.0.0.1 and stops when dropped. What it answers is a
//! function of the request; [`StubServer::scripted`] takes a list. It keeps its own books: every answer
//! that it began to send with a usage is charged, whether it arrived or not.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{ClientError, Endpoint, Usage};

/// A request as it came.
#[derive(Debug, Clone)]
pub struct StubRequest {
    /// From 0, in the order of arrival.
    pub number: usize,
    /// `POST` or `GET`.
    pub method: String,
    /// As `/v1/chat/completions`.
    pub path: String,
    /// The header, `Bearer ...`.
    pub authorization: Option<String>,
    /// The header.
    pub idempotency_key: Option<String>,
    /// The JSON body; null without one.
    pub body: Value,
}

impl StubRequest {
    /// All text of all messages, or the prompt.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let mut push = |value: &Value| {
            if let Some(text) = value.as_str() {
                out.push_str(text);
                out.push('\n');
            }
        };
        push(&self.body["prompt"]);
        for message in self.body["messages"].as_array().into_iter().flatten() {
            push(&message["content"]);
            for part in message["content"].as_array().into_iter().flatten() {
                push(&part["text"]);
            }
        }
        out
    }

    /// Pictures in its messages.
    pub fn images(&self) -> usize {
        let messages = self.body["messages"].as_array().into_iter().flatten();
        let parts = messages.filter_map(|m| m["content"].as_array()).flatten();
        parts.filter(|part| part["type"] == "image_url").count()
    }
}

/// What the server does with a request.
#[derive(Debug, Clone)]
pub enum Reply {
    /// A chat answer of this text, with a usage that counts words.
    Chat(String),
    /// This JSON.
    Json(Value),
    /// A status with headers and a body.
    Status(u16, Vec<(&'static str, String)>, String),
    /// Bytes as they are, the status line included; then the connection ends. A whole answer says
    /// `Connection: close`, or the client may send its next request into the closing connection: an attempt
    /// that fails without having arrived here.
    Raw(Vec<u8>),
    /// Nothing for this long (or until the server stops), then the connection ends.
    Hang(Duration),
    /// A chat answer of this text whose body ends in its middle; it is charged.
    CutBody(String),
    /// A chat answer of this text, sent in pieces with a pause after each.
    Slow(String, Duration),
    /// A chat answer after a pause.
    After(Duration, String),
}

impl Reply {
    /// 429 with `Retry-After` in seconds.
    pub fn rate_limit(retry_after: &str) -> Self {
        Self::Status(
            429,
            vec![("Retry-After", retry_after.to_owned())],
            json!({"error": {"message": "slow down", "code": "rate_limit_exceeded"}}).to_string(),
        )
    }

    /// An error with a status.
    pub fn error(status: u16, message: &str) -> Self {
        let body = json!({"error": {"message": message}}).to_string();
        Self::Status(status, Vec::new(), body)
    }
}

/// An answer that was charged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Charged {
    /// The request's key.
    pub idempotency_key: Option<String>,
    /// Its tokens.
    pub usage: Usage,
}

type Respond = dyn Fn(&StubRequest) -> Reply + Send + Sync;

struct Shared {
    respond: Box<Respond>,
    /// Repeats of a key get the first answer again and are not charged.
    idempotent: bool,
    stop: AtomicBool,
    running: AtomicUsize,
    most_at_once: AtomicUsize,
    books: Mutex<Books>,
}

#[derive(Default)]
struct Books {
    requests: Vec<StubRequest>,
    charged: Vec<Charged>,
    kept: HashMap<String, Reply>,
}

impl Shared {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The server.
pub struct StubServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for StubServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StubServer")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl StubServer {
    /// A server that answers by `respond`.
    ///
    /// # Errors
    /// No free port.
    pub fn start(
        respond: impl Fn(&StubRequest) -> Reply + Send + Sync + 'static,
    ) -> std::io::Result<Self> {
        Self::start_with(respond, false)
    }

    /// A server that knows `Idempotency-Key`: a repeated key gets the first answer again, uncharged.
    ///
    /// # Errors
    /// No free port.
    pub fn idempotent(
        respond: impl Fn(&StubRequest) -> Reply + Send + Sync + 'static,
    ) -> std::io::Result<Self> {
        Self::start_with(respond, true)
    }

    /// The replies of a list in order, then `rest` for ever.
    ///
    /// # Errors
    /// No free port.
    pub fn scripted(script: Vec<Reply>, rest: Reply) -> std::io::Result<Self> {
        Self::start(move |request| script.get(request.number).unwrap_or(&rest).clone())
    }

    fn start_with(
        respond: impl Fn(&StubRequest) -> Reply + Send + Sync + 'static,
        idempotent: bool,
    ) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            respond: Box::new(respond),
            idempotent,
            stop: AtomicBool::new(false),
            running: AtomicUsize::new(0),
            most_at_once: AtomicUsize::new(0),
            books: Mutex::default(),
        });
        let accepting = {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    if shared.stop.load(SeqCst) {
                        break;
                    }
                    let Ok(stream) = stream else { continue };
                    let shared = Arc::clone(&shared);
                    std::thread::spawn(move || {
                        // A client that goes away is part of the tests.
                        let _ = serve(stream, &shared);
                    });
                }
            })
        };
        Ok(Self {
            address,
            shared,
            accepting: Some(accepting),
        })
    }

    /// Its address without `/v1`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Its address for a client.
    ///
    /// # Errors
    /// None in practice.
    pub fn endpoint(&self) -> Result<Endpoint, ClientError> {
        Endpoint::parse(&self.url())
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<StubRequest> {
        self.shared.books().requests.clone()
    }

    /// All answers that were charged.
    pub fn charged(&self) -> Vec<Charged> {
        self.shared.books().charged.clone()
    }

    /// Tokens of all charged answers.
    pub fn total(&self) -> Usage {
        let mut total = Usage::default();
        for charged in &self.shared.books().charged {
            total.prompt_tokens += charged.usage.prompt_tokens;
            total.completion_tokens += charged.usage.completion_tokens;
        }
        total
    }

    /// The most requests that were under way at the same time.
    pub fn most_at_once(&self) -> usize {
        self.shared.most_at_once.load(SeqCst)
    }
}

impl Drop for StubServer {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        // Wakes the accepting thread.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.accepting.take() {
            let _ = thread.join();
        }
    }
}

fn serve(stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    while let Some(mut request) = read_request(&mut reader)? {
        let now = shared.running.fetch_add(1, SeqCst) + 1;
        shared.most_at_once.fetch_max(now, SeqCst);
        let done = answer(&mut stream, &mut request, shared);
        shared.running.fetch_sub(1, SeqCst);
        if !done? {
            break;
        }
    }
    Ok(())
}

fn read_request(reader: &mut BufReader<TcpStream>) -> std::io::Result<Option<StubRequest>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut parts = line.split_whitespace();
    let mut request = StubRequest {
        number: 0,
        method: parts.next().unwrap_or_default().to_owned(),
        path: parts.next().unwrap_or_default().to_owned(),
        authorization: None,
        idempotency_key: None,
        body: Value::Null,
    };
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().unwrap_or(0),
            "authorization" => request.authorization = Some(value.to_owned()),
            "idempotency-key" => request.idempotency_key = Some(value.to_owned()),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    request.body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    Ok(Some(request))
}

/// Sends the reply; whether the connection goes on.
fn answer(
    stream: &mut TcpStream,
    request: &mut StubRequest,
    shared: &Shared,
) -> std::io::Result<bool> {
    let kept = {
        let mut books = shared.books();
        request.number = books.requests.len();
        books.requests.push(request.clone());
        let key = request.idempotency_key.as_ref();
        key.filter(|_| shared.idempotent)
            .and_then(|key| books.kept.get(key).cloned())
    };
    let repeated = kept.is_some();
    let reply = kept.unwrap_or_else(|| (shared.respond)(request));
    let chat = |text: &str| {
        let usage = Usage {
            prompt_tokens: request.text().split_whitespace().count() as u64,
            completion_tokens: text.split_whitespace().count() as u64,
            cached_tokens: 0,
        };
        json!({
            "id": format!("stub-{}", request.number),
            "object": "chat.completion",
            "model": request.body["model"],
            "choices": [{"index": 0, "finish_reason": "stop",
                "message": {"role": "assistant", "content": text}}],
            "usage": usage,
        })
    };
    // An idempotent server that lost the client gives the whole answer the next time.
    let charge = |value: &Value, whole: &str| {
        let Some(usage) = crate::classify::usage_of(value) else {
            return;
        };
        if repeated {
            return;
        }
        let mut books = shared.books();
        let key = request.idempotency_key.as_ref();
        // The first request of this key may have been under way when the second came.
        if shared.idempotent && key.is_some_and(|key| books.kept.contains_key(key)) {
            return;
        }
        books.charged.push(Charged {
            idempotency_key: request.idempotency_key.clone(),
            usage,
        });
        if let Some(key) = &request.idempotency_key {
            books
                .kept
                .insert(key.clone(), Reply::Chat(whole.to_owned()));
        }
    };
    match reply {
        Reply::Chat(text) => {
            let value = chat(&text);
            charge(&value, &text);
            stream.write_all(&ok(&value))?;
        }
        Reply::After(pause, text) => {
            rest(pause, shared);
            let value = chat(&text);
            charge(&value, &text);
            stream.write_all(&ok(&value))?;
        }
        Reply::Json(value) => {
            let text = value["choices"][0]["message"]["content"].as_str();
            charge(&value, text.unwrap_or_default());
            stream.write_all(&ok(&value))?;
        }
        Reply::Status(status, headers, body) => {
            let mut head = format!("HTTP/1.1 {status} Status\r\n");
            for (name, value) in headers {
                head += &format!("{name}: {value}\r\n");
            }
            head += &format!("Content-Length: {}\r\n\r\n{body}", body.len());
            stream.write_all(head.as_bytes())?;
        }
        Reply::Raw(bytes) => {
            stream.write_all(&bytes)?;
            return Ok(false);
        }
        Reply::Hang(pause) => {
            rest(pause, shared);
            return Ok(false);
        }
        Reply::CutBody(text) => {
            let value = chat(&text);
            charge(&value, &text);
            let bytes = ok(&value);
            stream.write_all(&bytes[..bytes.len() - text.len() / 2 - 20])?;
            return Ok(false);
        }
        Reply::Slow(text, pause) => {
            let value = chat(&text);
            charge(&value, &text);
            for piece in ok(&value).chunks(64) {
                stream.write_all(piece)?;
                rest(pause, shared);
            }
        }
    }
    Ok(true)
}

fn ok(value: &Value) -> Vec<u8> {
    let body = value.to_string();
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Sleeps unless the server is being stopped.
fn rest(pause: Duration, shared: &Shared) {
    let until = Instant::now() + pause;
    while Instant::now() < until && !shared.stop.load(SeqCst) {
        std::thread::sleep(
            until
                .saturating_duration_since(Instant::now())
                .min(Duration::from_millis(20)),
        );
    }
}
