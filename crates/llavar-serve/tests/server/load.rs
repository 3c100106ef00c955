//! Many clients at once, some of which go away.

use std::{
    io::Write,
    net::{Shutdown, SocketAddr},
    sync::{Arc, Condvar, Mutex},
    time::{Duration, Instant},
};

use llavar_model::generation::GenerationOptions;
use llavar_ocr::{Engine, Line, OcrError, Page, Reader};
use llavar_serve::{Served, ServerOptions};
use serde_json::{Value, json};

use crate::{common::*, contract::CONVERSATIONS};

/// A model whose answers end only where they have to.
fn endless(slots: usize) -> Served {
    let served = served(slots);
    Served {
        defaults: GenerationOptions {
            stop_ids: Vec::new(),
            ..served.defaults
        },
        ..served
    }
}

/// A request for an answer of tens of thousands of tokens, in pieces.
fn long() -> Value {
    body(
        CONVERSATIONS[2],
        json!({"stream": true, "max_tokens": 60_000}),
    )
}

/// Reads the beginning of a streamed answer.
fn begin(raw: &mut Raw) {
    loop {
        let line = raw.line().expect("an answer");
        if line.contains("\"content\":\"") && !line.contains("\"content\":\"\"") {
            return;
        }
    }
}

#[test]
fn sixty_four_clients_a_third_of_which_goes_away() {
    let options = ServerOptions {
        queue: 100,
        ..options()
    };
    let (_server, address) = start(options, served(4));
    let assistant = assistant();
    let greedy = defaults(&assistant);
    let want: Vec<String> = CONVERSATIONS
        .iter()
        .map(|turns| alone(&assistant, turns, &greedy).text)
        .collect();
    // The pool of tensors has what it needs after the first round.
    let mut memory = Vec::new();
    for round in 0..3 {
        std::thread::scope(|scope| {
            for client in 0..64 {
                let (want, turns) = (&want, CONVERSATIONS[client % CONVERSATIONS.len()]);
                scope.spawn(move || {
                    let streams = client % 2 == 0;
                    let request = body(turns, json!({"stream": streams}));
                    let mut raw = Raw::to(address);
                    if client % 3 == 0 {
                        return go_away(raw, &request, client * 37 + round * 11);
                    }
                    raw.post(&request);
                    let got = raw.read();
                    let text = if streams {
                        streamed(&got)
                    } else {
                        content(&got)
                    };
                    assert_eq!(text, want[client % CONVERSATIONS.len()], "{client}");
                });
            }
        });
        is_empty(address);
        memory.push(llavar_tensor::memory::stats().in_use);
    }
    // Other tests of this process have tensors of their own.
    let least = |from: &[usize]| from.iter().copied().min().unwrap();
    println!("tensors after each round: {memory:?} bytes");
    assert!(least(&memory[1..]) <= memory[0] + (64 << 20));
    let ended = metric(address, "llavar_requests_total{outcome=\"stop\"}")
        + metric(address, "llavar_requests_total{outcome=\"length\"}");
    assert!(ended >= 3.0 * 42.0, "{ended}");
    assert_eq!(
        metric(address, "llavar_requests_total{outcome=\"failed\"}"),
        0.0
    );
}

/// Sends a request and goes away at some point: in the head, in the body, while it waits, or while it is
/// answered.
fn go_away(mut raw: Raw, request: &Value, chance: usize) {
    let bytes = post(&request.to_string());
    match chance % 4 {
        0 => raw.send(&bytes[..chance % bytes.len()]),
        1 => {
            raw.send(&bytes);
            std::thread::sleep(Duration::from_millis(chance as u64 % 7));
        }
        2 => {
            raw.send(&bytes);
            let _ = raw.line();
        }
        _ => {
            raw.send(&bytes);
            // Every answer has more lines than that.
            for _ in 0..chance % 9 {
                let _ = raw.line();
            }
        }
    }
    let _ = raw.stream().shutdown(Shutdown::Both);
}

#[test]
fn a_client_that_goes_frees_its_slot_at_once() {
    let (_server, address) = start(options(), endless(1));
    let whole = body(CONVERSATIONS[2], json!({"max_tokens": 60_000}));
    for request in [long(), whole] {
        let mut raw = Raw::to(address);
        raw.post(&request);
        eventually("it runs", || {
            metric(address, "llavar_num_requests_running") == 1.0
        });
        // One that waits behind it goes too: it is forgotten before there is room for it.
        let mut second = Raw::to(address);
        second.post(&request);
        eventually("it waits", || {
            metric(address, "llavar_num_requests_waiting") == 1.0
        });
        drop(second);
        eventually("it left", || {
            metric(address, "llavar_num_requests_waiting") == 0.0
        });
        assert_eq!(metric(address, "llavar_num_requests_running"), 1.0);
        drop(raw);
        is_empty(address);
    }
    assert_eq!(
        metric(address, "llavar_requests_total{outcome=\"cancelled\"}"),
        4.0
    );
    let tokens = metric(address, "llavar_generation_tokens_total");
    assert!(tokens < 100_000.0, "{tokens}");
    assert_eq!(ask(address, &body(CONVERSATIONS[2], json!({}))).status, 200);
}

#[test]
fn a_client_that_says_no_more_is_told_of_no_failure() {
    let (_server, address) = start(options(), endless(1));
    let mut raw = Raw::to(address);
    raw.post(&body(CONVERSATIONS[2], json!({"max_tokens": 60_000})));
    raw.stream().shutdown(Shutdown::Write).unwrap();
    // It counts as gone: the work is cancelled and the connection ends.
    assert!(raw.try_read().is_none());
    is_empty(address);
    for (outcome, count) in [("cancelled", 1.0), ("failed", 0.0)] {
        let name = format!("llavar_requests_total{{outcome=\"{outcome}\"}}");
        assert_eq!(metric(address, &name), count, "{outcome}");
    }
}

