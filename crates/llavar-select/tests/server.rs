//! A model on a server gives what it gives here; spans by `--compat llavar2`.
#![allow(clippy::unwrap_used)]

mod served;

use std::sync::Arc;

use llavar_assistant::Assistant;
use llavar_client::{
    Client, ClientOptions,
    testing::{Reply, StubRequest, StubServer},
};
use llavar_data::{Sample, TemplateName};
use llavar_select::{
    Compat, RemoteModel, ScoreOptions, ScoreRow, ScoreSet, Scorer, SeenPictures, SelectError,
};
use serde_json::{Value, json};
use served::{assistant, samples, scored};

fn ifd(scorer: &Scorer<'_>, samples: &[Sample]) -> Result<Vec<ScoreRow>, SelectError> {
    let none = |_: usize| Err(std::io::Error::other("no picture"));
    let prepared = samples.iter().enumerate();
    let prepared = prepared.map(|(i, sample)| scorer.prepare(sample, i, 0, none));
    scorer.score(prepared.collect(), &mut SeenPictures::default())
}

fn options(compat: Compat) -> ScoreOptions {
    ScoreOptions {
        scores: ScoreSet::TEXT,
        compat,
        ..ScoreOptions::default()
    }
}

/// Answers as llama.cpp and OpenAI do, or as vLLM; one text is refused.
fn reply(assistant: &Assistant, vllm: bool, request: &StubRequest) -> Reply {
    let prompt = request.body["prompt"].as_str().unwrap();
    if prompt.contains("Nobody") {
        return Reply::error(400, "this one is refused");
    }
    let scored = scored(assistant, prompt);
    let usage = json!({"prompt_tokens": scored.ids.len(), "completion_tokens": 1});
    if vllm {
        return Reply::Json(
            json!({"choices": [{"text": "x", "prompt_logprobs": scored.vllm()}], "usage": usage}),
        );
    }
    let mut logprobs = vec![Value::Null];
    logprobs.extend(scored.logprobs.iter().map(|logprob| json!(logprob)));
    logprobs.push(json!(-1.0));
    let mut all = scored.texts.clone();
    all.push("x".to_owned());
    Reply::Json(json!({"choices": [{"text": format!("{prompt}x"),
        "logprobs": {"tokens": all, "token_logprobs": logprobs}}], "usage": usage}))
}

#[test]
fn a_server_gives_the_scores_of_the_same_model_here() {
    let assistant = Arc::new(assistant());
    let samples = samples();
    for (vllm, compat) in [
        (true, Compat::Exact),
        (false, Compat::Exact),
        (true, Compat::Llavar2),
    ] {
        let served = assistant.clone();
        let server = StubServer::start(move |request| reply(&served, vllm, request)).unwrap();
        let client = Client::new(ClientOptions::new(server.endpoint().unwrap())).unwrap();
        let remote = RemoteModel::new(client, "m", TemplateName::V1, 4);
        let there = ifd(&Scorer::remote(&remote, options(compat)).unwrap(), &samples).unwrap();
        let here = ifd(&Scorer::new(&assistant, options(compat)).unwrap(), &samples).unwrap();
        assert_eq!(there.len(), here.len());
        for (there, here) in there.iter().zip(&here) {
            assert_eq!(there.key(), here.key());
            if here.id == "refused" {
                assert!(there.ifd.is_none());
                let reason = there.reason.as_deref().unwrap();
                assert!(reason.contains("this one is refused"), "{reason}");
                continue;
            }
            assert_eq!(there.reason, None);
            assert_eq!(there.n_answer, here.n_answer, "{}", here.answer);
            let apart = (there.ifd.unwrap() - here.ifd.unwrap()).abs();
            assert!(apart < 1e-6, "{vllm} {compat:?} {}: {apart}", here.answer);
        }
        // The client may ask again in other words where a request is refused.
        let asked: std::collections::HashSet<String> =
            server.requests().iter().map(StubRequest::text).collect();
        assert_eq!(asked.len(), 2 * here.len());
    }
    let server = StubServer::start(|_| Reply::error(401, "who are you")).unwrap();
    let client = Client::new(ClientOptions::new(server.endpoint().unwrap())).unwrap();
    let remote = RemoteModel::new(client, "m", TemplateName::V1, 2);
    let scorer = Scorer::remote(&remote, options(Compat::Exact)).unwrap();
    assert!(matches!(
        ifd(&scorer, &samples),
        Err(SelectError::Server(_))
    ));
}

/// The release takes both losses of IFD over every token after the first.
#[test]
fn the_spans_of_the_release_are_longer() {
    let assistant = assistant();
    let samples = samples();
    let of = |compat| ifd(&Scorer::new(&assistant, options(compat)).unwrap(), &samples).unwrap();
    let (exact, released) = (of(Compat::Exact), of(Compat::Llavar2));
    for (exact, released) in exact.iter().zip(&released) {
        let text = format!(
            "{} USER: {} ASSISTANT: {}</s>",
            V1_SYSTEM, exact.question, exact.answer
        );
        let tokens = assistant.tokenizer().encode_chunk(&text).unwrap().len() as u32;
        let bos = u32::from(assistant.tokenizer().add_bos());
        assert_eq!(released.n_answer, Some(tokens + bos - 1));
        assert!(exact.n_answer < released.n_answer);
        assert_ne!(exact.ifd, released.ifd);
    }
}

const V1_SYSTEM: &str = "A chat between a curious user and an artificial intelligence assistant. \
    The assistant gives helpful, detailed, and polite answers to the user's questions.";
