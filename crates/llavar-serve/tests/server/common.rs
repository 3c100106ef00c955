//! A server with a tiny model, and a client that sends bytes as they are.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    ops::ControlFlow,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use llavar_assistant::{Answer, Assistant, stack, testing, user_turn};
use llavar_data::Message;
use llavar_image::{DecodeLimits, encode_png};
use llavar_model::generation::{GenerationOptions, Room};
use llavar_serve::{HttpLimits, Log, Served, Server, ServerOptions};
use serde_json::{Value, json};

/// Generous: tests run on busy machines.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// Room for very long answers.
pub(crate) const CONTEXT: usize = 1 << 16;

/// The model: the same at every call.
pub(crate) fn assistant() -> Assistant {
    testing::with(vec![("max_position_embeddings".to_owned(), json!(CONTEXT))])
}

pub(crate) fn options() -> ServerOptions {
    ServerOptions {
        port: 0,
        log: Log::new(|line| println!("{line}")),
        ..ServerOptions::default()
    }
}

pub(crate) fn limits(change: impl FnOnce(&mut HttpLimits)) -> ServerOptions {
    let mut options = options();
    change(&mut options.limits);
    options
}

/// Options as the server's own.
pub(crate) fn defaults(assistant: &Assistant) -> GenerationOptions {
    GenerationOptions {
        max_new_tokens: 24,
        ..assistant.defaults()
    }
}

pub(crate) fn served(slots: usize) -> Served {
    let assistant = assistant();
    Served {
        name: "tiny".to_owned(),
        reader: None,
        defaults: defaults(&assistant),
        room: Room {
            slots,
            context: CONTEXT,
        },
        picture_bytes: 1 << 20,
        assistant,
    }
}

/// A server that is ready.
pub(crate) fn start(options: ServerOptions, served: Served) -> (Server, SocketAddr) {
    let server = Server::bind(options).unwrap();
    server.load(served).unwrap();
    let address = server.address();
    (server, address)
}

/// An encoded picture and its data URL.
pub(crate) fn picture(seed: usize) -> (Vec<u8>, String) {
    let image = testing::picture(40 + seed * 3 % 50, 30 + seed * 7 % 60, seed);
    let file = encode_png(&image).unwrap();
    let url = format!("data:image/png;base64,{}", STANDARD.encode(&file));
    (file, url)
}

/// What the assistant itself says: turns of user and model, each with the numbers of its pictures.
pub(crate) fn alone(
    assistant: &Assistant,
    turns: &[(&[usize], &str)],
    options: &GenerationOptions,
) -> Answer {
    let (mut messages, mut features) = (Vec::new(), Vec::new());
    for (number, (pictures, text)) in turns.iter().enumerate() {
        messages.push(match number % 2 {
            0 => user_turn(pictures.len(), text),
            _ => Message::assistant(*text),
        });
        for seed in *pictures {
            let file = picture(*seed).0;
            let image =
                llavar_image::decode_bytes(&file, "p".as_ref(), &DecodeLimits::default()).unwrap();
            features.push(assistant.see(&image).unwrap());
        }
    }
    let features = stack(&features).unwrap();
    let on_text = |_: &str| ControlFlow::Continue(());
    let answer = assistant.answer(&messages, features.as_ref(), options, on_text);
    answer.unwrap()
}

/// The same conversation as a request.
pub(crate) fn body(turns: &[(&[usize], &str)], extra: Value) -> Value {
    let messages: Vec<Value> = turns
        .iter()
        .enumerate()
        .map(|(number, (pictures, text))| {
            let mut parts: Vec<Value> = pictures
                .iter()
                .map(|seed| json!({"type": "image_url", "image_url": {"url": picture(*seed).1}}))
                .collect();
            parts.push(json!({"type": "text", "text": text}));
            let role = if number % 2 == 0 { "user" } else { "assistant" };
            match pictures.is_empty() {
                true => json!({"role": role, "content": text}),
                false => json!({"role": role, "content": parts}),
            }
        })
        .collect();
    let mut body = json!({"model": "tiny", "messages": messages});
    let fields = extra.as_object().unwrap().clone();
    body.as_object_mut().unwrap().extend(fields);
    body
}

