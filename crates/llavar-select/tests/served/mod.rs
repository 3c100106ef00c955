//! A small model behind a stub server, for the tests of servers.

use llavar_assistant::Assistant;
use llavar_data::{
    Sample, TemplateName, Tokenizer,
    tokenizer::{BpeOptions, train_bpe},
};
use llavar_model::{LlavaModel, config::ModelConfig};
use llavar_tensor::{Segments, Tape};
use serde_json::{Value, json};

/// A small language model without vision, random weights.
pub(crate) fn assistant() -> Assistant {
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

pub(crate) fn samples() -> Vec<Sample> {
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

/// The tokens of a text as a server gives them.
pub(crate) struct Scored {
    pub(crate) ids: Vec<i32>,
    /// Each decoded alone, as servers do: pieces of characters become replacement characters.
    pub(crate) texts: Vec<String>,
    /// Of every token but the first.
    pub(crate) logprobs: Vec<f64>,
}

/// What the model says of a text, one that begins with its BOS if it has one.
pub(crate) fn scored(assistant: &Assistant, text: &str) -> Scored {
    let tokenizer = assistant.tokenizer();
    let bos = tokenizer.bos_id().filter(|_| tokenizer.add_bos());
    let tokens = tokenizer.encode_chunk(text).unwrap();
    let ids = bos.into_iter().chain(tokens.iter().map(|t| t.id));
    let ids: Vec<i32> = ids.map(|id| id as i32).collect();
    let tape = Tape::inference();
    let model = assistant.model();
    let segments = Segments::single(ids.len());
    let hidden = model.hidden(&tape, &ids, &segments, None, false).unwrap();
    let loss = model.language_model.loss(&tape, &hidden, &ids, &segments);
    let losses = loss.unwrap().per_token.to_f32_vec().unwrap();
    let alone = |id: &i32| tokenizer.decode(&[*id as u32], false).unwrap();
    Scored {
        texts: ids.iter().map(alone).collect(),
        logprobs: losses[..ids.len() - 1]
            .iter()
            .map(|x| -f64::from(*x))
            .collect(),
        ids,
    }
}

impl Scored {
    /// As vLLM's `prompt_logprobs`.
    pub(crate) fn vllm(&self) -> Vec<Value> {
        let tokens = self.ids[1..]
            .iter()
            .zip(&self.texts[1..])
            .zip(&self.logprobs);
        let entry = |((id, text), logprob): ((&i32, &String), &f64)| json!({id.to_string(): {"logprob": logprob, "rank": 1, "decoded_token": text}});
        [Value::Null].into_iter().chain(tokens.map(entry)).collect()
    }
}
