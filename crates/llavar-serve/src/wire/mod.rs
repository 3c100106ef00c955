//! OpenAI's chat interface: requests as they come, answers and errors as they go.

mod content;
mod error;
mod fields;
mod reply;
mod request;

pub(crate) use content::PictureUrl;
pub(crate) use error::{ApiError, shortened};
pub(crate) use reply::{Closing, Reply, Usage, model_card, now};
pub(crate) use request::ChatRequest;
