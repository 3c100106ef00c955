//! `POST /v1/completions`: texts with log-probabilities, those of the prompt included.

use serde_json::{Map, Value, json};

use crate::{
    ClientError, Usage,
    classify::{malformed, usage_of},
    dialect::Dialect,
};

/// A request to go on with a text.
#[derive(Debug, Clone)]
pub struct CompletionRequest {
    /// Name of the model on the server.
    pub model: String,
    /// The text, as the model sees it: no chat template is applied.
    pub prompt: String,
    /// Longest answer, tokens. For scoring alone give 1: vLLM refuses 0.
    pub max_tokens: u32,
    /// 0 is greedy.
    pub temperature: Option<f32>,
    /// Repeats sampling where the server can.
    pub seed: Option<u64>,
    /// Ask for the log-probability of every token of the prompt: `echo` with `logprobs` (OpenAI's
    /// interface, llama-cpp-python) and vLLM's `prompt_logprobs` in one request.
    pub score_prompt: bool,
    /// Sent as `Idempotency-Key`.
    pub idempotency_key: Option<String>,
    /// Further keys of the body.
    pub extra: Map<String, Value>,
}

impl CompletionRequest {
    /// A request that scores the tokens of `prompt`.
    pub fn score(model: impl Into<String>, prompt: impl Into<String>) -> Self {
        Self {
            model: model.into(),
            prompt: prompt.into(),
            max_tokens: 1,
            temperature: Some(0.0),
            seed: None,
            score_prompt: true,
            idempotency_key: None,
            extra: Map::new(),
        }
    }

    pub(crate) fn body(&self, dialect: &Dialect) -> Value {
        let mut body = Map::new();
        body.insert("model".into(), json!(self.model));
        body.insert("prompt".into(), json!(self.prompt));
        dialect.sampling(&mut body, None, self.temperature, self.seed);
        // The older interface keeps the older name.
        body.insert("max_tokens".into(), json!(self.max_tokens));
        if self.score_prompt {
            body.insert("echo".into(), json!(true));
            body.insert("logprobs".into(), json!(1));
            if dialect.prompt_logprobs {
                body.insert("prompt_logprobs".into(), json!(0));
            }
        }
        body.extend(self.extra.clone());
        Value::Object(body)
    }
}

/// A token with its log-probability.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprob {
    /// Its text, where the server gives it.
    pub text: String,
    /// Its number in the vocabulary, where the server gives it (vLLM).
    pub id: Option<u64>,
    /// Natural logarithm of its probability given all before it; absent for the first token.
    pub logprob: Option<f64>,
}

/// An answer.
#[derive(Debug, Clone)]
pub struct CompletionAnswer {
    /// What follows the prompt.
    pub text: String,
    /// Tokens of the prompt with their log-probabilities, in order; empty where they were not asked for.
    pub prompt: Vec<TokenLogprob>,
    /// Tokens, where the server counts them.
    pub usage: Option<Usage>,
    /// Requests that it took.
    pub attempts: u32,
}

impl CompletionAnswer {
    pub(crate) fn from_json(
        value: &Value,
        request: &CompletionRequest,
    ) -> Result<Self, ClientError> {
        let bad = |reason: &str| malformed(reason, &value.to_string());
        let choices = value.get("choices").and_then(Value::as_array);
        let choices = choices.ok_or_else(|| bad("there is no list `choices`"))?;
        let choice = choices.first().ok_or(ClientError::EmptyChoices)?;
        let text = choice.get("text").and_then(Value::as_str);
        let text = text.ok_or_else(|| bad("there is no `text`"))?;
        let usage = usage_of(value);
        let mut prompt = Vec::new();
        if request.score_prompt {
            let vllm = [choice.get("prompt_logprobs"), value.get("prompt_logprobs")];
            let vllm = vllm.into_iter().flatten().find_map(Value::as_array);
            prompt = match (vllm, choice.get("logprobs")) {
                (Some(list), _) => {
                    of_vllm(list).ok_or_else(|| bad("`prompt_logprobs` has another form"))?
                }
                (None, Some(found)) if found.is_object() => of_echo(found, &request.prompt, usage)
                    .ok_or_else(|| bad("`logprobs` has another form"))?,
                _ => return Err(bad("the server gives no log-probabilities of the prompt")),
            };
        }
        let echoed = text.strip_prefix(request.prompt.as_str());
        Ok(Self {
            text: echoed
                .filter(|_| request.score_prompt)
                .unwrap_or(text)
                .into(),
            prompt,
            usage,
            attempts: 1,
        })
    }
}

