//! `POST /v1/chat/completions`: what is answered, whole or in pieces.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

/// Tokens of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) prompt: usize,
    pub(crate) answer: usize,
}

impl Usage {
    fn to_json(self) -> Value {
        json!({
            "prompt_tokens": self.prompt,
            "completion_tokens": self.answer,
            "total_tokens": self.prompt + self.answer,
        })
    }
}

/// What an answer's end says of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Closing {
    /// Why it ends.
    pub(crate) finish: &'static str,
    /// The model's own of the whole answer, 0 to 1.
    pub(crate) probability: f64,
    /// Where a closer look was wanted: whether one was taken.
    pub(crate) closer_look: Option<bool>,
}

impl Closing {
    fn put_into(self, choice: &mut Value) {
        choice["finish_reason"] = json!(self.finish);
        choice["probability"] = json!(self.probability);
        if let Some(closer_look) = self.closer_look {
            choice["closer_look"] = json!(closer_look);
        }
    }
}

/// The answer to one request; what its pieces have in common.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    id: String,
    created: u64,
    model: String,
}

impl Reply {
    pub(crate) fn new(id: &str, model: &str) -> Self {
        Self {
            id: id.to_owned(),
            created: now(),
            model: model.to_owned(),
        }
    }

    /// A whole answer.
    pub(crate) fn whole(
        &self,
        text: &str,
        logprobs: Option<Vec<Value>>,
        closing: Closing,
        usage: Usage,
    ) -> Value {
        let mut body = json!({
            "id": self.id,
            "object": "chat.completion",
            "created": self.created,
            "model": self.model,
            "choices": [{
                "index": 0,
                "message": {"role": "assistant", "content": text, "refusal": null},
                "logprobs": logprobs.map(|content| json!({"content": content})),
            }],
            "usage": usage.to_json(),
        });
        closing.put_into(&mut body["choices"][0]);
        body
    }

    /// The first piece of a streamed answer: who speaks.
    pub(crate) fn first(&self) -> Value {
        self.piece(json!({"role": "assistant", "content": ""}), None)
    }

    /// A piece of text.
    pub(crate) fn text(&self, text: &str, logprobs: Option<Vec<Value>>) -> Value {
        self.piece(json!({"content": text}), logprobs)
    }

    /// The last piece: why the answer ends.
    pub(crate) fn last(&self, closing: Closing) -> Value {
        let mut piece = self.piece(json!({}), None);
        closing.put_into(&mut piece["choices"][0]);
        piece
    }

    /// What a client that asks for it is told behind the last piece.
    pub(crate) fn usage(&self, usage: Usage) -> Value {
        let mut piece = self.chunk(json!([]));
        piece["usage"] = usage.to_json();
        piece
    }

    fn piece(&self, delta: Value, logprobs: Option<Vec<Value>>) -> Value {
        self.chunk(json!([{
            "index": 0,
            "delta": delta,
            "logprobs": logprobs.map(|content| json!({"content": content})),
            "finish_reason": null,
        }]))
    }

    fn chunk(&self, choices: Value) -> Value {
        json!({
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "choices": choices,
        })
    }
}

/// An entry of `GET /v1/models`.
pub(crate) fn model_card(name: &str, created: u64, context: usize) -> Value {
    json!({
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "llavar",
        "max_model_len": context,
    })
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
