//! A closer look over HTTP: halves of the picture are asked where the whole gave no sure answer.

use llavar_assistant::{Answer, Assistant, Conversation, testing};
use llavar_image::{DecodeLimits, decode_bytes};
use llavar_model::generation::GenerationOptions;
use llavar_serve::Served;
use serde_json::{Value, json};

use crate::common::*;

/// Larger weights than usual, for some answers that are sure.
fn model() -> Assistant {
    testing::with(vec![
        ("max_position_embeddings".to_owned(), json!(CONTEXT)),
        ("initializer_range".to_owned(), json!(0.6)),
    ])
}

fn serving(slots: usize) -> Served {
    let assistant = model();
    Served {
        defaults: assistant.defaults(),
        assistant,
        ..served(slots)
    }
}

/// What the assistant itself says, and whether it looked closer.
fn alone(assistant: &Assistant, seed: usize, question: &str, most: usize) -> (Answer, bool) {
    let image = decode_bytes(&picture(seed).0, "p".as_ref(), &DecodeLimits::default()).unwrap();
    let mut conversation = Conversation::default();
    conversation.show(assistant.see(&image).unwrap());
    let options = GenerationOptions {
        max_new_tokens: most,
        ..assistant.defaults()
    };
    conversation
        .ask_closely(assistant, &image, question, &options)
        .unwrap()
}

#[test]
fn the_surest_of_a_picture_and_its_halves_answers_whole_and_streamed() {
    let assistant = model();
    for slots in [1, 4] {
        let (_server, address) = start(options(), serving(slots));
        let (mut looked, mut sure, mut changed) = (0, 0, 0);
        for seed in 0..24 {
            let question = format!("what is {seed}?");
            // An answer of one token may be sure, a longer one of this model hardly is.
            let most = 1 + seed % 2 * 4;
            let (want, closer) = alone(&assistant, seed, &question, most);
            let turns: &[(&[usize], &str)] = &[(&[seed], &question)];
            let with = |extra: Value| {
                let mut fields = json!({"max_tokens": most});
                let extra = extra.as_object().unwrap().clone();
                fields.as_object_mut().unwrap().extend(extra);
                body(turns, fields)
            };
            let got = ask(address, &with(json!({"closer": true, "logprobs": true})));
            assert_eq!(content(&got), want.text, "{seed}");
            let got = got.json();
            let choice = &got["choices"][0];
            assert_eq!(choice["closer_look"], closer, "{seed}");
            let probability = choice["probability"].as_f64().unwrap();
            assert!((probability.ln() - want.score).abs() < 1e-3, "{seed}");
            assert_eq!(got["usage"]["completion_tokens"], want.new_tokens);
            let tokens = choice["logprobs"]["content"].as_array().unwrap();
            assert!(tokens.len() >= want.new_tokens, "{seed}: {tokens:?}");

            let fields =
                json!({"closer": true, "stream": true, "stream_options": {"include_usage": true}});
            let stream = ask(address, &with(fields));
            assert_eq!(streamed(&stream), want.text, "{seed}");
            let events = stream.events();
            let event = |from_end: usize| -> Value {
                serde_json::from_str(&events[events.len() - from_end]).unwrap()
            };
            assert_eq!(event(3)["choices"][0]["closer_look"], closer);
            assert_eq!(
                event(3)["choices"][0]["finish_reason"],
                choice["finish_reason"]
            );
            assert_eq!(event(2)["usage"], got["usage"]);

            let plain = ask(address, &with(json!({"closer": false})));
            assert!(plain.json()["choices"][0].get("closer_look").is_none());
            looked += usize::from(closer);
            sure += usize::from(!closer);
            changed += usize::from(content(&plain) != want.text);
        }
        assert!(
            looked > 4 && sure > 0 && changed > 0,
            "{looked} looked at again, {changed} of them answered otherwise, {sure} sure"
        );
        is_empty(address);
    }
}

#[test]
fn a_closer_look_that_cannot_be_taken_is_refused() {
    let refused = |address, body: &Value, part: &str| {
        let got = ask(address, body);
        assert_eq!(got.status, 400, "{}", got.text());
        let error = &got.json()["error"];
        assert_eq!(error["param"], "closer");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(part), "{message}");
    };
    let (_server, address) = start(options(), serving(2));
    let closer = json!({"closer": true});
    refused(
        address,
        &body(&[(&[], "what?")], closer.clone()),
        "there are 0",
    );
    refused(
        address,
        &body(&[(&[1, 2], "what?")], closer.clone()),
        "there are 2",
    );
    let warm = json!({"closer": true, "temperature": 0.7});
    refused(
        address,
        &body(&[(&[1], "what?")], warm),
        "`temperature` has to be 0",
    );
    let wrong = json!({"closer": "yes"});
    refused(address, &body(&[(&[1], "what?")], wrong), "`closer`");
    is_empty(address);

    let mut short = options();
    short.queue = 2;
    let (_server, address) = start(short, serving(2));
    refused(
        address,
        &body(&[(&[1], "what?")], closer.clone()),
        "3 places",
    );
    let mut enough = options();
    enough.queue = 3;
    let (_server, address) = start(enough, serving(2));
    assert_eq!(ask(address, &body(&[(&[1], "what?")], closer)).status, 200);
}

#[test]
fn a_follow_up_about_the_same_picture_may_look_closer() {
    let assistant = model();
    let (_server, address) = start(options(), serving(2));
    let turns: &[(&[usize], &str)] =
        &[(&[3], "what is it?"), (&[], "it is 7"), (&[], "the total?")];
    let fields = json!({"closer": true, "max_tokens": 6});
    let got = ask(address, &body(turns, fields));
    let text = content(&got);
    // Of the whole and both halves the surest, each asked with all turns.
    let image = decode_bytes(&picture(3).0, "p".as_ref(), &DecodeLimits::default()).unwrap();
    let [first, second] = image.halves();
    let options = GenerationOptions {
        max_new_tokens: 6,
        ..assistant.defaults()
    };
    let mut best: Option<Answer> = None;
    for view in [image, first, second] {
        let messages = [
            llavar_assistant::user_turn(1, turns[0].1),
            llavar_data::Message::assistant(turns[1].1),
            llavar_assistant::user_turn(0, turns[2].1),
        ];
        let features = assistant.see(&view).unwrap();
        let on_text = |_: &str| std::ops::ControlFlow::Continue(());
        let answer = assistant.answer(&messages, Some(&features), &options, on_text);
        let answer = answer.unwrap();
        if best.is_none() {
            assert!(answer.is_unsure(), "the test needs an unsure answer");
        }
        best = Some(match best {
            None => answer,
            Some(best) => best.or_surer(answer),
        });
    }
    assert_eq!(text, best.unwrap().text);
    assert_eq!(got.json()["choices"][0]["closer_look"], true);
}

#[test]
fn whoever_goes_in_the_middle_of_a_closer_look_leaves_nothing_behind() {
    let (_server, address) = start(options(), serving(1));
    for _ in 0..6 {
        let mut raw = Raw::to(address);
        let fields = json!({"closer": true, "max_tokens": 4000});
        raw.post(&body(&[(&[1], "what is it?")], fields));
        eventually("it is answered", || {
            metric(address, "llavar_num_requests_running") > 0.0
        });
        drop(raw);
        is_empty(address);
    }
}
