//! `POST /v1/chat/completions`: what is asked.

use serde_json::Value;

use super::{
    ApiError, PictureUrl,
    content::parts,
    fields::{Fields, wrong},
};

/// Texts that end an answer, at most, and bytes of each.
const STOPS: (usize, usize) = (16, 1 << 10);

/// Values in a body, at most: as JSON they may have two bytes, in memory a hundred.
const VALUES: usize = 200_000;

/// What the user or the model said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Turn {
    pub(crate) is_user: bool,
    pub(crate) text: String,
    pub(crate) pictures: Vec<PictureUrl>,
}

impl Turn {
    /// Whether there is neither text nor picture.
    fn is_empty(&self) -> bool {
        self.text.trim().is_empty() && self.pictures.is_empty()
    }
}

/// A request. What is left out is `None`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ChatRequest {
    pub(crate) model: Option<String>,
    /// In place of the template's own system text.
    pub(crate) system: Option<String>,
    /// User and model in turn; the user speaks last.
    pub(crate) turns: Vec<Turn>,
    pub(crate) max_tokens: Option<usize>,
    pub(crate) temperature: Option<f32>,
    pub(crate) top_p: Option<f32>,
    pub(crate) top_k: Option<usize>,
    pub(crate) repetition_penalty: Option<f32>,
    pub(crate) stop: Vec<String>,
    pub(crate) seed: Option<u64>,
    pub(crate) stream: bool,
    pub(crate) include_usage: bool,
    pub(crate) logprobs: bool,
    /// Whether a closer look is taken where the answer is unsure.
    pub(crate) closer: bool,
}

impl ChatRequest {
    /// Reads a body. Fields that are not known are passed over; those that ask for what is not done here are
    /// refused.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let bad = |message: String| ApiError::new(400, message).code("invalid_json");
        if values(body) > VALUES {
            return Err(bad(format!("the body has more than {VALUES} values")));
        }
        let body: Value = serde_json::from_slice(body)
            .map_err(|error| bad(format!("the body is no JSON: {error}")))?;
        let Value::Object(body) = body else {
            return Err(bad("the body has to be a JSON object".to_owned()));
        };
        let mut fields = Fields(body);
        let model = match fields.take("model") {
            None => None,
            Some(Value::String(name)) => Some(name),
            Some(other) => return Err(wrong("model", "a text", &other)),
        };
        refuse_what_is_not_done(&mut fields)?;
        let newer = fields.count("max_completion_tokens")?;
        let stream = fields.flag("stream")?;
        let (system, turns) = conversation(fields.take("messages"))?;
        Ok(Self {
            model,
            system,
            turns,
            max_tokens: newer.or(fields.count("max_tokens")?),
            temperature: fields.number("temperature", (0.0, false, 2.0))?,
            top_p: fields.number("top_p", (0.0, true, 1.0))?,
            top_k: top_k(&mut fields)?,
            repetition_penalty: fields.number("repetition_penalty", (0.0, true, f64::INFINITY))?,
            stop: stop(fields.take("stop"))?,
            seed: seed(fields.take("seed"))?,
            stream,
            include_usage: include_usage(fields.take("stream_options"), stream)?,
            logprobs: fields.flag("logprobs")?,
            closer: fields.flag("closer")?,
        })
    }

    /// Pictures of all turns.
    pub(crate) fn pictures(&self) -> usize {
        self.turns.iter().map(|turn| turn.pictures.len()).sum()
    }
}

/// Values in a JSON text, or a few more: there is one behind each comma and opening bracket outside of texts.
fn values(json: &[u8]) -> usize {
    let (mut count, mut in_text, mut escaped) = (0, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b',' | b'[' | b'{' if !in_text => count += 1,
            _ => {}
        }
    }
    count
}

