//! A blocking client of OpenAI-compatible servers: OpenAI, vLLM, llama.cpp, Ollama, LM Studio, ours.
//!
//! It calls no other crate of the workspace.
//!
//! # Tour
//!
//! 1. [`Endpoint`] is where the server is, [`ApiKey`] is read from the environment and never shown.
//! 2. [`Client`] sends: [`Client::chat`] (text, pictures, JSON schemas), [`Client::complete`] (with
//!    log-probabilities of the prompt, for scoring), [`Client::score_chat`] (those of a conversation with
//!    pictures) and [`Client::models`].
//! 3. [`ClientError`] says by class what went wrong; what may pass is tried again after
//!    [`RetryPolicy`], and every attempt that failed can be watched ([`Client::chat_watched`]).
//! 4. [`Limiter`] adapts how many requests run at once to what the server takes.
//! 5. `testing` (a feature for tests) is a server that fails by script.
//!
//! Threads share one client; each call blocks its thread.
//!
//! ```no_run
//! use llavar_client::{ApiKey, ChatRequest, Client, ClientOptions, Endpoint, Message};
//!
//! # fn main() -> Result<(), llavar_client::ClientError> {
//! let mut options = ClientOptions::new(Endpoint::parse("http://localhost:8000")?);
//! options.key = ApiKey::from_env("OPENAI_API_KEY")?;
//! let client = Client::new(options)?;
//! let mut request = ChatRequest::new("my-model", vec![Message::user("What is OCR?")]);
//! request.max_tokens = Some(100);
//! let answer = client.chat(&request)?;
//! println!("{} ({:?})", answer.text, answer.usage);
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod chat;
mod chat_score;
mod classify;
mod client;
mod completion;
mod dialect;
mod endpoint;
mod error;
mod http_date;
mod key;
mod limiter;
mod retry;
#[cfg(feature = "testing")]
pub mod testing;
mod transport;

pub use chat::{ChatAnswer, ChatRequest, Content, JsonSchema, Message, Role, Usage};
pub use chat_score::ChatScores;
pub use client::{Attempt, Client, ClientOptions};
pub use completion::{CompletionAnswer, CompletionRequest, TokenLogprob};
pub use dialect::AnswerFormat;
pub use endpoint::Endpoint;
pub use error::{ClientError, ErrorClass};
pub use key::{ApiKey, same_secret};
pub use limiter::Limiter;
pub use retry::RetryPolicy;
pub use transport::TimeOuts;
