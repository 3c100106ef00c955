//! `POST /v1/chat/completions`.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{
    ClientError,
    classify::{malformed, usage_of},
    dialect::{AnswerFormat, Dialect},
};

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions.
    System,
    /// The user.
    User,
    /// The model.
    Assistant,
}

/// A part of a message.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Content {
    /// Text.
    Text(String),
    /// A picture as a URL, `data:` or `https:`.
    ImageUrl(String),
}

impl Content {
    /// An encoded picture as a data URL. `mime` as `image/png`.
    pub fn image(mime: &str, bytes: &[u8]) -> Self {
        Self::ImageUrl(format!("data:{mime};base64,{}", STANDARD.encode(bytes)))
    }
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// Its parts.
    pub content: Vec<Content>,
}

impl Message {
    /// A message of one text.
    pub fn new(role: Role, text: impl Into<String>) -> Self {
        Self {
            role,
            content: vec![Content::Text(text.into())],
        }
    }

    /// A text of the user.
    pub fn user(text: impl Into<String>) -> Self {
        Self::new(Role::User, text)
    }

    /// Instructions.
    pub fn system(text: impl Into<String>) -> Self {
        Self::new(Role::System, text)
    }

    /// The same with a picture before its text.
    pub fn with_image(mut self, image: Content) -> Self {
        self.content.insert(0, image);
        self
    }

    fn to_json(&self) -> Value {
        // Servers without pictures often take only a string.
        let content = match self.content.as_slice() {
            [Content::Text(text)] => json!(text),
            parts => parts
                .iter()
                .map(|part| match part {
                    Content::Text(text) => json!({"type": "text", "text": text}),
                    Content::ImageUrl(url) => {
                        json!({"type": "image_url", "image_url": {"url": url}})
                    }
                })
                .collect(),
        };
        json!({"role": self.role, "content": content})
    }
}

/// A JSON schema that the answer should follow.
#[derive(Debug, Clone, PartialEq)]
pub struct JsonSchema {
    /// A name in letters, digits, `_` and `-`.
    pub name: String,
    /// The schema.
    pub schema: Value,
}

/// A request for one answer.
#[derive(Debug, Clone)]
pub struct ChatRequest {
    /// Name of the model on the server.
    pub model: String,
    /// The conversation.
    pub messages: Vec<Message>,
    /// Longest answer, tokens.
    pub max_tokens: Option<u32>,
    /// 0 is greedy.
    pub temperature: Option<f32>,
    /// Probability mass to sample from.
    pub top_p: Option<f32>,
    /// Repeats sampling where the server can.
    pub seed: Option<u64>,
    /// The answer ends before any of these.
    pub stop: Vec<String>,
    /// What the answer should follow. A server that refuses it is asked again in weaker forms, in the end
    /// with no form at all; [`ChatAnswer::format`] tells which it was.
    pub schema: Option<JsonSchema>,
    /// Whether an answer may have no text, as a model's that ends at once; otherwise that is an error.
    pub may_be_empty: bool,
    /// Sent as `Idempotency-Key`: a server that knows it charges repeats after a lost answer once.
    pub idempotency_key: Option<String>,
    /// Further keys of the body, for what one server alone knows.
    pub extra: Map<String, Value>,
}

impl ChatRequest {
    /// A request with the server's own settings.
    pub fn new(model: impl Into<String>, messages: Vec<Message>) -> Self {
        Self {
            model: model.into(),
            messages,
            max_tokens: None,
            temperature: None,
            top_p: None,
            seed: None,
            stop: Vec::new(),
            schema: None,
            may_be_empty: false,
            idempotency_key: None,
            extra: Map::new(),
        }
    }

    /// The body in the dialect of the server.
    pub(crate) fn body(&self, dialect: &Dialect) -> Value {
        let mut body = Map::new();
        body.insert("model".into(), json!(self.model));
        let messages: Vec<Value> = self.messages.iter().map(Message::to_json).collect();
        body.insert("messages".into(), Value::Array(messages));
        dialect.sampling(&mut body, self.max_tokens, self.temperature, self.seed);
        if let Some(top_p) = self.top_p {
            body.insert("top_p".into(), json!(top_p));
        }
        if !self.stop.is_empty() {
            body.insert("stop".into(), json!(self.stop));
        }
        if let Some(schema) = &self.schema
            && let Some(format) = dialect.format.to_json(schema)
        {
            body.insert("response_format".into(), format);
        }
        body.extend(self.extra.clone());
        Value::Object(body)
    }
}

/// Tokens that a request took, as the server counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the request.
    pub prompt_tokens: u64,
    /// Tokens of the answer.
    pub completion_tokens: u64,
    /// Of the request's tokens, those that the server had in its cache.
    #[serde(default)]
    pub cached_tokens: u64,
}

/// An answer.
#[derive(Debug, Clone)]
pub struct ChatAnswer {
    /// The text.
    pub text: String,
    /// Why it ends: `stop`, or `length` where it was cut at `max_tokens`.
    pub finish_reason: Option<String>,
    /// Tokens, where the server counts them.
    pub usage: Option<Usage>,
    /// The model that answered, as the server names it.
    pub model: Option<String>,
    /// How the answer's form was asked for.
    pub format: AnswerFormat,
    /// Requests that it took.
    pub attempts: u32,
    /// From the first request to the answer, seconds.
    pub seconds: f64,
}

