//! Clients that send too much, too slowly, or nonsense.

use std::{
    io::Write,
    net::Shutdown,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use llavar_image::encode_png;
use serde_json::{Value, json};

use crate::{common::*, contract::CONVERSATIONS};

const SHORT: Duration = Duration::from_secs(1);

fn image(url: &str) -> Value {
    json!({"messages": [{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": "what is it"},
    ]}], "max_tokens": 3})
}

fn data_url(file: &[u8]) -> String {
    format!("data:image/png;base64,{}", STANDARD.encode(file))
}

#[test]
fn too_much_is_refused_before_it_is_held() {
    let (_server, address) = start(limits(|limits| limits.body_bytes = 8 << 20), served(1));
    let mut raw = Raw::to(address);
    raw.send(format!(
        "GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n",
        "a".repeat(1 << 20)
    ));
    assert_eq!(raw.read().status, 431);

    // 100 MB in one length, and in chunks that say nothing of their sum.
    let body = image(&format!("data:image/png;base64,{}", "A".repeat(100 << 20))).to_string();
    let mut raw = Raw::to(address);
    raw.send(post(&body));
    assert_eq!(raw.read().status, 413);
    let mut raw = Raw::to(address);
    raw.send(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Transfer-Encoding: chunked\r\n\r\n",
    );
    for piece in body.as_bytes().chunks(1 << 20).take(12) {
        raw.send(format!("{:x}\r\n", piece.len()));
        raw.send(piece);
        raw.send("\r\n");
    }
    assert_eq!(raw.read().status, 413);
    drop(body);

    let url = picture(1).1;
    let part = json!({"type": "image_url", "image_url": {"url": url}});
    let many = json!({"messages": [{"role": "user", "content": vec![part; 10_000]}]});
    let mut raw = Raw::to(address);
    raw.post(&many);
    let got = raw.read();
    assert_eq!(got.status, 413, "their data alone are too many bytes");
    let part = json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}});
    let many = json!({"messages": [{"role": "user", "content": vec![part; 10_000]}]});
    let got = ask(address, &many);
    assert_eq!(got.status, 400);
    assert!(got.text().contains("10000 pictures"), "{}", got.text());
    assert!(got.text().contains("65536 tokens"), "{}", got.text());
    is_empty(address);
}

#[test]
fn all_bodies_together_have_a_limit() {
    let options = limits(|limits| {
        limits.body_bytes = 3 << 20;
        limits.all_body_bytes = 4 << 20;
    });
    let (_server, address) = start(options, served(1));
    let request = post(&" ".repeat(3 << 20));
    let (most, rest) = request.split_at(request.len() - 10);
    // Whichever is read first has the room; the other one is told to come again.
    eventually("the first has the room", || {
        let (mut first, mut second) = (Raw::to(address), Raw::to(address));
        first.send(most);
        second.send(&request);
        let second = second.read().status;
        first.send(rest);
        let both = [first.read().status, second];
        assert!(both.contains(&400), "{both:?}");
        both == [400, 503]
    });
    let mut third = Raw::to(address);
    third.send(&request);
    assert_eq!(third.read().status, 400, "there is room again");
}