/// An answer as it came.
#[derive(Debug)]
pub(crate) struct Got {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Got {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|_| panic!("{}{}", self.head, String::from_utf8_lossy(&self.body)))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    /// The value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        self.head.lines().find_map(|line| {
            let (own, value) = line.split_once(':')?;
            let same = own.eq_ignore_ascii_case(name);
            same.then(|| value.trim().to_owned())
        })
    }

    /// The data of a stream of events.
    pub(crate) fn events(&self) -> Vec<String> {
        let text = self.text();
        let events = text.split("\n\n").filter(|event| !event.is_empty());
        events
            .map(|event| event.strip_prefix("data: ").unwrap().to_owned())
            .collect()
    }
}

/// A connection.
pub(crate) struct Raw(BufReader<TcpStream>);

impl Raw {
    pub(crate) fn to(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self(BufReader::new(stream))
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        self.0.get_ref()
    }

    /// Sends bytes; the other side may be done with us already.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.0.get_mut().write_all(bytes.as_ref());
    }

    pub(crate) fn post(&mut self, body: &Value) {
        self.send(post(&body.to_string()));
    }

    /// Reads a line, without its end.
    pub(crate) fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        match self.0.read_line(&mut line) {
            Ok(0) | Err(_) => None,
            Ok(_) => Some(line.trim_end().to_owned()),
        }
    }

    /// Whether the server has closed the connection.
    pub(crate) fn is_closed(&mut self) -> bool {
        !matches!(self.0.read(&mut [0]), Ok(n) if n > 0)
    }

    /// Reads an answer; `None` where the connection ends first.
    pub(crate) fn try_read(&mut self) -> Option<Got> {
        let mut head = String::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            head += &line;
            head.push('\n');
        }
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let mut got = Got {
            status,
            head,
            body: Vec::new(),
        };
        if status < 200 || status == 204 {
            return Some(got);
        }
        if let Some(length) = got.header("content-length") {
            got.body = vec![0; length.parse().ok()?];
            self.0.read_exact(&mut got.body).ok()?;
        } else if got.header("transfer-encoding").is_some() {
            loop {
                let size = usize::from_str_radix(&self.line()?, 16).ok()?;
                let mut chunk = vec![0; size + 2];
                self.0.read_exact(&mut chunk).ok()?;
                if size == 0 {
                    break;
                }
                got.body.extend(&chunk[..size]);
            }
        } else {
            self.0.read_to_end(&mut got.body).ok()?;
        }
        Some(got)
    }

    pub(crate) fn read(&mut self) -> Got {
        self.try_read().expect("an answer")
    }

    /// Reads the head of an answer to `HEAD`.
    pub(crate) fn read_head(&mut self) -> String {
        let mut head = String::new();
        while let Some(line) = self.line().filter(|line| !line.is_empty()) {
            head += &line;
            head.push('\n');
        }
        head
    }
}

/// A request as bytes.
pub(crate) fn post(body: &str) -> String {
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

pub(crate) fn get(address: SocketAddr, path: &str) -> Got {
    let mut raw = Raw::to(address);
    raw.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    raw.read()
}

pub(crate) fn ask(address: SocketAddr, body: &Value) -> Got {
    let mut raw = Raw::to(address);
    raw.post(body);
    raw.read()
}

/// The text of a whole answer.
pub(crate) fn content(got: &Got) -> String {
    assert_eq!(got.status, 200, "{}", got.text());
    let answer = got.json();
    answer["choices"][0]["message"]["content"]
        .as_str()
        .unwrap()
        .to_owned()
}

/// The text of a streamed answer, which has to be complete.
pub(crate) fn streamed(got: &Got) -> String {
    let events = got.events();
    assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
    let pieces = events[..events.len() - 1].iter().map(|event| {
        let event: Value = serde_json::from_str(event).unwrap();
        let text = event["choices"][0]["delta"]["content"].as_str();
        text.unwrap_or_default().to_owned()
    });
    pieces.collect()
}

/// A number of `GET /metrics`.
pub(crate) fn metric(address: SocketAddr, name: &str) -> f64 {
    let text = get(address, "/metrics").text();
    let line = text
        .lines()
        .find(|line| line.split(' ').next() == Some(name));
    let value = line.and_then(|line| line.rsplit(' ').next()?.parse().ok());
    value.unwrap_or_else(|| panic!("{name} in {text}"))
}

/// Waits for something that has to come.
pub(crate) fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let by = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < by, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Nothing is left of any request.
pub(crate) fn is_empty(address: SocketAddr) {
    eventually("slots and queue are empty", || {
        metric(address, "llavar_num_requests_running") == 0.0
            && metric(address, "llavar_num_requests_waiting") == 0.0
    });
}
