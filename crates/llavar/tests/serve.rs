//! `llavar serve` as a user runs it.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::{Child, ChildStderr, Command},
    time::{Duration, Instant},
};

use common::World;
use llavar_client::{ApiKey, ChatRequest, Client, ClientOptions, Content, Endpoint, Message};

const PATIENCE: Duration = Duration::from_secs(60);

/// A server under way.
struct Serving {
    child: Child,
    stderr: BufReader<ChildStderr>,
    said: String,
    address: String,
}

impl Serving {
    fn start(world: &World, more: &[&str], key: Option<&str>) -> Self {
        let mut command = world.command(&["serve", "--port", "0", "--ocr", "none"], more);
        command.env_remove("LLAVAR_API_KEY");
        if let Some(key) = key {
            command.env("LLAVAR_API_KEY", key);
        }
        let mut child = command.spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let mut serving = Self {
            child,
            stderr,
            said: String::new(),
            address: String::new(),
        };
        serving.until("/v1/chat/completions");
        let from = serving.said.find("http://").expect("an address");
        let address = serving.said[from..].split(' ').next().unwrap();
        serving.address = address.to_owned();
        serving
    }

    /// Reads stderr until it has said something.
    fn until(&mut self, words: &str) {
        while !self.said.contains(words) {
            let read = self.stderr.read_line(&mut self.said).unwrap();
            assert!(read > 0, "`{words}` is not in {}", self.said);
        }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address["http://".len()..]).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn signal(&self, name: &str) {
        let process = self.child.id().to_string();
        let killed = Command::new("kill").args([name, &process]).status();
        assert!(killed.unwrap().success());
    }

    /// The exit code, and all that was said.
    fn end(mut self) -> (Option<i32>, String) {
        let by = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > by {
                self.child.kill().unwrap();
                panic!("it does not end: {}", self.said);
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        self.stderr.read_to_string(&mut self.said).unwrap();
        (status.code(), std::mem::take(&mut self.said))
    }
}

/// The head of a request with a body of `length` bytes.
fn post(length: usize) -> String {
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n"
    )
}

/// A test that fails leaves no server behind.
impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn it_answers_as_ask_does_and_ends_when_told() {
    let world = World::new("serve");
    let key = "sk-secret-of-the-server";
    let serving = Serving::start(
        &world,
        &["model", "--name", "tiny", "--slots", "2"],
        Some(key),
    );
    assert!(serving.said.contains("serving tiny at"), "{}", serving.said);
    assert!(
        serving.said.contains("Bearer $LLAVAR_API_KEY"),
        "{}",
        serving.said
    );
    let mut options = ClientOptions::new(Endpoint::parse(&serving.address).unwrap());
    options.key = Some(ApiKey::for_tests(key));
    let client = Client::new(options).unwrap();
    let picture = world.picture();
    let file = std::fs::read(world.path(&picture)).unwrap();
    let content = Content::image("image/png", &file);
    let question = Message::user("what is the total?").with_image(content);
    let mut request = ChatRequest::new("tiny", vec![question]);
    request.max_tokens = Some(12);
    let answer = client.chat(&request).unwrap();
    let asked = world.run(
        &[
            "ask", "--model", "model", "--ocr", "none", "--json", &picture,
        ],
        &["what is the total?", "--max-new-tokens", "12"],
    );
    let asked = asked.json();
    assert_eq!(answer.text, asked["answer"]);
    let usage = answer.usage.unwrap();
    assert_eq!(
        usage.prompt_tokens,
        asked["prompt_tokens"].as_u64().unwrap()
    );
    serving.signal("-TERM");
    let (code, said) = serving.end();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("all answers were finished"), "{said}");
    assert!(said.contains("chatcmpl-"), "a line for the request: {said}");
    assert!(!said.contains(key), "{said}");
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let world = World::new("serve_signals");
    // Room for an answer of minutes.
    let config = world.path("model/config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
    value["max_position_embeddings"] = (1 << 16).into();
    std::fs::write(&config, value.to_string()).unwrap();
    for (grace, signals, code) in [("600", 2, 130), ("0", 1, 0)] {
        let mut serving = Serving::start(&world, &["model", "--grace", grace], None);
        let mut long = serving.connect();
        let body = r#"{"messages": [{"role": "user", "content": "what is it?"}], "stream": true, "max_tokens": 60000}"#;
        long.write_all(post(body.len()).as_bytes()).unwrap();
        long.write_all(body.as_bytes()).unwrap();
        let mut begun = BufReader::new(long);
        let mut pieces = 0;
        while pieces < 3 {
            let mut line = String::new();
            assert!(begun.read_line(&mut line).unwrap() > 0, "it is answered");
            pieces += usize::from(line.contains("chat.completion.chunk"));
        }
        for _ in 0..signals {
            serving.signal("-INT");
            serving.until("under way are finished");
        }
        let (ended, said) = serving.end();
        assert_eq!(ended, Some(code), "{said}");
        assert_eq!(said.contains("were broken off"), code == 0, "{said}");
    }
}

#[test]
fn requests_that_do_not_come_do_not_hold_up_its_end() {
    let world = World::new("serve_stalled");
    // More than the test waits for.
    let serving = Serving::start(&world, &["model", "--grace", "600"], None);
    let mut half = serving.connect();
    let head = post(1000).replace("\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n");
    half.write_all(head.as_bytes()).unwrap();
    let mut go_on = [0; 25];
    half.read_exact(&mut go_on).unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    half.write_all(b"{").unwrap();
    serving.signal("-TERM");
    let (code, said) = serving.end();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("all answers were finished"), "{said}");
    let mut told = String::new();
    half.read_to_string(&mut told).unwrap();
    assert!(told.starts_with("HTTP/1.1 503") && told.contains("the server is stopping"));
}

#[test]
fn what_cannot_be_served_is_said() {
    let world = World::new("serve_faults");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    world
        .run(&["serve", "model", "--port", &port], &[])
        .fails(2, &["cannot listen", &port, "--port 0"]);
    world
        .run(&["serve", "nowhere", "--port", "0", "--ocr", "none"], &[])
        .fails(3, &["nowhere", "does not exist"]);
    world
        .run(
            &["serve", "model", "--port", "0"],
            &["--api-key-var", "LLAVAR_NO_SUCH_VARIABLE"],
        )
        .fails(2, &["LLAVAR_NO_SUCH_VARIABLE", "holds no key"]);
    world
        .run(&["serve", "model", "--slots", "0"], &[])
        .fails(2, &["--slots"]);
    world
        .run(&["serve", "model", "--host", "no.such.host.invalid"], &[])
        .fails(2, &["no.such.host.invalid", "--host"]);
}
