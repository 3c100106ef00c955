//! The client against a server that fails in every way.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    ops::ControlFlow,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use llavar_client::{
    AnswerFormat, ApiKey, ChatRequest, Client, ClientError, ClientOptions, CompletionRequest,
    JsonSchema, Message,
    testing::{Reply, StubServer},
};
use serde_json::json;

fn options(server: &StubServer) -> ClientOptions {
    let mut options = ClientOptions::new(server.endpoint().unwrap());
    options.retries.base = Duration::from_millis(5);
    options.retries.attempts = 4;
    options
}

fn client(server: &StubServer) -> Client {
    Client::new(options(server)).unwrap()
}

fn request() -> ChatRequest {
    ChatRequest::new("m", vec![Message::user("say hello to me")])
}

fn chat() -> Reply {
    Reply::Chat("hello to you".into())
}

/// A model that ends at once.
fn silence() -> Reply {
    Reply::Json(json!({
        "choices": [{"message": {"role": "assistant", "content": ""}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 4, "completion_tokens": 1},
    }))
}

#[test]
fn an_answer_with_its_tokens() {
    let server = StubServer::scripted(vec![], chat()).unwrap();
    let answer = client(&server).chat(&request()).unwrap();
    assert_eq!(answer.text, "hello to you");
    assert_eq!(answer.usage.unwrap(), server.total());
    assert_eq!((answer.attempts, server.requests().len()), (1, 1));
    assert_eq!(server.requests()[0].path, "/v1/chat/completions");
}

#[test]
fn passing_faults_are_tried_again() {
    let faults = [
        ("rate_limit", Reply::rate_limit("0")),
        ("server", Reply::error(500, "oops")),
        ("server", Reply::Status(503, vec![], "<html>".into())),
        ("cut_body", Reply::CutBody("a long answer is cut".into())),
        ("cut_body", Reply::Raw(vec![])),
        (
            "malformed",
            Reply::Raw(
                b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 9\r\n\r\n<html>no!"
                    .to_vec(),
            ),
        ),
        ("malformed", Reply::Json(json!({"wrong": "form"}))),
        (
            "empty_choices",
            Reply::Json(json!({"choices": [],
            "usage": {"prompt_tokens": 4, "completion_tokens": 1}})),
        ),
        ("empty_text", silence()),
    ];
    for (class, fault) in faults {
        let server = StubServer::scripted(vec![fault], chat()).unwrap();
        let mut seen = Vec::new();
        let mut wasted = 0;
        let answer = client(&server)
            .chat_watched(&request(), &mut |attempt| {
                seen.push(attempt.error.class().as_str());
                wasted += attempt.usage.map_or(0, |usage| usage.prompt_tokens);
                ControlFlow::Continue(())
            })
            .unwrap();
        assert_eq!(seen, [class]);
        assert_eq!((answer.text.as_str(), answer.attempts), ("hello to you", 2));
        // What was charged is either in the answer, in the failed attempt, or in an attempt whose
        // outcome is not known.
        if class != "cut_body" {
            assert_eq!(
                answer.usage.unwrap().prompt_tokens + wasted,
                server.total().prompt_tokens,
                "{class}"
            );
        }
    }
}

#[test]
fn an_empty_answer_is_one_where_it_may_be() {
    let server = StubServer::scripted(vec![], silence()).unwrap();
    let client = client(&server);
    let mut request = request();
    request.may_be_empty = true;
    let answer = client.chat(&request).unwrap();
    assert_eq!((answer.text.as_str(), answer.attempts), ("", 1));
    assert_eq!(answer.usage.unwrap(), server.total());
    request.may_be_empty = false;
    let error = client.chat(&request).unwrap_err().to_string();
    assert!(error.contains("the answer is empty"), "{error}");
}

#[test]
fn a_setting_out_of_range_ends_with_the_words_of_the_server() {
    // As `llavar serve`.
    let server = StubServer::start(|request| match request.body["temperature"].as_f64() {
        Some(x) if x > 2.0 => {
            Reply::error(400, "`temperature` has to be a number from 0 to 2, not 3")
        }
        _ => chat(),
    })
    .unwrap();
    let mut request = request();
    request.temperature = Some(3.0);
    let error = client(&server).chat(&request).unwrap_err().to_string();
    assert!(error.contains("from 0 to 2, not 3"), "{error}");
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn it_gives_up_in_the_end() {
    let server = StubServer::scripted(vec![], Reply::error(500, "oops")).unwrap();
    let error = client(&server).chat(&request()).unwrap_err();
    assert!(
        matches!(error, ClientError::GaveUp { attempts: 4, .. }),
        "{error:?}"
    );
    assert_eq!(error.class().as_str(), "server");
    assert_eq!(server.requests().len(), 4);
}

#[test]
fn faults_that_stay_are_not_tried_again() {
    for (class, fault) in [
        ("auth", Reply::error(401, "bad key")),
        ("not_found", Reply::error(404, "no such model")),
        ("quota", Reply::error(402, "pay first")),
        ("refused", Reply::error(418, "teapot")),
        (
            "context_length",
            Reply::error(400, "maximum context length is 8"),
        ),
        (
            "refused",
            Reply::Status(
                307,
                vec![("Location", "http://other/v1".into())],
                String::new(),
            ),
        ),
        (
            "filtered",
            Reply::Json(json!({"choices": [{"message": {"refusal": "no"}}]})),
        ),
    ] {
        let server = StubServer::scripted(vec![], fault).unwrap();
        let error = client(&server).chat(&request()).unwrap_err();
        assert_eq!(error.class().as_str(), class, "{error}");
        assert_eq!(server.requests().len(), 1, "{class}");
    }
}

#[test]
fn retry_after_is_honoured() {
    let server = StubServer::scripted(vec![Reply::rate_limit("1")], chat()).unwrap();
    let begun = Instant::now();
    let client = client(&server);
    client.chat(&request()).unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert!(client.limiter().limit() < 4);
    // A wait longer than the whole call may take is not begun.
    let server = StubServer::scripted(vec![], Reply::rate_limit("86400")).unwrap();
    let error = Client::new(options(&server))
        .unwrap()
        .chat(&request())
        .unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_secs(86_400)));
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_server_that_hangs_or_drips_is_left() {
    let hang = Reply::Hang(Duration::from_secs(600));
    let drip = Reply::Slow("word ".repeat(5000), Duration::from_millis(50));
    for fault in [hang, drip] {
        let server = StubServer::scripted(vec![fault], chat()).unwrap();
        let mut options = options(&server);
        options.time_outs.answer = Duration::from_secs(4);
        options.time_outs.body = Duration::from_secs(4);
        let mut seen = Vec::new();
        let answer = Client::new(options)
            .unwrap()
            .chat_watched(&request(), &mut |a| {
                seen.push(a.error.class().as_str());
                ControlFlow::Continue(())
            })
            .unwrap();
        assert_eq!((seen, answer.attempts), (vec!["time_out"], 2));
    }
}

#[test]
fn no_server_is_no_connection() {
    let server = StubServer::scripted(vec![], chat()).unwrap();
    let options = options(&server);
    drop(server);
    let error = Client::new(options).unwrap().chat(&request()).unwrap_err();
    assert_eq!(error.class().as_str(), "connect", "{error:?}");
}

#[test]
fn bodies_are_bounded() {
    let server = StubServer::scripted(vec![], Reply::Chat("word ".repeat(100_000))).unwrap();
    let mut options = options(&server);
    options.max_body = 100_000;
    let error = Client::new(options).unwrap().chat(&request()).unwrap_err();
    assert!(
        matches!(error, ClientError::TooLarge { limit: 100_000 }),
        "{error}"
    );
}

#[test]
fn a_key_is_sent_and_never_shown() {
    let server = StubServer::start(|request| match request.authorization.as_deref() {
        Some("Bearer sk-right") => chat(),
        other => Reply::error(401, &format!("incorrect key {}", other.unwrap_or("none"))),
    })
    .unwrap();
    let with = |key: &str| {
        let mut options = options(&server);
        options.key = Some(ApiKey::for_tests(key));
        let client = Client::new(options).unwrap();
        assert!(!format!("{client:?}").contains(key));
        client.chat(&request())
    };
    assert!(with("sk-right").is_ok());
    let error = with("sk-wrong-one").unwrap_err();
    let shown = format!("{error} {error:?}");
    assert!(
        shown.contains("incorrect key") && !shown.contains("sk-wrong"),
        "{shown}"
    );
    assert!(error.is_fatal());
}

#[test]
fn schemas_fall_back_and_the_server_is_remembered() {
    // As llama-cpp-python: json_object alone is known.
    let server =
        StubServer::start(
            |request| match request.body["response_format"]["type"].as_str() {
                Some("json_schema") => {
                    Reply::Status(422, vec![], json!({"detail": "type"}).to_string())
                }
                Some("json_object") => Reply::Chat("{}".into()),
                _ => Reply::Chat("free".into()),
            },
        )
        .unwrap();
    let mut request = request();
    request.schema = Some(JsonSchema {
        name: "s".into(),
        schema: json!({"type": "object"}),
    });
    let client = client(&server);
    let answer = client.chat(&request).unwrap();
    assert_eq!(
        (answer.text.as_str(), answer.format),
        ("{}", AnswerFormat::JsonObject)
    );
    client.chat(&request).unwrap();
    assert_eq!(server.requests().len(), 3, "the refusal is remembered");
}

#[test]
fn concurrency_adapts_to_the_server() {
    let running = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = Arc::clone(&running);
    let server = StubServer::start(move |_| {
        use std::sync::atomic::Ordering::SeqCst;
        let now = counted.fetch_add(1, SeqCst);
        std::thread::sleep(Duration::from_millis(10));
        counted.fetch_sub(1, SeqCst);
        if now >= 2 {
            Reply::rate_limit("0.02")
        } else {
            chat()
        }
    })
    .unwrap();
    let mut options = options(&server);
    options.max_concurrency = 8;
    options.retries.attempts = 100;
    let client = Client::new(options).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| (0..4).for_each(|_| drop(client.chat(&request()).unwrap())));
        }
    });
    assert_eq!(server.charged().len(), 32);
    assert!(server.most_at_once() <= 8);
    assert!(client.limiter().limit() < 8, "{}", client.limiter().limit());
}