/// vLLM: a list of `null` or `{token id: {"logprob", "rank", "decoded_token"}}`. Beside the prompt's own
/// token stand more probable ones where they were asked for; we ask for none, so the first entry is it.
pub(crate) fn of_vllm(list: &[Value]) -> Option<Vec<TokenLogprob>> {
    let token = |value: &Value| match value {
        Value::Null => Some(TokenLogprob {
            text: String::new(),
            id: None,
            logprob: None,
        }),
        Value::Object(entries) => {
            let (id, entry) = entries.iter().next()?;
            let text = entry.get("decoded_token").and_then(Value::as_str);
            Some(TokenLogprob {
                text: text.unwrap_or_default().to_owned(),
                id: id.parse().ok(),
                logprob: Some(entry.get("logprob")?.as_f64()?),
            })
        }
        _ => None,
    };
    list.iter().map(token).collect()
}

/// OpenAI: lists `tokens` and `token_logprobs` over prompt and answer; `text_offset` in characters where it
/// is there, else the server's count of the prompt's tokens says where the answer begins.
fn of_echo(found: &Value, prompt: &str, usage: Option<Usage>) -> Option<Vec<TokenLogprob>> {
    let texts = found.get("tokens")?.as_array()?;
    let logprobs = found.get("token_logprobs")?.as_array()?;
    if texts.len() != logprobs.len() {
        return None;
    }
    let offsets = found.get("text_offset").and_then(Value::as_array);
    let length = prompt.chars().count() as u64;
    let first_is_prompt = logprobs.first().is_some_and(Value::is_null);
    let n = match (offsets, usage) {
        (Some(offsets), _) if offsets.len() == texts.len() => {
            // Offsets that fall back are of an answer that counts from its own beginning.
            let mut last = 0;
            let mut n = 0;
            for offset in offsets {
                let offset = offset.as_u64()?;
                if offset >= length || offset < last {
                    break;
                }
                last = offset;
                n += 1;
            }
            n
        }
        (_, Some(usage)) => usage.prompt_tokens as usize,
        _ => return None,
    };
    // Without the prompt's tokens this is the answer alone: `echo` was passed over.
    if n == 0 || n > texts.len() || (!first_is_prompt && !prompt.starts_with(texts[0].as_str()?)) {
        return None;
    }
    let token = |(text, logprob): (&Value, &Value)| {
        Some(TokenLogprob {
            text: text.as_str()?.to_owned(),
            id: None,
            logprob: match logprob {
                Value::Null => None,
                other => Some(other.as_f64()?),
            },
        })
    };
    texts.iter().zip(logprobs).take(n).map(token).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompt_log_probabilities_of_both_kinds_of_server() {
        let request = CompletionRequest::score("m", "The cat");
        let body = request.body(&Dialect::default());
        assert_eq!(body["echo"], json!(true));
        assert_eq!(body["prompt_logprobs"], json!(0));

        let openai = json!({"choices": [{"text": "The cat sat", "logprobs": {
            "tokens": ["The", " cat", " sat"], "token_logprobs": [null, -2.5, -0.5],
            "text_offset": [0, 3, 7]}}]});
        let answer = CompletionAnswer::from_json(&openai, &request).unwrap();
        assert_eq!(answer.text, " sat");
        let logprobs: Vec<_> = answer.prompt.iter().map(|t| t.logprob).collect();
        assert_eq!(logprobs, [None, Some(-2.5)]);

        let vllm = json!({"choices": [{"text": " sat", "prompt_logprobs": [null,
            {"7": {"logprob": -2.5, "rank": 3, "decoded_token": " cat"}}]}],
            "usage": {"prompt_tokens": 2, "completion_tokens": 1}});
        let answer = CompletionAnswer::from_json(&vllm, &request).unwrap();
        assert_eq!(answer.prompt[1].id, Some(7));
        assert_eq!(answer.prompt[1].logprob, Some(-2.5));
        assert_eq!(answer.text, " sat");
    }

    #[test]
    fn a_server_that_scores_nothing_is_an_error() {
        let request = CompletionRequest::score("m", "The cat");
        for choice in [
            json!({"text": "x"}),
            json!({"text": "x", "logprobs": null}),
            json!({"text": "x", "logprobs": {"tokens": ["x"], "token_logprobs": [-1.0], "text_offset": [7]}}),
            json!({"text": "x", "logprobs": {"tokens": ["x"], "token_logprobs": []}}),
            json!({"text": "x", "prompt_logprobs": [3]}),
        ] {
            let answer = json!({"choices": [choice]});
            let error = CompletionAnswer::from_json(&answer, &request).unwrap_err();
            assert_eq!(error.class().as_str(), "malformed", "{answer}");
        }
    }
}
