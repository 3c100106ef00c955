//! `llavar serve`: a model behind OpenAI's chat interface, with a page to try it.
//!
//! It calls `llavar-assistant` to ask the model, `llavar-ocr` for the text of pictures, and `llavar-client`
//! for how a key is kept.
//!
//! | Start here | For |
//! |---|---|
//! | [`Server`] | a socket that is listened to, then a model behind it, then an orderly end |
//! | [`ServerOptions`] | address, key, limits |
//! | [`Served`] | the model, and how it is asked |
//!
//! A connection has a thread (`llavar-http`), which reads a request (`wire`), decodes its pictures and encodes its
//! text (`chat`), and waits. One thread has the model (`engine`): between two steps it takes what waits into
//! the batch, where every answer is what it would be alone. A request that fails, or whose client goes away,
//! costs only itself.
//!
//! | Route | |
//! |---|---|
//! | `POST /v1/chat/completions` | text and pictures (data URLs); whole or streamed; `"closer": true` also asks both halves of the only picture where the answer is unsure |
//! | `GET /v1/models` | the model's name and context |
//! | `GET /health` | the process answers |
//! | `GET /ready` | 503 while the model is loaded, and while the server ends |
//! | `GET /metrics` | counts and times for Prometheus |
//! | `GET /` | a page: show a picture, ask about it |

#![forbid(unsafe_code)]

mod chat;
mod engine;
mod error;
mod log;
mod metrics;
mod page;
mod routes;
mod server;
mod wire;

pub use error::ServeError;
pub use llavar_http::HttpLimits;
pub use log::Log;
pub use server::{Served, Server, ServerOptions};