#[test]
fn pictures_that_are_none_cost_only_their_request() {
    let (_server, address) = start(options(), served(1));
    let good = picture(1).0;
    let wide = {
        // The header says 40,000 x 40,000 pixels.
        let mut file = good.clone();
        file[16..24].copy_from_slice(&[0, 0, 0x9c, 0x40, 0, 0, 0x9c, 0x40]);
        file
    };
    let tall = encode_png(&llavar_image::RgbImage::filled(1, 3000, [9; 3])).unwrap();
    for (file, status, said) in [
        (&good[..], 200, ""),
        (&tall, 200, ""),
        (
            &good[..good.len() / 2],
            400,
            "messages[0].content[0].image_url",
        ),
        (&wide, 400, "pixels"),
        (b"\xff\xd8\xff\xe0 no picture at all", 400, "image"),
        (b"<svg/>", 400, "unknown image format"),
        (b"GIF89a", 400, "image"),
    ] {
        let got = ask(address, &image(&data_url(file)));
        assert_eq!(got.status, status, "{}", got.text());
        assert!(got.text().contains(said), "{}", got.text());
        assert!(!got.text().contains(".rs"), "{}", got.text());
    }
    let mut invalid = post(r#"{"messages":[{"role":"user","content":"XX"}]}"#).into_bytes();
    let at = invalid.windows(2).position(|two| two == b"XX").unwrap();
    invalid[at..at + 2].copy_from_slice(b"\xc3\x28");
    let mut raw = Raw::to(address);
    raw.send(invalid);
    let got = raw.read();
    assert_eq!((got.status, got.text().contains("JSON")), (400, true));
    // Deep nests do not reach the bottom of the stack.
    let mut raw = Raw::to(address);
    raw.send(post(&"[".repeat(100_000)));
    assert_eq!(raw.read().status, 400);
    is_empty(address);
}

#[test]
fn slow_and_broken_senders_are_let_go() {
    let options = limits(|limits| {
        limits.head_time = SHORT;
        limits.body_time = SHORT;
        limits.idle = SHORT;
    });
    let (_server, address) = start(options, served(1));
    // Byte by byte for ever: the deadline is for the whole head, not for a byte.
    let drip = |mut raw: Raw| {
        let begun = Instant::now();
        for _ in 0..500 {
            raw.send("a");
            std::thread::sleep(Duration::from_millis(10));
            if begun.elapsed() > SHORT * 4 {
                break;
            }
        }
        raw.read().status
    };
    let mut head = Raw::to(address);
    head.send("GET / HTTP/1.1\r\nX: ");
    assert_eq!(drip(head), 408);
    let mut body = Raw::to(address);
    let request = post(&" ".repeat(10_000));
    body.send(&request[..300]);
    assert_eq!(drip(body), 408);
    // Cut in its middle.
    let mut cut = Raw::to(address);
    cut.send(&request[..300]);
    cut.stream().shutdown(Shutdown::Write).unwrap();
    assert_eq!(cut.read().status, 400);
    // Nothing at all.
    assert!(Raw::to(address).is_closed());
    eventually("only the connection that asks is left", || {
        let mut raw = Raw::to(address);
        raw.send("GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
        // On a busy machine this one may be too slow too.
        raw.try_read()
            .is_some_and(|got| got.text().contains("llavar_num_connections 1\n"))
    });
}

#[test]
fn what_a_client_says_is_quoted_in_short() {
    let (_server, address) = start(options(), served(1));
    let long = "é".repeat(1 << 20);
    let typed = |kind: Value| json!({"messages": [{"role": "user", "content": [{"type": kind}]}]});
    let model = json!({"model": long, "messages": [{"role": "user", "content": "x"}]});
    for (body, status) in [
        (model, 404),
        (typed(json!(long)), 400),
        (typed(json!({"a": long})), 400),
        (typed(json!([long])), 400),
    ] {
        let got = ask(address, &body);
        assert_eq!(got.status, status);
        assert!(got.body.len() < 1000, "{} bytes", got.body.len());
    }
    let path = format!("/v1/models/{}", "x".repeat(20_000));
    let got = get(address, &path);
    assert_eq!(got.status, 404);
    assert!(got.body.len() < 1000, "{} bytes", got.body.len());
}

#[test]
fn a_reader_that_does_not_read_keeps_nobody_waiting() {
    let options = limits(|limits| limits.write_time = SHORT);
    let mut served = served(1);
    served.defaults.stop_ids = Vec::new();
    let (_server, address) = start(options, served);
    let mut slow = Raw::to(address);
    // More than the buffers of two sockets hold.
    let fields = json!({"stream": true, "logprobs": true, "max_tokens": 60_000});
    slow.post(&body(CONVERSATIONS[2], fields));
    eventually("it runs", || {
        metric(address, "llavar_num_requests_running") == 1.0
    });
    assert_eq!(ask(address, &body(CONVERSATIONS[2], json!({}))).status, 200);
    is_empty(address);
}

#[test]
fn connections_have_a_limit() {
    let (_server, address) = start(limits(|limits| limits.connections = 4), served(1));
    let mut held: Vec<Raw> = (0..4).map(|_| Raw::to(address)).collect();
    for raw in &mut held {
        raw.send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert_eq!(raw.read().status, 200);
    }
    let mut fifth = Raw::to(address);
    let got = fifth.read();
    assert_eq!(got.status, 503);
    assert!(got.header("retry-after").is_some() && fifth.is_closed());
    // One that is still sending meets no broken connection, and reads the answer when it is done.
    let mut sending = Raw::to(address);
    let request = post(&" ".repeat(100_000));
    for piece in request.as_bytes().chunks(40_000) {
        sending.stream().write_all(piece).unwrap();
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(sending.read().status, 503);
    drop(held.pop());
    eventually("there is room again", || {
        let mut raw = Raw::to(address);
        raw.send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
        raw.try_read().is_some_and(|got| got.status == 200)
    });
}
