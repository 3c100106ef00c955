//! What an answer of a server means.

use std::time::Duration;

use serde_json::Value;

use crate::{ClientError, Usage};

const EXCERPT: usize = 200;

/// An answer that is not what the interface says.
pub(crate) fn malformed(reason: impl Into<String>, text: &str) -> ClientError {
    ClientError::Malformed {
        reason: reason.into(),
        excerpt: shortened(text, EXCERPT),
    }
}

/// One line of at most `most` characters without control characters.
fn shortened(text: &str, most: usize) -> String {
    let mut out: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(most)
        .collect();
    if text.chars().nth(most).is_some() {
        out.push('…');
    }
    out.trim().to_owned()
}

/// The tokens of an answer.
pub(crate) fn usage_of(value: &Value) -> Option<Usage> {
    let usage = value.get("usage")?;
    let number = |value: Option<&Value>| value.and_then(Value::as_u64);
    Some(Usage {
        prompt_tokens: number(usage.get("prompt_tokens"))?,
        completion_tokens: number(usage.get("completion_tokens")).unwrap_or(0),
        cached_tokens: number(
            usage
                .get("prompt_tokens_details")
                .and_then(|details| details.get("cached_tokens")),
        )
        .unwrap_or(0),
    })
}

/// The words of a server about an error: `{"error": {"message", "code"}}` of OpenAI and vLLM,
/// `{"detail"}` of FastAPI, `{"message"}`, or the text itself.
fn message_of(body: &str) -> (String, String) {
    let value: Value = serde_json::from_str(body).unwrap_or(Value::Null);
    let error = value.get("error").unwrap_or(&value);
    let code = |key| match error.get(key) {
        Some(Value::String(text)) => text.clone(),
        _ => String::new(),
    };
    let code = format!("{} {}", code("code"), code("type"));
    let message = match error {
        Value::String(text) => Some(text.clone()),
        error => ["message", "detail"]
            .iter()
            .find_map(|key| error.get(key))
            .map(|found| match found {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            }),
    };
    let message = message.unwrap_or_else(|| body.to_owned());
    let message = shortened(&message, 400);
    let message = match message.is_empty() {
        true => "no message".to_owned(),
        false => message,
    };
    (message, code)
}

/// The error of a status other than 2xx.
pub(crate) fn of_status(
    status: u16,
    url: &str,
    retry_after: Option<Duration>,
    location: Option<&str>,
    body: &str,
) -> ClientError {
    let (message, code) = message_of(body);
    let told = format!("{code} {message}").to_lowercase();
    match status {
        401 | 403 => ClientError::Auth { status, message },
        404 => ClientError::NotFound {
            url: url.to_owned(),
            message,
        },
        402 => ClientError::Quota { message },
        429 if told.contains("insufficient_quota") => ClientError::Quota { message },
        429 => ClientError::RateLimit {
            retry_after,
            message,
        },
        408 | 409 | 425 | 500.. => ClientError::Server {
            status,
            retry_after,
            message,
        },
        300..=399 => ClientError::Refused {
            status,
            message: match location {
                Some(to) => format!("it redirects to {}: give that endpoint", shortened(to, 200)),
                None => "it redirects".into(),
            },
        },
        _ if is_context_length(&told) => ClientError::ContextLength { message },
        _ => ClientError::Refused { status, message },
    }
}

/// OpenAI, vLLM, llama.cpp, llama-cpp-python, TGI.
fn is_context_length(told: &str) -> bool {
    [
        "context_length_exceeded",
        "exceed_context_size",
        "maximum context length",
        "maximum model length",
        "max_model_len",
        "context window",
        "context size",
        "`inputs` tokens + `max_new_tokens` must be",
    ]
    .iter()
    .any(|words| told.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses() {
        let class = |status, body| of_status(status, "u", None, None, body).class().as_str();
        for (status, body, expected) in [
            (
                401,
                r#"{"error": {"message": "Incorrect API key"}}"#,
                "auth",
            ),
            (404, "404 page not found", "not_found"),
            (
                429,
                r#"{"error": {"code": "rate_limit_exceeded"}}"#,
                "rate_limit",
            ),
            (429, r#"{"error": {"code": "insufficient_quota"}}"#, "quota"),
            (500, "", "server"),
            (503, "<html>", "server"),
            (529, "", "server"),
            (
                400,
                r#"{"error": {"code": "context_length_exceeded", "message": "x"}}"#,
                "context_length",
            ),
            (
                400,
                r#"{"message": "This model's maximum context length is 4096 tokens."}"#,
                "context_length",
            ),
            (400, r#"{"detail": [{"loc": ["body"]}]}"#, "refused"),
            (301, "", "refused"),
        ] {
            assert_eq!(class(status, body), expected, "{status} {body}");
        }
        let error = of_status(400, "u", None, None, r#"{"detail": [{"loc": 1}]}"#);
        assert_eq!(
            error.to_string(),
            r#"the server refuses the request (400): [{"loc":1}]"#
        );
    }

    #[test]
    fn texts_are_short_and_on_one_line() {
        let long = shortened(&"a\nb\u{1b}".repeat(200), 20);
        assert_eq!(long.chars().count(), 21);
        assert!(!long.contains(['\n', '\u{1b}']));
    }
}
