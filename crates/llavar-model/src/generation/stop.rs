//! When an answer ends.

use super::GenerationOptions;

/// Why an answer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopReason {
    /// This id came; it is not part of the answer.
    StopId(u32),
    /// This text came; the ids of the answer still hold it.
    StopString(String),
    /// `max_new_tokens` were generated.
    MaxNewTokens,
    /// The model's context is full.
    ContextFull,
    /// The caller's callback said so.
    Callback,
}

impl StopReason {
    /// Name in files.
    pub fn name(&self) -> &'static str {
        match self {
            Self::StopId(_) => "stop_id",
            Self::StopString(_) => "stop_string",
            Self::MaxNewTokens => "max_new_tokens",
            Self::ContextFull => "context_full",
            Self::Callback => "callback",
        }
    }
}

/// The stop string that the last id completed.
///
/// Only a tail of the answer is decoded, so that the cost of a token does not grow with the answer: a
/// stop string of n bytes lies within the last n tokens that have any text, and a few more make up for
/// those that have none and for a character that several tokens share.
pub(crate) fn stop_string(options: &GenerationOptions, ids: &[u32]) -> Option<String> {
    let decode = options.decode.as_ref()?;
    let longest = options.stop_strings.iter().map(String::len).max()?;
    let tail = decode(&ids[ids.len().saturating_sub(longest + 8)..]);
    options
        .stop_strings
        .iter()
        .find(|s| !s.is_empty() && tail.contains(s.as_str()))
        .cloned()
}