fn refuse_what_is_not_done(fields: &mut Fields) -> Result<(), ApiError> {
    let zero = |value: &Value| value.as_f64() == Some(0.0);
    let empty = |value: &Value| match value {
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    };
    fields.refuse("n", |n| n.as_u64() == Some(1), "a request has one answer")?;
    fields.refuse(
        "top_logprobs",
        zero,
        "only `logprobs` of the answer's own tokens are given",
    )?;
    fields.refuse("frequency_penalty", zero, "there is `repetition_penalty`")?;
    fields.refuse("presence_penalty", zero, "there is `repetition_penalty`")?;
    fields.refuse("logit_bias", empty, "single tokens cannot be weighted")?;
    fields.refuse("tools", empty, "the model calls no tools")?;
    // Without tools these two say nothing.
    let free = |choice: &Value| matches!(choice.as_str(), Some("none" | "auto"));
    fields.refuse("tool_choice", free, "the model calls no tools")?;
    fields.refuse("functions", empty, "the model calls no functions")?;
    let text = |format: &Value| format.get("type").and_then(Value::as_str) == Some("text");
    fields.refuse(
        "response_format",
        text,
        "an answer's form cannot be enforced",
    )
}

/// 0 and -1 stand for none.
fn top_k(fields: &mut Fields) -> Result<Option<usize>, ApiError> {
    match fields.take("top_k") {
        Some(value) if matches!(value.as_i64(), Some(0 | -1)) => Ok(None),
        Some(value) => {
            fields.0.insert("top_k".to_owned(), value);
            fields.count("top_k")
        }
        None => Ok(None),
    }
}

fn seed(value: Option<Value>) -> Result<Option<u64>, ApiError> {
    let Some(value) = value else { return Ok(None) };
    let seed = value.as_u64().or(value.as_i64().map(|seed| seed as u64));
    let seed = seed.ok_or_else(|| wrong("seed", "a whole number", &value))?;
    Ok(Some(seed))
}

fn include_usage(value: Option<Value>, stream: bool) -> Result<bool, ApiError> {
    match value {
        None => Ok(false),
        Some(_) if !stream => {
            let message = "`stream_options` belongs to `stream`: true";
            Err(ApiError::field("stream_options", message).code("invalid_value"))
        }
        Some(Value::Object(options)) => {
            Fields(options)
                .flag("include_usage")
                .map_err(|error| ApiError {
                    param: Some("stream_options.include_usage".to_owned()),
                    ..error
                })
        }
        Some(other) => Err(wrong("stream_options", "an object", &other)),
    }
}

fn stop(value: Option<Value>) -> Result<Vec<String>, ApiError> {
    let list = match value {
        None => return Ok(Vec::new()),
        Some(Value::String(text)) => vec![Value::String(text)],
        Some(Value::Array(list)) => list,
        Some(other) => return Err(wrong("stop", "a text or a list of texts", &other)),
    };
    let (most, longest) = STOPS;
    if list.len() > most {
        let message = format!("`stop` may have {most} texts, not {}", list.len());
        return Err(ApiError::field("stop", message).code("invalid_value"));
    }
    let text = |value: Value| match value {
        Value::String(text) if !text.is_empty() && text.len() <= longest => Ok(text),
        other => {
            let expected = format!("texts of 1 to {longest} bytes");
            Err(wrong("stop", &expected, &other))
        }
    };
    list.into_iter().map(text).collect()
}

