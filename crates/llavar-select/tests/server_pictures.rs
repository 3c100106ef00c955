//! VFD and FFD by a server: conversations with pictures, in a chat template of its own.
#![allow(clippy::unwrap_used)]

mod served;

use std::{path::PathBuf, sync::Arc};

use llavar_assistant::Assistant;
use llavar_client::{
    Client, ClientOptions,
    testing::{Reply, StubRequest, StubServer},
};
use llavar_data::{ImageSource, Sample, TemplateName};
use llavar_image::{RgbImage, encode_png};
use llavar_select::{
    Compat, RemoteModel, ScoreOptions, ScoreRow, Scorer, SeenPictures, SelectError,
};
use serde_json::{Value, json};
use served::{assistant, samples, scored};

/// What a picture is to the model behind the server, which sees none.
const PICTURE: &str = "[a picture] ";

/// The server's chat template: the text, and where the last question and the end of its answer stand.
fn written(turns: &[(&str, &str)], pictures: usize) -> (String, usize, usize) {
    let mut text = format!("Be brief.\nUSER: {}", PICTURE.repeat(pictures));
    let (mut question, mut end) = (0, 0);
    for (i, (asked, answered)) in turns.iter().enumerate() {
        if i > 0 {
            text += "\nUSER: ";
        }
        question = text.len();
        text += &format!("{} ASSISTANT: {}</s>", asked.trim(), answered.trim());
        end = text.len();
    }
    (text + "\n", question, end)
}

/// Mean loss and number of the tokens from the question to the end of the answer, by their offsets.
fn expected(
    assistant: &Assistant,
    turns: &[(&str, &str)],
    pictures: usize,
    early: usize,
) -> (f64, u32) {
    let (text, from, to) = written(turns, pictures);
    let scored = scored(assistant, &text);
    let tokens = assistant.tokenizer().encode_chunk(&text).unwrap();
    let bos = scored.ids.len() - tokens.len();
    let inside = |(at, token): (usize, &llavar_data::tokenizer::Token)| {
        let visible = !text[token.start..token.end].trim().is_empty();
        (visible && token.end > from && token.start < to).then_some(at + bos)
    };
    let places: Vec<usize> = tokens.iter().enumerate().filter_map(inside).collect();
    let span = places[0] - early..places[places.len() - 1] + 1;
    let n = span.len();
    let sum: f64 = span.map(|at| -scored.logprobs[at - 1]).sum();
    (sum / n as f64, n as u32)
}

fn reply(assistant: &Assistant, request: &StubRequest) -> Reply {
    if let Some(prompt) = request.body["prompt"].as_str() {
        let list = scored(assistant, prompt).vllm();
        return Reply::Json(json!({"choices": [{"text": "x", "prompt_logprobs": list}]}));
    }
    for (key, value) in [
        ("prompt_logprobs", json!(0)),
        ("add_generation_prompt", json!(false)),
        ("max_tokens", json!(1)),
    ] {
        assert_eq!(request.body[key], value, "{key}");
    }
    let messages = request.body["messages"].as_array().unwrap();
    let said = |message: &Value| match &message["content"] {
        Value::String(text) => text.clone(),
        parts => {
            let parts = parts.as_array().unwrap().iter();
            parts.filter_map(|part| part["text"].as_str()).collect()
        }
    };
    let said: Vec<String> = messages.iter().map(said).collect();
    if said.iter().any(|text| text.contains("Nobody")) && request.images() > 0 {
        return Reply::error(400, "this one is refused");
    }
    let turns: Vec<(&str, &str)> = said
        .chunks(2)
        .map(|turn| (turn[0].as_str(), turn[1].as_str()))
        .collect();
    let (text, ..) = written(&turns, request.images());
    let list = scored(assistant, &text).vllm();
    // Text of the token that is generated, the list beside the choices.
    Reply::Json(json!({"choices": [{"message": {"content": ""}}], "prompt_logprobs": list}))
}

/// The samples of [`samples`] with a picture each; that of the last is not there.
fn scores(scorer: &Scorer<'_>, samples: &[Sample], picture: &[PathBuf]) -> Vec<ScoreRow> {
    let prepared = samples.iter().zip(picture).enumerate();
    let prepared = prepared.map(|(i, (sample, path))| {
        let source = |_: usize| Ok::<_, std::io::Error>(ImageSource::File(path.clone()));
        scorer.prepare(sample, i, 0, source)
    });
    scorer
        .score(prepared.collect(), &mut SeenPictures::default())
        .unwrap()
}