impl ChatAnswer {
    /// Reads the answer of a server.
    pub(crate) fn from_json(
        value: &Value,
        format: AnswerFormat,
        may_be_empty: bool,
    ) -> Result<Self, ClientError> {
        let choices = value.get("choices").and_then(Value::as_array);
        let Some(choices) = choices else {
            return Err(malformed("there is no list `choices`", &value.to_string()));
        };
        let Some(choice) = choices.first() else {
            return Err(ClientError::EmptyChoices);
        };
        let finish_reason = choice.get("finish_reason").and_then(Value::as_str);
        let message = choice.get("message");
        let text = match message.and_then(|m| m.get("content")) {
            Some(Value::String(text)) => text.clone(),
            // Some servers answer in parts.
            Some(Value::Array(parts)) => parts
                .iter()
                .filter_map(|part| part.get("text")?.as_str())
                .collect(),
            Some(Value::Null) | None => String::new(),
            Some(other) => return Err(malformed("`content` is no text", &other.to_string())),
        };
        if text.trim().is_empty() {
            let refusal = message.and_then(|m| m.get("refusal")?.as_str());
            match (refusal, finish_reason) {
                (Some(reason), _) => {
                    return Err(ClientError::Filtered {
                        reason: reason.chars().take(300).collect(),
                    });
                }
                (None, Some("content_filter")) => {
                    return Err(ClientError::Filtered {
                        reason: "its content filter was triggered".into(),
                    });
                }
                // The model came to its end, or to the limit, without a word.
                (None, Some("stop" | "length")) if may_be_empty => {}
                _ => return Err(ClientError::EmptyText),
            }
        }
        Ok(Self {
            text,
            finish_reason: finish_reason.map(str::to_owned),
            usage: usage_of(value),
            model: value
                .get("model")
                .and_then(Value::as_str)
                .map(str::to_owned),
            format,
            attempts: 1,
            seconds: 0.0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies() {
        let picture = Content::image("image/png", b"png");
        let mut request = ChatRequest::new(
            "m",
            vec![
                Message::system("be brief"),
                Message::user("what?").with_image(picture),
            ],
        );
        request.temperature = Some(0.0);
        request.max_tokens = Some(7);
        request.seed = Some(3);
        request.schema = Some(JsonSchema {
            name: "s".into(),
            schema: json!({"type": "object"}),
        });
        let body = request.body(&Dialect::default());
        assert_eq!(
            body,
            json!({
                "model": "m",
                "messages": [
                    {"role": "system", "content": "be brief"},
                    {"role": "user", "content": [
                        {"type": "image_url", "image_url": {"url": "data:image/png;base64,cG5n"}},
                        {"type": "text", "text": "what?"},
                    ]},
                ],
                "max_tokens": 7, "temperature": 0.0, "seed": 3,
                "response_format": {"type": "json_schema", "json_schema":
                    {"name": "s", "strict": true, "schema": {"type": "object"}}},
            })
        );
    }

    #[test]
    fn answers_and_what_is_none() {
        let read = |value: Value| ChatAnswer::from_json(&value, AnswerFormat::Free, false);
        let answer = read(json!({
            "choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
        }))
        .unwrap();
        assert_eq!(answer.text, "hi");
        assert_eq!(
            answer.usage.map(|u| (u.prompt_tokens, u.completion_tokens)),
            Some((5, 2))
        );
        let parts = json!({"choices": [{"message": {"content": [{"type": "text", "text": "a"}, {"text": "b"}]}}]});
        assert_eq!(read(parts).unwrap().text, "ab");
        for (value, class) in [
            (json!({"choices": []}), "empty_choices"),
            (
                json!({"choices": [{"message": {"content": null}}]}),
                "empty_text",
            ),
            (
                json!({"choices": [{"message": {"content": ""}, "finish_reason": "stop"}]}),
                "empty_text",
            ),
            (
                json!({"choices": [{"message": {"content": null, "refusal": "no"}}]}),
                "filtered",
            ),
            (
                json!({"choices": [{"message": {"content": 3}}]}),
                "malformed",
            ),
            (json!({"answer": "hi"}), "malformed"),
            (json!([1]), "malformed"),
        ] {
            let error = read(value.clone()).unwrap_err();
            assert_eq!(error.class().as_str(), class, "{value}");
        }
    }

    #[test]
    fn an_answer_may_be_empty_where_the_model_came_to_its_end() {
        let read = |content: Value, reason: Value| {
            let choice = json!({"message": {"content": content}, "finish_reason": reason});
            let value = json!({"choices": [choice], "usage": {"prompt_tokens": 5}});
            ChatAnswer::from_json(&value, AnswerFormat::Free, true)
        };
        for reason in ["stop", "length"] {
            for content in [json!(""), json!(null), json!([])] {
                let answer = read(content, json!(reason)).unwrap();
                assert_eq!(answer.text, "");
                assert_eq!(answer.finish_reason.as_deref(), Some(reason));
                assert!(answer.usage.is_some());
            }
        }
        for (reason, class) in [
            (json!("content_filter"), "filtered"),
            (json!("tool_calls"), "empty_text"),
            (json!(null), "empty_text"),
        ] {
            let error = read(json!(""), reason).unwrap_err();
            assert_eq!(error.class().as_str(), class);
        }
    }
}