/// The system text and the turns of a conversation.
fn conversation(messages: Option<Value>) -> Result<(Option<String>, Vec<Turn>), ApiError> {
    let list = match messages {
        None => return Err(ApiError::field("messages", "`messages` is missing")),
        Some(Value::Array(list)) => list,
        Some(other) => return Err(wrong("messages", "a list", &other)),
    };
    let mut system: Vec<String> = Vec::new();
    let mut turns: Vec<Turn> = Vec::new();
    for (number, mut message) in list.into_iter().enumerate() {
        let place = format!("messages[{number}]");
        let refuse = |param: String, message: String| {
            Err(ApiError::field(param, message).code("invalid_value"))
        };
        let role = match message.get_mut("role").map(Value::take) {
            Some(Value::String(role)) => role,
            _ => return refuse(place.clone(), format!("`{place}` has no `role`")),
        };
        let content_place = format!("{place}.content");
        let mut pictures = Vec::new();
        let text = match message.get_mut("content").map(Value::take) {
            // A model that said nothing.
            None | Some(Value::Null) if role == "assistant" => String::new(),
            None => {
                return refuse(
                    content_place.clone(),
                    format!("`{content_place}` is missing"),
                );
            }
            Some(content) => parts(content, &content_place, &mut pictures)?,
        };
        if role != "user"
            && let Some(picture) = pictures.first()
        {
            let message = format!("`{}`: only the user shows pictures", picture.place);
            return refuse(picture.place.clone(), message);
        }
        match role.as_str() {
            "system" | "developer" if turns.is_empty() => system.push(text),
            "system" | "developer" => {
                let message = format!("`{place}`: instructions stand before the first turn");
                return refuse(place, message);
            }
            "user" | "assistant" => {
                let is_user = role == "user";
                match turns.last_mut() {
                    // One turn in several messages.
                    Some(last) if last.is_user == is_user => {
                        last.text.push('\n');
                        last.text.push_str(&text);
                        last.pictures.append(&mut pictures);
                    }
                    _ => turns.push(Turn {
                        is_user,
                        text,
                        pictures,
                    }),
                }
            }
            other => {
                let other: String = other.chars().take(40).collect();
                let message = format!(
                    "`{place}.role` is {other:?}; there are `system`, `user` and `assistant`"
                );
                return refuse(format!("{place}.role"), message);
            }
        }
    }
    let wanted = match turns.last() {
        Some(turn) if turn.is_user && !turn.is_empty() => None,
        Some(turn) if turn.is_user => Some("to have a text or a picture"),
        _ => Some("to be the user's"),
    };
    if let Some(wanted) = wanted {
        let message = format!("the last of `messages` has {wanted}");
        return Err(ApiError::field("messages", message).code("invalid_value"));
    }
    let system = system.join("\n");
    let system = (!system.trim().is_empty()).then_some(system);
    Ok((system, turns))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_turn_says_or_shows_something() {
        let parse = |turns: &[&str]| {
            let turn = |content: &&str| format!(r#"{{"role": "user", "content": {content}}}"#);
            let turns: Vec<String> = turns.iter().map(turn).collect();
            // Between two turns of the user stands one of the model.
            let between = r#", {"role": "assistant", "content": "y"}, "#;
            let body = format!(r#"{{"messages": [{}]}}"#, turns.join(between));
            ChatRequest::parse(body.as_bytes())
        };
        let picture =
            r#"[{"type": "image_url", "image_url": "data:"}, {"type": "text", "text": ""}]"#;
        for last in [
            r#""""#,
            r#"" \n""#,
            "[]",
            r#"[{"type": "text", "text": ""}]"#,
        ] {
            let error = parse(&[picture, last]).unwrap_err();
            assert_eq!(error.param.as_deref(), Some("messages"), "{last}");
            assert!(error.message.contains("a text or a picture"), "{error:?}");
            assert!(parse(&[last, picture]).is_ok(), "{last}");
            assert!(parse(&[last, r#""x""#]).is_ok(), "{last}");
        }
    }

    #[test]
    fn values_are_counted_outside_of_texts() {
        for (json, count) in [
            ("1", 0),
            (r#"{"a": [1, 2, {}], "b": "x, [y\", {"}"#, 6),
            (r#"["\\", "\\\"", ","]"#, 3),
            ("[[[[", 4),
        ] {
            assert_eq!(values(json.as_bytes()), count, "{json}");
        }
        let many = format!("[{}1]", "[],".repeat(VALUES));
        let error = ChatRequest::parse(many.as_bytes()).unwrap_err();
        assert!(error.message.contains("200000 values"), "{error:?}");
    }
}