#[test]
fn conversations_with_pictures_give_all_scores() {
    let assistant = Arc::new(assistant());
    let folder = tempfile::tempdir().unwrap();
    let there = folder.path().join("there.png");
    let png = encode_png(&RgbImage::filled(8, 6, [9, 200, 30])).unwrap();
    std::fs::write(&there, png).unwrap();
    let mut samples = samples();
    for sample in &mut samples {
        sample.images = vec!["there.png".to_owned()];
    }
    samples.push(
        Sample::from_json(json!({"id": "gone", "image": "gone.png", "conversations": [
        {"from": "human", "value": "<image>\nWho is it?"}, {"from": "gpt", "value": "A cat."}]}))
        .unwrap(),
    );
    let gone = folder.path().join("gone.png");
    let pictures = [&there, &there, &there, &gone].map(PathBuf::clone);

    for compat in [Compat::Exact, Compat::Llavar2] {
        let served = assistant.clone();
        let server = StubServer::start(move |request| reply(&served, request)).unwrap();
        let client = Client::new(ClientOptions::new(server.endpoint().unwrap())).unwrap();
        let remote = RemoteModel::new(client, "m", TemplateName::V1, 3);
        let options = ScoreOptions {
            compat,
            ..ScoreOptions::default()
        };
        let scorer = Scorer::remote(&remote, options).unwrap();
        let rows = scores(&scorer, &samples, &pictures);
        assert_eq!(rows.len(), 5);
        let close = |got: Option<f64>, want: f64| (got.unwrap() - want).abs() < 1e-9;
        for (i, row) in rows.iter().enumerate() {
            let turn = (row.question.as_str(), row.answer.as_str());
            assert!(row.ifd.is_some(), "{row:?}");
            let (without, _) = expected(&assistant, &[turn], 0, 0);
            assert!(close(row.s_qa, without), "{row:?}, {without}");
            let reason = row.reason.as_deref();
            match row.id.as_str() {
                "refused" => {
                    assert!(reason.unwrap().contains("this one is refused"), "{row:?}");
                    assert_eq!((row.vfd, row.s_qa_given_image), (None, None));
                    continue;
                }
                "gone" => {
                    assert!(reason.unwrap().contains("gone.png"), "{row:?}");
                    assert_eq!((row.vfd, row.s_qa_given_image), (None, None));
                    continue;
                }
                _ => assert_eq!(reason, None),
            }
            let (with, n) = expected(&assistant, &[turn], 1, 0);
            assert_eq!(row.n_qa, Some(n), "{row:?}");
            assert!(close(row.s_qa_given_image, with), "{row:?}, {with}");
            assert!(close(row.vfd, with / without), "{row:?}");
            if row.qa_id == 2 {
                let first = (rows[i - 1].question.as_str(), rows[i - 1].answer.as_str());
                let early = usize::from(compat == Compat::Llavar2);
                let (duo, n) = expected(&assistant, &[first, turn], 1, early);
                assert_eq!(row.n_duo, Some(n), "{row:?}");
                assert!(close(row.ffd, duo / with), "{row:?}, {duo}");
            } else {
                assert_eq!(row.ffd, None);
            }
        }
        // Two texts of every pair, a conversation of every pair, with its picture where there is one, one of
        // the duo, and the one that was tried first.
        let asked = server.requests();
        let of = |path: &str| asked.iter().filter(|r| r.path.ends_with(path)).count();
        assert_eq!(of("/v1/completions"), 10);
        assert_eq!(asked.iter().filter(|r| r.images() == 1).count(), 4 + 1 + 1);
        assert_eq!(of("/chat/completions"), 5 + 4 + 1 + 1);
    }
}

#[test]
fn a_server_that_scores_no_conversations_is_said_to_give_ifd_alone() {
    let plain = json!({"choices": [{"message": {"content": "A square."}}]});
    let other = json!({"choices": [{"message": {"content": "A square."}}], "prompt_logprobs":
        [null, {"5": {"logprob": -1.0, "decoded_token": "something else"}}]});
    for (answer, words) in [
        (Reply::Json(plain), "prompt_logprobs"),
        (Reply::Json(other), "the answer is not in the tokens"),
        (
            Reply::error(400, "not a multimodal model"),
            "not a multimodal model",
        ),
        (
            Reply::error(422, "extra inputs: prompt_logprobs"),
            "extra inputs",
        ),
    ] {
        let server = StubServer::start(move |_| answer.clone()).unwrap();
        let client = Client::new(ClientOptions::new(server.endpoint().unwrap())).unwrap();
        let remote = RemoteModel::new(client, "m", TemplateName::V1, 2);
        let error = Scorer::remote(&remote, ScoreOptions::default()).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, SelectError::ServerVision { .. }), "{text}");
        assert!(
            text.contains(words) && text.contains("--scores ifd"),
            "{text}"
        );
        assert_eq!(server.requests().len(), 1, "asked once: {text}");
    }
    let server = StubServer::start(|_| Reply::error(401, "who are you")).unwrap();
    let client = Client::new(ClientOptions::new(server.endpoint().unwrap())).unwrap();
    let remote = RemoteModel::new(client, "m", TemplateName::V1, 2);
    let error = Scorer::remote(&remote, ScoreOptions::default()).unwrap_err();
    assert!(matches!(error, SelectError::Server(_)), "{error}");
}