/// Reads no picture before it may.
struct Blocked(Arc<(Mutex<bool>, Condvar)>);

impl Engine for Blocked {
    fn name(&self) -> &'static str {
        "blocked"
    }

    fn fingerprint(&self) -> Option<String> {
        None
    }

    fn read(&self, _page: &Page) -> Result<Vec<Line>, OcrError> {
        let mut open = self.0.0.lock().unwrap();
        while !*open {
            open = self.0.1.wait(open).unwrap();
        }
        Ok(vec![Line::in_box(
            [0.0, 0.0, 9.0, 9.0],
            "the total is 7",
            1.0,
        )])
    }
}

#[test]
fn who_comes_when_the_queue_is_full_is_told_to_come_again() {
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let options = ServerOptions {
        queue: 2,
        ..options()
    };
    let served = Served {
        reader: Some(Reader::new(Box::new(Blocked(gate.clone())), None)),
        ..served(1)
    };
    let (_server, address) = start(options, served);
    let request = body(CONVERSATIONS[0], json!({}));
    // One for the slot, which is free while pictures are read, and two that wait.
    let mut first: Vec<Raw> = (0..3).map(|_| Raw::to(address)).collect();
    for raw in &mut first {
        raw.post(&request);
    }
    eventually("all three have a place", || {
        metric(address, "llavar_num_requests_waiting") == 3.0
    });
    let got = ask(address, &request);
    assert_eq!(got.status, 429);
    assert!(got.header("retry-after").is_some());
    assert_eq!(got.json()["error"]["code"], "queue_full");
    *gate.0.lock().unwrap() = true;
    gate.1.notify_all();
    // The text of the picture stands between it and the question, as `ask` has it.
    let assistant = assistant();
    let asked = "OCR: the total is 7\nwhat is the total of it?";
    let want = alone(&assistant, &[(&[1], asked)], &defaults(&assistant));
    for raw in &mut first {
        assert_eq!(content(&raw.read()), want.text);
    }
    is_empty(address);
    assert_eq!(
        metric(address, "llavar_requests_total{outcome=\"overloaded\"}"),
        1.0
    );
}

#[test]
fn the_end_waits_for_answers_under_way() {
    let (server, address) = start(options(), endless(2));
    let request = body(
        CONVERSATIONS[2],
        json!({"stream": true, "max_tokens": 2000}),
    );
    let (mut running, mut idle) = (Raw::to(address), Raw::to(address));
    idle.send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(idle.read().status, 200);
    running.post(&request);
    begin(&mut running);
    let stopping = std::thread::spawn(move || server.stop(PATIENCE));
    let mut last = String::new();
    while let Some(line) = running.line() {
        if line.starts_with("data: ") {
            last = line;
        }
    }
    assert_eq!(last, "data: [DONE]");
    assert!(stopping.join().unwrap(), "all answers were finished");
    assert!(idle.is_closed());
    assert!(refuses(address));
}

#[test]
fn the_end_does_not_wait_for_requests_that_do_not_come() {
    let (server, address) = start(options(), served(1));
    let request = post(&" ".repeat(10_000));
    let at = request.find("\r\n\r\n").unwrap();
    // In the middle of a head, of a body, of a chunk, and one that drips on.
    let chunk = request.replace("Content-Length", "X").replacen(
        "\r\n\r\n",
        "\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\n",
        1,
    );
    let mut halves = [&request[..at - 5], &request[..at + 9], &chunk].map(|begun| {
        let mut raw = Raw::to(address);
        raw.send(begun);
        raw
    });
    let mut drips = Raw::to(address);
    drips.send(&request[..at + 5]);
    let mut dripping = drips.stream().try_clone().unwrap();
    eventually("all four are read", || {
        metric(address, "llavar_num_connections") >= 5.0
    });
    let drip = std::thread::spawn(move || {
        while dripping.write_all(b" ").is_ok() {
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let begun = Instant::now();
    assert!(server.stop(PATIENCE), "no answer was under way");
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(60), "{took:?}");
    for raw in halves.iter_mut().chain([&mut drips]) {
        let got = raw.read();
        assert_eq!(got.status, 503);
        assert!(
            got.text().contains("the server is stopping"),
            "{}",
            got.text()
        );
    }
    drip.join().unwrap();
}

#[test]
fn the_end_does_not_wait_for_ever() {
    let (server, address) = start(options(), endless(1));
    let mut running = Raw::to(address);
    running.post(&long());
    begin(&mut running);
    let mut waiting = Raw::to(address);
    waiting.post(&long());
    eventually("it waits", || {
        metric(address, "llavar_num_requests_waiting") == 1.0
    });
    assert!(
        !server.stop(Duration::ZERO),
        "not all answers were finished"
    );
    let mut rest = Vec::new();
    while let Some(line) = running.line() {
        rest.push(line);
    }
    let events: Vec<&String> = rest
        .iter()
        .filter(|line| line.starts_with("data: "))
        .collect();
    assert!(
        events.last().is_some_and(|line| line.contains("stopping")),
        "{events:?}"
    );
    assert_ne!(
        rest.last().map(String::as_str),
        Some("0"),
        "no whole answer"
    );
    assert_eq!(waiting.read().status, 503);
    assert!(refuses(address));
}

fn refuses(address: SocketAddr) -> bool {
    std::net::TcpStream::connect(address).is_err()
}
