//! What a server has turned out to take: it is asked in the best form, and a refusal is remembered.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::JsonSchema;

/// How the form of an answer is asked for, from strong to weak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnswerFormat {
    /// `json_schema`: OpenAI, vLLM, llama.cpp.
    #[default]
    JsonSchema,
    /// `json_object` with the schema beside it: llama-cpp-python and others.
    JsonObject,
    /// Nothing but the words of the prompt.
    Free,
}

impl AnswerFormat {
    pub(crate) fn to_json(self, schema: &JsonSchema) -> Option<Value> {
        match self {
            Self::JsonSchema => Some(json!({
                "type": "json_schema",
                "json_schema": {"name": schema.name, "strict": true, "schema": schema.schema},
            })),
            Self::JsonObject => Some(json!({"type": "json_object", "schema": schema.schema})),
            Self::Free => None,
        }
    }
}

/// How servers say that they do not know a field, or not with this model: OpenAI, Azure, Mistral, vLLM, Groq, Google.
const NOT_KNOWN: [&str; 12] = [
    "unsupported",
    "not support",
    "n't support",
    "not allowed",
    "not permitted",
    "unknown",
    "unrecognized",
    "unexpected",
    "deprecated",
    "extra",
    // Models with one temperature of their own.
    "is allowed for this model",
    "may only be set to",
];

/// The form of requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dialect {
    pub(crate) format: AnswerFormat,
    /// `max_tokens`, or `max_completion_tokens` of newer models.
    newer_max_tokens: bool,
    temperature: bool,
    seed: bool,
    /// vLLM's key beside OpenAI's `echo`.
    pub(crate) prompt_logprobs: bool,
}

impl Default for Dialect {
    fn default() -> Self {
        Self {
            format: AnswerFormat::JsonSchema,
            newer_max_tokens: false,
            temperature: true,
            seed: true,
            prompt_logprobs: true,
        }
    }
}

impl Dialect {
    pub(crate) fn sampling(
        &self,
        body: &mut Map<String, Value>,
        max_tokens: Option<u32>,
        temperature: Option<f32>,
        seed: Option<u64>,
    ) {
        let name = match self.newer_max_tokens {
            true => "max_completion_tokens",
            false => "max_tokens",
        };
        if let Some(n) = max_tokens {
            body.insert(name.into(), json!(n));
        }
        if let (Some(t), true) = (temperature, self.temperature) {
            body.insert("temperature".into(), json!(t));
        }
        if let (Some(seed), true) = (seed, self.seed) {
            body.insert("seed".into(), json!(seed));
        }
    }

    /// The next form to try after a refusal (400, 422) of a body; `None` where there is no other.
    pub(crate) fn after_refusal(&self, message: &str, body: &Value) -> Option<Self> {
        let message = message.to_lowercase();
        let has = |key| body.get(key).is_some();
        // A value out of range is the caller's to correct: left out, it would be another than was asked for.
        let not_known = NOT_KNOWN.iter().any(|words| message.contains(words));
        let refuses = |key| has(key) && not_known && message.contains(key);
        let mut next = self.clone();
        if has("max_tokens") && message.contains("max_completion_tokens") {
            next.newer_max_tokens = true;
        } else if has("prompt_logprobs") && has("echo") {
            // A conversation has no `echo` to go by instead.
            next.prompt_logprobs = false;
        } else if refuses("temperature") {
            next.temperature = false;
        } else if refuses("seed") {
            next.seed = false;
        } else if has("response_format") {
            // Servers word this in every way; a refused request costs nothing, so a weaker form is tried
            // whatever they say.
            next.format = match self.format {
                AnswerFormat::JsonSchema => AnswerFormat::JsonObject,
                _ => AnswerFormat::Free,
            };
        } else {
            return None;
        }
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_lead_to_weaker_forms_and_end() {
        let mut dialect = Dialect::default();
        let body = json!({"max_tokens": 3, "temperature": 0.1, "response_format": {}});
        let wording = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.";
        dialect = dialect.after_refusal(wording, &body).unwrap();
        assert!(dialect.newer_max_tokens);
        let body = json!({"max_completion_tokens": 3, "temperature": 0.1, "response_format": {}});
        dialect = dialect
            .after_refusal("'temperature' does not support 0.1", &body)
            .unwrap();
        assert!(!dialect.temperature);
        let body = json!({"response_format": {}});
        dialect = dialect.after_refusal("bad", &body).unwrap();
        assert_eq!(dialect.format, AnswerFormat::JsonObject);
        dialect = dialect.after_refusal("bad", &body).unwrap();
        assert_eq!(dialect.format, AnswerFormat::Free);
        assert_eq!(dialect.after_refusal("bad", &json!({})), None);
        let text = json!({"prompt_logprobs": 0, "echo": true});
        assert!(!dialect.after_refusal("bad", &text).unwrap().prompt_logprobs);
        let conversation = json!({"prompt_logprobs": 0});
        assert_eq!(dialect.after_refusal("bad", &conversation), None);
    }

    #[test]
    fn a_field_is_dropped_where_it_is_not_known_and_kept_where_its_value_is_refused() {
        let dialect = Dialect::default();
        let body = json!({"temperature": 3.0, "seed": 7});
        for message in [
            "Unsupported parameter: 'temperature' is not supported with this model.",
            "O-series models don't support temperature=0.0",
            "`temperature` is deprecated for this model.",
            "invalid temperature: only 1 is allowed for this model",
            "`temperature` may only be set to 1 when thinking is enabled.",
            r#"[{"type":"extra_forbidden","loc":["body","temperature"],"msg":"Extra inputs are not permitted"}]"#,
        ] {
            let next = dialect.after_refusal(message, &body).unwrap();
            assert!(!next.temperature && next.seed, "{message}");
        }
        for message in [
            "Unrecognized request argument supplied: seed",
            "Extra parameters ['seed'] are not allowed",
            "property 'seed' is unsupported",
            "Unknown name \"seed\": Cannot find field.",
        ] {
            let next = dialect.after_refusal(message, &body).unwrap();
            assert!(next.temperature && !next.seed, "{message}");
        }
        for message in [
            "`temperature` has to be a number from 0 to 2, not 3",
            "Invalid 'temperature': decimal above maximum value. Expected a value <= 2, but got 3 instead.",
            "3 is greater than the maximum of 2 - 'temperature'",
            "temperature must be non-negative, got -1.0.",
            "temperature 3 is outside of the supported range",
            r#"[{"type":"less_than_equal","loc":["body","temperature"],"msg":"Input should be less than or equal to 1.5","input":3.0}]"#,
            "`seed` has to be a whole number, not 0.5",
            "Extra parameters ['top_p'] are not allowed",
        ] {
            assert_eq!(dialect.after_refusal(message, &body), None, "{message}");
        }
    }
}
