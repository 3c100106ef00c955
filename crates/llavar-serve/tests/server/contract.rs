//! OpenAI's interface: what is asked and what is answered.

use llavar_client::{ApiKey, ChatRequest, Client, ClientOptions, Content, Endpoint, Message};
use llavar_model::generation::{GenerationOptions, StopReason};
use serde_json::{Value, json};

use crate::common::*;

/// Conversations of every form: turns of user and model with the numbers of their pictures.
pub(crate) const CONVERSATIONS: &[&[(&[usize], &str)]] = &[
    &[(&[1], "what is the total of it?")],
    &[(&[2], "  what is it? ")],
    &[(&[], "the total")],
    &[
        (&[1], "what is it?"),
        (&[], "the total is 7"),
        (&[], "is it 7?"),
    ],
    &[
        (&[3, 4], "what is the total of it"),
        (&[], "it is"),
        (&[1], "and of it?"),
    ],
    &[(&[5, 5], "what")],
];

#[test]
fn our_own_client_is_answered_as_the_assistant_answers() {
    let (_server, address) = start(options(), served(4));
    let mut options = ClientOptions::new(Endpoint::parse(&format!("http://{address}")).unwrap());
    options.key = Some(ApiKey::for_tests("any"));
    let client = Client::new(options).unwrap();
    let assistant = assistant();
    let question = "what is the total?";
    let mut request = ChatRequest::new(
        "tiny",
        vec![Message::user(question).with_image(Content::image("image/png", &picture(7).0))],
    );
    request.max_tokens = Some(9);
    let want = alone(
        &assistant,
        &[(&[7], question)],
        &GenerationOptions {
            max_new_tokens: 9,
            ..defaults(&assistant)
        },
    );
    let answer = client.chat(&request).unwrap();
    assert_eq!(answer.text, want.text);
    assert_eq!(answer.model.as_deref(), Some("tiny"));
    let usage = answer.usage.unwrap();
    assert_eq!(usage.prompt_tokens, want.prompt_tokens as u64);
    assert_eq!(usage.completion_tokens, want.new_tokens as u64);
    let reason = match want.stop_reason {
        StopReason::StopId(_) => "stop",
        _ => "length",
    };
    assert_eq!(answer.finish_reason.as_deref(), Some(reason));
    // A schema is refused, and the client then asks without one.
    request.schema = Some(llavar_client::JsonSchema {
        name: "s".into(),
        schema: json!({"type": "object"}),
    });
    assert_eq!(client.chat(&request).unwrap().text, want.text);
    request.model = "other".to_owned();
    let error = client.chat(&request).unwrap_err().to_string();
    assert!(error.contains("other") && error.contains("tiny"), "{error}");
}

#[test]
fn streamed_whole_and_alone_are_one_answer() {
    let (_server, address) = start(options(), served(4));
    let assistant = assistant();
    let sampled = GenerationOptions {
        temperature: 1.2,
        top_p: Some(0.9),
        seed: 5,
        ..defaults(&assistant)
    };
    let penalised = GenerationOptions {
        repetition_penalty: 1.3,
        ..defaults(&assistant)
    };
    let mut texts = Vec::new();
    for turns in CONVERSATIONS {
        for (options, fields) in [
            (&defaults(&assistant), json!({})),
            (
                &sampled,
                json!({"temperature": 1.2, "top_p": 0.9, "seed": 5}),
            ),
            (
                &penalised,
                json!({"repetition_penalty": 1.3, "temperature": null}),
            ),
        ] {
            let want = alone(&assistant, turns, options);
            let whole = ask(address, &body(turns, fields.clone()));
            assert_eq!(content(&whole), want.text, "{turns:?} {fields}");
            let whole = whole.json();
            let choice = &whole["choices"][0];
            assert!(is_near(&choice["probability"], want.score));
            assert_eq!(whole["usage"]["prompt_tokens"], want.prompt_tokens);
            assert_eq!(whole["usage"]["completion_tokens"], want.new_tokens);

            let mut streaming = body(turns, fields.clone());
            streaming["stream"] = json!(true);
            streaming["stream_options"] = json!({"include_usage": true});
            let got = ask(address, &streaming);
            assert_eq!(streamed(&got), want.text, "{turns:?} {fields}");
            let events: Vec<Value> = got.events()[..got.events().len() - 1]
                .iter()
                .map(|event| serde_json::from_str(event).unwrap())
                .collect();
            assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
            let last = &events[events.len() - 2]["choices"][0];
            assert_eq!(last["finish_reason"], choice["finish_reason"]);
            assert!(is_near(&last["probability"], want.score));
            assert_eq!(events[events.len() - 1]["usage"], whole["usage"]);
            assert!(events.iter().all(|e| e["id"] == events[0]["id"]));
            texts.push(want.text);
        }
    }
    texts.sort();
    texts.dedup();
    assert!(texts.len() > 12, "{} answers show little", texts.len());
    is_empty(address);
    assert!(metric(address, "llavar_picture_cache_hits_total") > 20.0);
}

