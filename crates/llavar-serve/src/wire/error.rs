//! What a client is told when there is no answer.

use serde_json::{Value, json};

use llavar_http::Response;

/// Characters of a client's own words in a message, at most.
const QUOTED: usize = 100;

/// A client's own words as they are quoted to it, and in the log: a body may have megabytes of them.
pub(crate) fn shortened(text: &str) -> String {
    let mut out: String = text.chars().take(QUOTED).collect();
    if text.chars().nth(QUOTED).is_some() {
        out.push('…');
    }
    out
}

/// An error in OpenAI's form. Its message says what was wrong and where, and nothing of the server's insides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiError {
    pub(crate) status: u16,
    pub(crate) message: String,
    /// The field that is wrong.
    pub(crate) param: Option<String>,
    pub(crate) code: Option<&'static str>,
    /// Seconds after which another attempt may go better.
    pub(crate) retry_after: Option<u32>,
}

impl ApiError {
    pub(crate) fn new(status: u16, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            param: None,
            code: None,
            retry_after: None,
        }
    }

    /// A field of a request that cannot be.
    pub(crate) fn field(param: impl Into<String>, message: impl Into<String>) -> Self {
        let param = Some(param.into());
        Self {
            param,
            ..Self::new(400, message)
        }
    }

    pub(crate) fn code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    pub(crate) fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// The error of a fault on this side; its cause is in the log under the request's id.
    pub(crate) fn internal() -> Self {
        let message = "the server failed; its log has the cause under this request's id";
        Self::new(500, message).code("internal_error")
    }

    fn kind(&self) -> &'static str {
        match self.status {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            429 => "rate_limit_error",
            // Of HTTP's transfer codings and versions the client chose one that is not spoken here.
            501 | 505 => "invalid_request_error",
            503 => "overloaded_error",
            500..600 => "server_error",
            _ => "invalid_request_error",
        }
    }

    /// `{"error": {...}}`.
    pub(crate) fn to_json(&self) -> Value {
        json!({"error": {
            "message": self.message,
            "type": self.kind(),
            "param": self.param,
            "code": self.code,
        }})
    }

    pub(crate) fn response(&self) -> Response {
        let response = Response::json(self.status, &self.to_json());
        let response = match self.retry_after {
            Some(seconds) => response.with("Retry-After", seconds.to_string()),
            None => response,
        };
        match self.status {
            401 => response.with("WWW-Authenticate", "Bearer"),
            _ => response,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_say_whose_fault_it_is() {
        for (status, kind) in [
            (400, "invalid_request_error"),
            (431, "invalid_request_error"),
            (500, "server_error"),
            (501, "invalid_request_error"),
            (503, "overloaded_error"),
            (505, "invalid_request_error"),
        ] {
            let error = ApiError::new(status, "").to_json();
            assert_eq!(error["error"]["type"], kind, "{status}");
        }
    }
}
