//! `POST /v1/chat/completions`.

mod answer;
mod closer;
mod outlet;
mod prepare;

use std::{
    error::Error as StdError,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use llavar_model::generation::GenerationOptions;
use llavar_ocr::Reader;

pub(crate) use prepare::Gate;

use llavar_http::{Exchange, ReadFault};

use crate::{
    engine::{Engine, NoPlace, Place, Queue},
    metrics::Ending,
    wire::{ApiError, ChatRequest, Reply, Usage, shortened},
};
use answer::Asked;

/// A model that is ready, and how it is asked.
pub(crate) struct Loaded {
    pub(crate) engine: Engine,
    pub(crate) reader: Option<Reader>,
    pub(crate) defaults: GenerationOptions,
    pub(crate) gate: Gate,
    pub(crate) name: String,
    /// Seconds since 1970.
    pub(crate) created: u64,
}

/// Why a request ends without its answer.
pub(crate) enum Stop {
    /// The client has gone.
    Gone,
    /// The client is told why.
    Refused(ApiError),
    /// The server's fault: the client is told that it is, the log why.
    Failed(Box<dyn StdError + Send + Sync>),
}

impl From<ApiError> for Stop {
    fn from(error: ApiError) -> Self {
        Self::Refused(error)
    }
}

impl From<io::Error> for Stop {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

impl From<ReadFault> for Stop {
    fn from(fault: ReadFault) -> Self {
        match fault {
            ReadFault::Gone => Self::Gone,
            ReadFault::Refused { status, message } => ApiError::new(status, message).into(),
        }
    }
}

/// A request that was answered.
pub(crate) struct Answered {
    pub(crate) ending: Ending,
    pub(crate) usage: Usage,
    pub(crate) first_token: Option<Duration>,
}

/// Answers a request. Where a stop comes back nothing has been answered, or the answer was broken off.
pub(crate) fn answer(
    loaded: &Loaded,
    queue: &Arc<Queue>,
    exchange: &mut Exchange<'_>,
    id: &str,
) -> Result<Answered, Stop> {
    let arrived = Instant::now();
    let (body, lease) = exchange.body()?.into_parts();
    let request = ChatRequest::parse(&body)?;
    drop(body);
    if let Some(model) = &request.model
        && *model != loaded.name
    {
        let message = format!(
            "there is no model {:?} here; served is {:?}",
            shortened(model),
            loaded.name
        );
        let error = ApiError::new(404, message).code("model_not_found");
        return Err(Stop::Refused(ApiError {
            param: Some("model".to_owned()),
            ..error
        }));
    }
    if request.closer && queue.places() < closer::LOOKS {
        let message = format!(
            "`closer` takes {} places in the line, which has {} here (`llavar serve --queue`)",
            closer::LOOKS,
            queue.places()
        );
        return Err(ApiError::field("closer", message).into());
    }
    let place = enter(queue)?;
    let halves = match request.closer {
        true => vec![enter(queue)?, enter(queue)?],
        false => Vec::new(),
    };
    let (stream, include_usage) = (request.stream, request.include_usage);
    let (stops, logprobs) = (request.stop.clone(), request.logprobs);
    let prepared = prepare::prepare(loaded, request, || exchange.client_is_gone())?;
    // Pictures are of one size from here on.
    drop(lease);
    let asked = Asked {
        loaded,
        queue,
        prompt: prepared.prompt,
        options: prepared.options,
        stops,
        logprobs,
        arrived,
    };
    let reply = Reply::new(id, &loaded.name);
    let first = asked.put(place, prepared.pictures);
    let said = match (halves.is_empty(), stream) {
        (true, true) => return first.stream(exchange, &reply, include_usage),
        (true, false) => first.collect(exchange)?,
        (false, _) => {
            let halves = halves.into_iter().zip(prepared.halves).collect();
            closer::look(&asked, first, halves, exchange)?
        }
    };
    match stream {
        true => said.stream(exchange, &reply, include_usage),
        false => said.respond(exchange, &reply),
    }
}

/// A place in the line, or what a client is told where there is none.
fn enter(queue: &Arc<Queue>) -> Result<Place, ApiError> {
    queue.enter().map_err(|why| match why {
        NoPlace::Full => ApiError::new(429, "too many requests wait; try again")
            .code("queue_full")
            .retry_after(1),
        NoPlace::Closed => stopping(),
    })
}

/// What a new request is told while the server ends.
pub(crate) fn stopping() -> ApiError {
    ApiError::new(503, "the server is stopping")
        .code("stopping")
        .retry_after(5)
}