/// Whether a probability is that of a score, as far as rounding goes: beginnings that the cache has are not read
/// again.
fn is_near(probability: &Value, score: f64) -> bool {
    (probability.as_f64().unwrap().ln() - score).abs() < 1e-3
}

/// What OpenAI's client for Python sends.
#[test]
fn bytes_of_the_official_client() {
    let (_server, address) = start(options(), served(1));
    let body = r#"{"messages":[{"role":"developer","content":"Be brief."},{"role":"user","content":[{"type":"text","text":"what is it"},{"type":"image_url","image_url":{"url":"PICTURE","detail":"high"}}]}],"model":"tiny","max_completion_tokens":5,"n":1,"user":"me","store":false,"metadata":{}}"#;
    let body = body.replace("PICTURE", &picture(1).1);
    let mut raw = Raw::to(address);
    raw.send(format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: gzip, deflate\r\n\
         Connection: keep-alive\r\nAccept: application/json\r\nContent-Type: application/json\r\n\
         User-Agent: OpenAI/Python 1.99.0\r\nX-Stainless-Lang: python\r\nX-Stainless-Async: false\r\n\
         x-stainless-retry-count: 0\r\nx-stainless-read-timeout: 600\r\nAuthorization: Bearer sk-x\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    ));
    let got = raw.read();
    let answer = got.json();
    assert_eq!(got.status, 200, "{answer}");
    for (pointer, is) in [
        (
            "/id",
            answer["id"].as_str().unwrap().starts_with("chatcmpl-"),
        ),
        ("/object", answer["object"] == "chat.completion"),
        (
            "/created",
            answer["created"].as_u64().unwrap() > 1_700_000_000,
        ),
        (
            "/message",
            answer["choices"][0]["message"]["role"] == "assistant",
        ),
        (
            "/usage",
            answer["usage"]["completion_tokens"].as_u64().unwrap() <= 5,
        ),
    ] {
        assert!(is, "{pointer}: {answer}");
    }
    assert_eq!(got.header("x-request-id").as_deref(), answer["id"].as_str());
    // The instructions are part of the prompt.
    let short = json!({"messages": [{"role": "user", "content": "x"}], "max_tokens": 1});
    let mut long = short.clone();
    let system = json!({"role": "system", "content": "the total is 7 ".repeat(40)});
    long["messages"].as_array_mut().unwrap().insert(0, system);
    let tokens = |body| ask(address, body).json()["usage"]["prompt_tokens"].as_u64();
    assert!(tokens(&long) > tokens(&short));
}

#[test]
fn stop_texts_end_the_answer_and_are_not_shown() {
    let (_server, address) = start(options(), served(2));
    let assistant = assistant();
    let (mut cut, turns) = (0, CONVERSATIONS[0]);
    let whole = alone(&assistant, turns, &defaults(&assistant)).text;
    let characters: Vec<char> = whole.chars().collect();
    for at in 0..characters.len().saturating_sub(3) {
        let stop: String = characters[at..at + 3].iter().collect();
        let want = whole[..whole.find(&stop).unwrap()].trim();
        let mut request = body(turns, json!({"stop": [stop, "never to be seen"]}));
        let got = ask(address, &request);
        assert_eq!(content(&got), want, "{stop:?}");
        assert_eq!(got.json()["choices"][0]["finish_reason"], "stop");
        cut += usize::from(!want.is_empty());
        request["stream"] = json!(true);
        assert_eq!(streamed(&ask(address, &request)), want, "{stop:?}");
    }
    assert!(cut > 3, "{whole:?}");
    is_empty(address);
}

#[test]
fn log_probabilities_are_those_of_the_tokens() {
    let (_server, address) = start(options(), served(2));
    let mut request = body(CONVERSATIONS[0], json!({"logprobs": true, "max_tokens": 8}));
    let answer = ask(address, &request).json();
    let entries = &answer["choices"][0]["logprobs"]["content"];
    let list = entries.as_array().unwrap();
    assert_eq!(
        list.len() as u64,
        answer["usage"]["completion_tokens"].as_u64().unwrap()
    );
    let sum: f64 = list.iter().map(|e| e["logprob"].as_f64().unwrap()).sum();
    let probability = answer["choices"][0]["probability"].as_f64().unwrap();
    assert!(sum <= 0.0 && sum.exp() >= probability * 0.999);
    let text = |list: &[Value]| -> String {
        let tokens = list.iter().map(|entry| entry["token"].as_str().unwrap());
        tokens.collect()
    };
    let tokens = text(list);
    request["stream"] = json!(true);
    let events = ask(address, &request).events();
    let streamed: Vec<Value> = events[..events.len() - 1]
        .iter()
        .filter_map(|event| {
            let event: Value = serde_json::from_str(event).unwrap();
            event["choices"][0]["logprobs"]["content"]
                .as_array()
                .cloned()
        })
        .flatten()
        .collect();
    assert_eq!(text(&streamed), tokens);
}

