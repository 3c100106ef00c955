//! Log-probabilities of a whole conversation, pictures included: `POST /v1/chat/completions` with vLLM's
//! `prompt_logprobs`.

use serde_json::{Value, json};

use crate::{
    ChatRequest, ClientError, Message, TokenLogprob, Usage,
    classify::{malformed, usage_of},
    completion::of_vllm,
};

/// The tokens of a conversation as the server's own chat template wrote it.
#[derive(Debug, Clone)]
pub struct ChatScores {
    /// Every token with its log-probability, in order; a picture's places are tokens too.
    pub prompt: Vec<TokenLogprob>,
    /// Tokens, where the server counts them.
    pub usage: Option<Usage>,
    /// Requests that it took.
    pub attempts: u32,
}

impl ChatRequest {
    /// A request that scores the tokens of a conversation. Its last message is the model's and is closed as
    /// in training; one more token is generated, because servers want one, and is of no use.
    pub fn score(model: impl Into<String>, messages: Vec<Message>) -> Self {
        let mut request = Self::new(model, messages);
        request.max_tokens = Some(1);
        request.temperature = Some(0.0);
        for (key, value) in [
            ("prompt_logprobs", json!(0)),
            ("add_generation_prompt", json!(false)),
            ("continue_final_message", json!(false)),
        ] {
            request.extra.insert(key.into(), value);
        }
        request
    }
}

impl ChatScores {
    /// Reads the answer of a server to [`ChatRequest::score`].
    pub(crate) fn from_json(value: &Value) -> Result<Self, ClientError> {
        let choices = value.get("choices").and_then(Value::as_array);
        let Some(choices) = choices else {
            let reason = "there is no list `choices`";
            return Err(malformed(reason, &value.to_string()));
        };
        let of_choice = choices.first().and_then(|c| c.get("prompt_logprobs"));
        let found = [value.get("prompt_logprobs"), of_choice];
        let found = found.into_iter().flatten().find(|list| !list.is_null());
        let Some(list) = found else {
            // It answers as if nothing had been asked: asking again changes nothing.
            return Err(ClientError::Unsupported {
                what: "log-probabilities of a conversation (`prompt_logprobs`)",
            });
        };
        let prompt = list.as_array().and_then(|list| of_vllm(list));
        let prompt = prompt.filter(|tokens| tokens.iter().any(|t| t.logprob.is_some()));
        let prompt = prompt
            .ok_or_else(|| malformed("`prompt_logprobs` has another form", &value.to_string()))?;
        Ok(Self {
            prompt,
            usage: usage_of(value),
            attempts: 1,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::Dialect;

    #[test]
    fn the_answer_is_closed_and_scored() {
        let messages = vec![
            Message::user("what?"),
            Message::new(crate::Role::Assistant, "this"),
        ];
        let body = ChatRequest::score("m", messages).body(&Dialect::default());
        assert_eq!(body["prompt_logprobs"], json!(0));
        assert_eq!(body["add_generation_prompt"], json!(false));
        assert_eq!(body["continue_final_message"], json!(false));
        assert_eq!(body["max_tokens"], json!(1));
        assert_eq!(body["messages"][1]["role"], json!("assistant"));
    }

    #[test]
    fn scores_and_what_is_none() {
        let list = json!([null, {"7": {"logprob": -2.5, "rank": 3, "decoded_token": " cat"}},
            {"9": {"logprob": -0.5, "rank": 1, "decoded_token": "</s>"}}]);
        // vLLM puts the list beside the choices; the text generated may be empty.
        let answer = json!({"choices": [{"message": {"content": ""}}], "prompt_logprobs": list,
            "usage": {"prompt_tokens": 3, "completion_tokens": 1}});
        let scores = ChatScores::from_json(&answer).unwrap();
        let logprobs: Vec<_> = scores.prompt.iter().map(|t| t.logprob).collect();
        assert_eq!(logprobs, [None, Some(-2.5), Some(-0.5)]);
        assert_eq!(scores.prompt[2].text, "</s>");
        let in_choice = json!({"choices": [{"prompt_logprobs": list}]});
        assert_eq!(ChatScores::from_json(&in_choice).unwrap().prompt.len(), 3);

        for (answer, class) in [
            (json!({"answer": "hi"}), "malformed"),
            (
                json!({"choices": [{"message": {"content": "x"}}]}),
                "unsupported",
            ),
            (
                json!({"choices": [], "prompt_logprobs": null}),
                "unsupported",
            ),
            (
                json!({"choices": [], "prompt_logprobs": "many"}),
                "malformed",
            ),
            (json!({"choices": [], "prompt_logprobs": []}), "malformed"),
            (
                json!({"choices": [], "prompt_logprobs": [null, null]}),
                "malformed",
            ),
            (
                json!({"choices": [], "prompt_logprobs": [null, {}]}),
                "malformed",
            ),
            (
                json!({"choices": [], "prompt_logprobs": [null, {"7": {"rank": 1}}]}),
                "malformed",
            ),
        ] {
            let error = ChatScores::from_json(&answer).unwrap_err();
            assert_eq!(error.class().as_str(), class, "{answer}");
        }
    }
}