#[test]
fn a_set_flag_stops_before_the_next_request() {
    let server = StubServer::scripted(vec![], chat()).unwrap();
    let mut options = options(&server);
    options.cancel = Some(Arc::new(AtomicBool::new(true)));
    let error = Client::new(options).unwrap().chat(&request()).unwrap_err();
    assert_eq!(error.class().as_str(), "cancelled");
    assert!(server.requests().is_empty());
}

#[test]
fn models_and_scores() {
    let server = StubServer::start(|request| match request.path.as_str() {
        "/v1/models" => Reply::Json(json!({"data": [{"id": "a"}, {"id": "b"}]})),
        // As llama-cpp-python: vLLM's key is refused.
        _ if !request.body["prompt_logprobs"].is_null() => Reply::error(422, "extra key"),
        _ => Reply::Json(json!({"choices": [{"text": "a b", "logprobs": {
            "tokens": ["a", " b"], "token_logprobs": [null, -1.5], "text_offset": [0, 1]}}]})),
    })
    .unwrap();
    let client = client(&server);
    assert_eq!(client.models().unwrap(), ["a", "b"]);
    let scored = client
        .complete(&CompletionRequest::score("m", "a b"))
        .unwrap();
    assert_eq!(scored.prompt.len(), 2);
    assert_eq!(scored.prompt[1].logprob, Some(-1.5));
    client
        .complete(&CompletionRequest::score("m", "a b"))
        .unwrap();
    assert_eq!(server.requests().len(), 4, "the refusal is remembered");
}

#[test]
fn an_idempotent_server_charges_a_lost_answer_once() {
    let server = StubServer::idempotent(|request| match request.number {
        0 => Reply::CutBody("the one answer that is paid for".into()),
        _ => Reply::Chat("another answer".into()),
    })
    .unwrap();
    let mut request = request();
    request.idempotency_key = Some("k1".into());
    let answer = client(&server).chat(&request).unwrap();
    assert_eq!(answer.text, "the one answer that is paid for");
    assert_eq!(server.charged().len(), 1);
    assert_eq!(answer.usage.unwrap(), server.total());
}