#[test]
fn requests_that_cannot_be_are_told_what_and_where() {
    let (_server, address) = start(options(), served(1));
    let user = |content: Value| json!([{"role": "user", "content": content}]);
    let image = |url: &str| user(json!([{"type": "image_url", "image_url": {"url": url}}]));
    let with = |name: &str, value: Value| {
        let mut body = json!({"messages": [{"role": "user", "content": "x"}]});
        body[name] = value;
        body.to_string()
    };
    let messages = |messages: Value| with("messages", messages);
    let place = "messages[0].content[0].image_url";
    for (body, param, said) in [
        ("".to_owned(), None, "no JSON"),
        ("{\"messages\": [}".to_owned(), None, "no JSON"),
        ("[1]".to_owned(), None, "JSON object"),
        ("{}".to_owned(), Some("messages"), "missing"),
        (messages(json!("x")), Some("messages"), "a list"),
        (messages(json!([])), Some("messages"), "the user's"),
        (
            messages(user(json!(""))),
            Some("messages"),
            "a text or a picture",
        ),
        (
            messages(user(json!([]))),
            Some("messages"),
            "a text or a picture",
        ),
        (
            messages(json!([{"content": "x"}])),
            Some("messages[0]"),
            "role",
        ),
        (
            messages(json!([{"role": "user"}])),
            Some("messages[0].content"),
            "missing",
        ),
        (
            messages(user(json!(3))),
            Some("messages[0].content"),
            "a text or a list",
        ),
        (
            messages(json!([{"role": "tool", "content": "x"}])),
            Some("messages[0].role"),
            "tool",
        ),
        (
            messages(
                json!([{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]),
            ),
            Some("messages"),
            "the user's",
        ),
        (
            messages(json!([{"role": "user", "content": "x"}, {"role": "system", "content": "y"}])),
            Some("messages[1]"),
            "before the first turn",
        ),
        (
            messages(user(json!([{"type": "input_audio"}]))),
            Some("messages[0].content[0]"),
            "text",
        ),
        (
            messages(image("https://example.org/a.png")),
            Some(place),
            "data URL",
        ),
        (
            messages(image("file:///etc/passwd")),
            Some(place),
            "data URL",
        ),
        (
            messages(image("data:image/png;base64,AAAA")),
            Some(place),
            "unknown image format",
        ),
        (
            with("temperature", json!(-1)),
            Some("temperature"),
            "from 0 to 2",
        ),
        (
            with("temperature", json!("hot")),
            Some("temperature"),
            "hot",
        ),
        (with("top_p", json!(0)), Some("top_p"), "above 0"),
        // Within the range until it is an f32.
        (
            with("top_p", json!(1e-300)),
            Some("top_p"),
            "above 0, at most 1 that an f32 holds",
        ),
        (
            with("repetition_penalty", json!(1e-300)),
            Some("repetition_penalty"),
            "above 0 that an f32 holds",
        ),
        (
            with("repetition_penalty", json!(1e300)),
            Some("repetition_penalty"),
            "above 0 that an f32 holds",
        ),
        (
            with("repetition_penalty", json!(0)),
            Some("repetition_penalty"),
            "above 0, not 0",
        ),
        (
            with("max_tokens", json!(0)),
            Some("max_tokens"),
            "1 or more",
        ),
        (with("max_tokens", json!(1.5)), Some("max_tokens"), "1.5"),
        (with("n", json!(2)), Some("n"), "one answer"),
        (
            with("stream", json!("yes")),
            Some("stream"),
            "true or false",
        ),
        (
            with("stream_options", json!({})),
            Some("stream_options"),
            "belongs to",
        ),
        (with("stop", json!([""])), Some("stop"), "1 to"),
        (with("seed", json!(0.5)), Some("seed"), "whole number"),
        (
            with("tools", json!([{"type": "function"}])),
            Some("tools"),
            "no tools",
        ),
        (
            with("tool_choice", json!("required")),
            Some("tool_choice"),
            "no tools",
        ),
        (
            with("tool_choice", json!({"type": "function"})),
            Some("tool_choice"),
            "no tools",
        ),
        (
            with("response_format", json!({"type": "json_object"})),
            Some("response_format"),
            "form",
        ),
        (
            with("top_logprobs", json!(3)),
            Some("top_logprobs"),
            "logprobs",
        ),
        (
            messages(user(json!("a b ".repeat(CONTEXT)))),
            Some("messages"),
            "65536 tokens",
        ),
    ] {
        let mut raw = Raw::to(address);
        raw.send(post(&body));
        let got = raw.read();
        let error = got.json()["error"].clone();
        let shown: String = body.chars().take(100).collect();
        assert_eq!(got.status, 400, "{shown}: {error}");
        assert_eq!(error["param"].as_str(), param, "{shown}: {error}");
        assert_eq!(error["type"], "invalid_request_error");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(said), "{shown}: {message}");
    }
    // Null is nothing, and what is not known is passed over.
    let fields = json!({"stop": null, "seed": -3, "top_k": -1, "tools": [], "tool_choice": "auto", "presence_penalty": 0,
                        "response_format": {"type": "text"}, "service_tier": "auto"});
    assert_eq!(ask(address, &body(CONVERSATIONS[2], fields)).status, 200);
    let fields = json!({"tool_choice": "none", "temperature": 1e-300});
    assert_eq!(ask(address, &body(CONVERSATIONS[2], fields)).status, 200);
    is_empty(address);
}
