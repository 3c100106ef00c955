//! HTTP: methods, routes, keys, connections.

use llavar_client::ApiKey;
use llavar_serve::{Served, Server, ServerOptions};
use serde_json::json;

use crate::{common::*, contract::CONVERSATIONS};

#[test]
fn methods_and_routes() {
    let (_server, address) = start(options(), served(1));
    let send = |request: &str| {
        let mut raw = Raw::to(address);
        raw.send(request.replace('\n', "\r\n"));
        raw.read()
    };
    for (request, status, says) in [
        (
            "GET /nowhere HTTP/1.1\nHost: localhost\n\n",
            404,
            "/nowhere",
        ),
        (
            "POST /health HTTP/1.1\nHost: localhost\nContent-Length: 0\n\n",
            405,
            "GET",
        ),
        (
            "GET /v1/chat/completions HTTP/1.1\nHost: localhost\n\n",
            405,
            "POST",
        ),
        ("DELETE / HTTP/1.1\nHost: localhost\n\n", 405, "GET"),
        (
            "GET /v1/models/other HTTP/1.1\nHost: localhost\n\n",
            404,
            "other",
        ),
        (
            "GET /v1/models/tiny?x=y HTTP/1.1\nHost: localhost\n\n",
            200,
            "max_model_len",
        ),
        ("GET /health HTTP/1.0\n\n", 200, "ok"),
        (
            "POST /v1/chat/completions HTTP/1.1\nHost: localhost\nContent-Type: application/json\n\n",
            411,
            "Content-Length",
        ),
        (
            "POST /v1/chat/completions HTTP/1.1\nHost: localhost\nContent-Type: text/plain\nContent-Length: 2\n\n{}",
            415,
            "application/json",
        ),
        ("GET / HTTP/3.0\nHost: localhost\n\n", 505, "1.1"),
        ("nonsense\n\n", 400, "HTTP"),
        // A page of another site whose name was made to point here.
        (
            "GET / HTTP/1.1\nHost: evil.example:80\n\n",
            403,
            "localhost",
        ),
        ("GET /health HTTP/1.1\nHost: [::1]:80\n\n", 200, "ok"),
    ] {
        let got = send(request);
        assert_eq!(got.status, status, "{request}: {}", got.text());
        assert!(got.text().contains(says), "{request}: {}", got.text());
        if status == 405 {
            assert!(got.header("allow").unwrap().contains(says));
        }
        if status >= 400 {
            assert!(got.json()["error"]["message"].is_string());
        }
    }
    let mut raw = Raw::to(address);
    for path in ["/", "/health", "/v1/models", "/metrics"] {
        raw.send(format!("HEAD {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        let head = raw.read_head();
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert!(head.contains("Content-Length: "), "{head}");
    }
    // Nothing of a body stood between them.
    raw.send("GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let got = raw.read();
    assert_eq!(got.json(), json!({"status": "ok"}));
    assert_eq!(got.header("connection").as_deref(), Some("close"));
    assert!(raw.is_closed());
}

#[test]
fn other_origins_are_let_in_where_they_may() {
    let preflight = "OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nOrigin: http://x\r\n\
                     Access-Control-Request-Method: POST\r\n\r\n";
    for cors in [false, true] {
        let options = ServerOptions {
            cors,
            key: Some(ApiKey::for_tests("k")),
            ..options()
        };
        let server = Server::bind(options).unwrap();
        let mut raw = Raw::to(server.address());
        raw.send(preflight);
        let got = raw.read();
        assert_eq!(got.status, 204);
        assert_eq!(got.header("access-control-allow-origin").is_some(), cors);
        assert_eq!(got.header("access-control-allow-headers").is_some(), cors);
        let got = get(server.address(), "/v1/models");
        assert_eq!(got.status, 401);
        assert_eq!(got.header("access-control-allow-origin").is_some(), cors);
    }
}

#[test]
fn pages_of_other_origins_may_send_the_headers_of_their_client() {
    let options = ServerOptions {
        cors: true,
        ..options()
    };
    let server = Server::bind(options).unwrap();
    let usual = "Authorization, Content-Type";
    // As OpenAI's client for JavaScript, then what is no list of names.
    let stainless = "authorization,content-type,x-stainless-arch,x-stainless-retry-count";
    for (wanted, allowed) in [
        (stainless, stainless),
        ("a b", usual),
        ("x-a, ,x-b", usual),
        ("x-a: evil", usual),
        ("é", usual),
        ("", usual),
    ] {
        let mut raw = Raw::to(server.address());
        raw.send(format!(
            "OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nOrigin: http://x\r\n\
             Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: {wanted}\r\n\r\n"
        ));
        let got = raw.read();
        let headers = got.header("access-control-allow-headers");
        assert_eq!(headers.as_deref(), Some(allowed), "{wanted:?}");
    }
}

#[test]
fn a_model_is_found_by_the_name_that_its_address_stands_for() {
    let served = Served {
        name: "my größer/model%".to_owned(),
        ..served(1)
    };
    let (_server, address) = start(options(), served);
    for (path, status) in [
        ("my%20gr%C3%B6%c3%9Fer%2Fmodel%25", 200),
        ("my%20gr%C3%B6%c3%9Fer/model%", 200),
        ("my+gr%C3%B6%c3%9Fer/model%", 404),
        ("my%2", 404),
        ("%zz", 404),
        ("%ff%", 404),
    ] {
        let got = get(address, &format!("/v1/models/{path}"));
        assert_eq!(got.status, status, "{path}: {}", got.text());
    }
}

#[test]
fn a_key_guards_all_but_the_page_and_health() {
    let options = ServerOptions {
        key: Some(ApiKey::for_tests("sk-right")),
        ..options()
    };
    let (_server, address) = start(options, served(1));
    let with = |path: &str, key: Option<&str>| {
        let mut raw = Raw::to(address);
        let key = key.map(|key| format!("Authorization: {key}\r\n"));
        let key = key.unwrap_or_default();
        raw.send(format!(
            "GET {path} HTTP/1.1\r\nHost: evil.example\r\n{key}\r\n"
        ));
        raw.read()
    };
    for path in ["/", "/health"] {
        assert_eq!(with(path, None).status, 200, "{path}");
    }
    for path in [
        "/v1/models",
        "/v1/models/tiny",
        "/metrics",
        "/ready",
        "/nowhere",
    ] {
        for wrong in [
            None,
            Some("Bearer sk-wrong"),
            Some("Bearer "),
            Some("Basic sk-right"),
            Some("sk-right"),
        ] {
            let got = with(path, wrong);
            assert_eq!(got.status, 401, "{path} {wrong:?}");
            assert_eq!(got.header("www-authenticate").as_deref(), Some("Bearer"));
            assert!(!got.text().contains("sk-"), "{}", got.text());
        }
        let right = with(path, Some("bearer sk-right"));
        assert_eq!(right.status, if path == "/nowhere" { 404 } else { 200 });
    }
    // A body is not even read, and the client sees the answer although it is still sending.
    let mut raw = Raw::to(address);
    raw.send(post(&"x".repeat(4 << 20)));
    assert_eq!(raw.read().status, 401);
}

#[test]
fn a_server_is_not_ready_until_its_model_is() {
    let server = Server::bind(options()).unwrap();
    let address = server.address();
    assert_eq!(get(address, "/health").status, 200);
    assert_eq!(get(address, "/ready").status, 503);
    assert_eq!(get(address, "/v1/models").json()["data"], json!([]));
    let got = ask(address, &body(CONVERSATIONS[2], json!({})));
    assert_eq!(got.status, 503);
    assert!(got.header("retry-after").is_some());
    server.load(served(1)).unwrap();
    assert_eq!(get(address, "/ready").status, 200);
    assert_eq!(ask(address, &body(CONVERSATIONS[2], json!({}))).status, 200);
    assert!(server.load(served(1)).is_err());
}

#[test]
fn one_connection_takes_many_requests() {
    let (_server, address) = start(options(), served(2));
    let assistant = assistant();
    let want: Vec<String> = CONVERSATIONS
        .iter()
        .map(|turns| alone(&assistant, turns, &defaults(&assistant)).text)
        .collect();
    // All at once, the answers in their order; every second one in pieces.
    let mut raw = Raw::to(address);
    for (i, turns) in CONVERSATIONS.iter().enumerate() {
        raw.post(&body(turns, json!({"stream": i % 2 == 1})));
    }
    for (i, want) in want.iter().enumerate() {
        let got = raw.read();
        let text = if i % 2 == 1 {
            streamed(&got)
        } else {
            content(&got)
        };
        assert_eq!(&text, want);
    }
    // One after the other, also after an error.
    for want in [&want[2], &want[2]] {
        raw.send(post("{"));
        assert_eq!(raw.read().status, 400);
        raw.post(&body(CONVERSATIONS[2], json!({})));
        assert_eq!(&content(&raw.read()), want);
    }
    // An old client has no chunks: the end of the connection is the end of the answer.
    let request = body(CONVERSATIONS[2], json!({"stream": true})).to_string();
    let mut raw = Raw::to(address);
    raw.send(post(&request).replace("HTTP/1.1", "HTTP/1.0"));
    let got = raw.read();
    assert!(got.header("transfer-encoding").is_none());
    assert_eq!(streamed(&got), want[2]);
}

#[test]
fn a_client_that_waits_for_a_word_gets_it() {
    let (_server, address) = start(options(), served(1));
    let request = post(&body(CONVERSATIONS[2], json!({})).to_string());
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let mut raw = Raw::to(address);
    raw.send(format!("{head}\r\nExpect: 100-continue\r\n\r\n"));
    assert_eq!(raw.read().status, 100);
    raw.send(body);
    assert_eq!(raw.read().status, 200);
}
