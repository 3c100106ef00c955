//! A model on a server gives what it gives here; spans by `--compat llavar2`.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use llavar_assistant::Assistant;
use llavar_client::{
    Client, ClientOptions,
    testing::{Reply, StubRequest, StubServer},
};
use llavar_data::{
    Sample, TemplateName, Tokenizer,
    tokenizer::{BpeOptions, train_bpe},
};
use llavar_model::{LlavaModel, config::ModelConfig};
use llavar_select::{
    Compat, RemoteModel, ScoreOptions, ScoreRow, ScoreSet, Scorer, SeenPictures, SelectError,
};
use llavar_tensor::{Segments, Tape};
use serde_json::{Value, json};

/// A small language model without vision, random weights.
fn assistant() -> Assistant {
    let texts = samples()
        .into_iter()
        .flat_map(|s| s.conversations)
        .map(|t| t.value);
    let texts: Vec<String> = texts.collect();
    let (tokenizer, settings) = train_bpe(texts.iter(), &BpeOptions::new(320)).unwrap();
    let settings = serde_json::from_str(&settings).unwrap();
    let tokenizer = Tokenizer::from_json(&tokenizer, &settings).unwrap();
    let config = json!({
        "model_type": "llama", "vocab_size": tokenizer.vocab_len(), "hidden_size": 32,
        "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": 512
    });
    let config = ModelConfig::from_json("test", &config.to_string()).unwrap();
    let model = LlavaModel::init(config, 3).unwrap();
    Assistant::new(model, tokenizer, Some(TemplateName::V1), None)
}

fn samples() -> Vec<Sample> {
    let sample = |id: &str, turns: &[&str]| {
        let turns = turns.iter().enumerate().map(
            |(i, text)| json!({"from": if i % 2 == 0 { "human" } else { "gpt" }, "value": text}),
        );
        let turns: Vec<Value> = turns.collect();
        Sample::from_json(json!({"id": id, "conversations": turns})).unwrap()
    };
    vec![
        sample(
            "a",
            &[
                "What is the total?",
                "The total is 12.50.",
                "Which text shows it?",
                "The line \"TOTAL 12.50\" near the bottom.",
            ],
        ),
        sample("b", &["Qu'est-ce que c'est?", "Un café à Zürich — 日本."]),
        sample("refused", &["Who?", "Nobody at all."]),
    ]
}

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
    let tokens = assistant.tokenizer().encode_chunk(prompt).unwrap();
    let bos = assistant
        .tokenizer()
        .bos_id()
        .filter(|_| assistant.tokenizer().add_bos());
    let ids: Vec<i32> = bos
        .into_iter()
        .chain(tokens.iter().map(|t| t.id))
        .map(|id| id as i32)
        .collect();
    let tape = Tape::inference();
    let model = assistant.model();
    let segments = Segments::single(ids.len());
    let hidden = model.hidden(&tape, &ids, &segments, None, false).unwrap();
    let loss = model.language_model.loss(&tape, &hidden, &ids, &segments);
    let losses = loss.unwrap().per_token.to_f32_vec().unwrap();
    let logprob = |at: usize| -f64::from(losses[at - 1]);
    // Each token decoded alone, as servers do: pieces of characters become replacement characters.
    let alone = |id: &i32| assistant.tokenizer().decode(&[*id as u32], false).unwrap();
    let texts: Vec<String> = ids.iter().map(alone).collect();
    let usage = json!({"prompt_tokens": ids.len(), "completion_tokens": 1});
    if vllm {
        let entries = (0..ids.len()).map(|at| match at {
            0 => Value::Null,
            _ => json!({ids[at].to_string(): {"logprob": logprob(at), "rank": 1, "decoded_token": texts[at]}}),
        });
        let entries: Vec<Value> = entries.collect();
        return Reply::Json(
            json!({"choices": [{"text": "x", "prompt_logprobs": entries}], "usage": usage}),
        );
    }
    let mut logprobs = vec![Value::Null];
    logprobs.extend((1..ids.len()).map(|at| json!(logprob(at))));
    logprobs.push(json!(-1.0));
    let mut all = texts.clone();
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
    let all = ScoreOptions::default();
    assert!(matches!(
        Scorer::remote(&remote, all),
        Err(SelectError::ServerVision)
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
