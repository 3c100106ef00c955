//! `POST /v1/chat/completions`.

mod outlet;
mod prepare;
mod text;

use std::{
    error::Error as StdError,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{self, Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use llavar_model::generation::{GenerationOptions, StopReason};
use llavar_ocr::Reader;
use serde_json::{Value, json};

pub(crate) use prepare::Gate;

use llavar_http::{Exchange, ReadFault};

use crate::{
    engine::{Engine, Event, NoPlace, Pending, Queue},
    metrics::Ending,
    wire::{ApiError, ChatRequest, Reply, Usage},
};
use outlet::{Outlet, Streamed, Whole};
use text::Visible;

/// How often it is looked whether a client has gone.
const LOOK: Duration = Duration::from_millis(100);

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
            "there is no model {model:.100?} here; served is {:?}",
            loaded.name
        );
        let error = ApiError::new(404, message).code("model_not_found");
        return Err(Stop::Refused(ApiError {
            param: Some("model".to_owned()),
            ..error
        }));
    }
    let place = queue.enter().map_err(|why| match why {
        NoPlace::Full => ApiError::new(429, "too many requests wait; try again")
            .code("queue_full")
            .retry_after(1),
        NoPlace::Closed => stopping(),
    })?;
    let asked = Asked {
        stream: request.stream,
        include_usage: request.include_usage,
        logprobs: request.logprobs,
        stops: request.stop.clone(),
    };
    let prepared = prepare::prepare(loaded, request, || exchange.client_is_gone())?;
    // Pictures are of one size from here on.
    drop(lease);
    let (events, receiver) = mpsc::channel();
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Relaxed);
    place.submit(Pending {
        number,
        prompt: prepared.prompt,
        pictures: prepared.pictures,
        options: prepared.options,
        events,
        arrived,
        submitted: Instant::now(),
    });
    let mut answer = Answer {
        loaded,
        events: receiver,
        visible: Visible::new(asked.stops.clone()),
        logprobs: asked.logprobs,
        tokens: 0,
        score: 0.0,
        first_token: None,
        arrived,
    };
    let answered = answer.deliver(&asked, exchange, &Reply::new(id, &loaded.name));
    if matches!(answered, Err(Stop::Gone)) {
        queue.leave(number);
    }
    answered
}

/// What a new request is told while the server ends.
pub(crate) fn stopping() -> ApiError {
    ApiError::new(503, "the server is stopping")
        .code("stopping")
        .retry_after(5)
}

/// How an answer is wanted.
struct Asked {
    stream: bool,
    include_usage: bool,
    logprobs: bool,
    stops: Vec<String>,
}

/// An answer on its way from the engine to the client.
struct Answer<'a> {
    loaded: &'a Loaded,
    events: Receiver<Event>,
    visible: Visible,
    logprobs: bool,
    tokens: usize,
    score: f64,
    first_token: Option<Duration>,
    arrived: Instant,
}

/// The end of an answer.
struct End {
    ending: Ending,
    prompt: usize,
}

impl Answer<'_> {
    fn deliver(
        &mut self,
        asked: &Asked,
        exchange: &mut Exchange<'_>,
        reply: &Reply,
    ) -> Result<Answered, Stop> {
        let prompt = self.wait_for_begin(exchange)?;
        let end = if asked.stream {
            let mut outlet = Streamed::begin(exchange, reply)?;
            match self.follow(prompt, &mut outlet) {
                Ok(end) => {
                    let usage = asked.include_usage.then(|| self.usage(&end));
                    outlet.finish(end.ending.name(), self.probability(), usage)?;
                    end
                }
                Err(stop) => return Err(outlet.break_off(stop)),
            }
        } else {
            let mut outlet = Whole::new(exchange, asked.logprobs);
            let end = self.follow(prompt, &mut outlet)?;
            let usage = self.usage(&end);
            outlet.finish(reply, end.ending.name(), usage, self.probability())?;
            end
        };
        Ok(Answered {
            ending: end.ending,
            usage: self.usage(&end),
            first_token: self.first_token,
        })
    }

    fn usage(&self, end: &End) -> Usage {
        Usage {
            prompt: end.prompt,
            answer: self.tokens,
        }
    }

    /// The model's own of the whole answer, 0 to 1.
    fn probability(&self) -> f64 {
        self.score.exp()
    }

    /// Waits for the engine to take the request; how many tokens its prompt has. Nothing is sent before, so
    /// that a failure still has a status of its own.
    fn wait_for_begin(&mut self, exchange: &mut Exchange<'_>) -> Result<usize, Stop> {
        loop {
            match self.events.recv_timeout(LOOK) {
                Ok(Event::Begun(prompt)) => return Ok(prompt),
                Ok(event) => self.unexpected(event)?,
                Err(RecvTimeoutError::Timeout) if exchange.client_is_gone() => {
                    return Err(Stop::Gone);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(self.lost()),
            }
        }
    }

    /// Takes the answer as it comes.
    fn follow(&mut self, prompt: usize, outlet: &mut dyn Outlet) -> Result<End, Stop> {
        let assistant = self.loaded.engine.assistant.clone();
        let mut stream = assistant.tokenizer().decode_stream(true);
        let failed = |error| Stop::Failed(Box::new(llavar_assistant::Error::Encode(error)));
        let mut looked = Instant::now();
        loop {
            let mut next = match self.events.recv_timeout(LOOK) {
                Ok(event) => Some(event),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return Err(self.lost()),
            };
            // All that has come goes out in one piece.
            let (mut piece, mut logprobs, mut end) = (String::new(), Vec::new(), None);
            while let Some(event) = next {
                match event {
                    Event::Token(id, log_probability) => {
                        self.first_token
                            .get_or_insert_with(|| self.arrived.elapsed());
                        self.tokens += 1;
                        self.score += f64::from(log_probability);
                        if let Some(text) = stream.push(id).map_err(failed)? {
                            piece += &self.visible.push(&text);
                        }
                        if self.logprobs {
                            logprobs.push(logprob(&assistant, id, log_probability));
                        }
                    }
                    Event::Done(answer) => {
                        self.score = answer.score;
                        if let Some(text) = stream.finish().map_err(failed)? {
                            piece += &self.visible.push(&text);
                        }
                        end = Some(match answer.stop_reason {
                            StopReason::StopId(_) | StopReason::StopString(_) => Ending::Stop,
                            _ => Ending::Length,
                        });
                    }
                    other => self.unexpected(other)?,
                }
                // The rest is not for the client.
                if self.visible.has_ended() {
                    end = Some(Ending::Stop);
                }
                next = match end {
                    None => self.events.try_recv().ok(),
                    Some(_) => None,
                };
            }
            if end.is_some() && !self.visible.has_ended() {
                piece += &self.visible.finish();
            }
            if !piece.is_empty() || !logprobs.is_empty() {
                outlet.text(&piece, self.logprobs.then_some(logprobs))?;
            }
            if let Some(ending) = end {
                return Ok(End { ending, prompt });
            }
            if looked.elapsed() > LOOK {
                looked = Instant::now();
                if outlet.client_is_gone() {
                    return Err(Stop::Gone);
                }
            }
        }
    }

    /// An event that is no part of an answer.
    fn unexpected(&self, event: Event) -> Result<(), Stop> {
        match event {
            Event::Failed(fault) => Err(Stop::Failed(fault)),
            Event::Begun(_) | Event::Token(..) | Event::Done(_) => Ok(()),
        }
    }

    /// Why the engine let go of the request.
    fn lost(&self) -> Stop {
        match self.loaded.engine.is_aborted() {
            true => stopping().into(),
            false => {
                Stop::Failed("the model failed while it answered this and other requests".into())
            }
        }
    }
}

/// An entry of `logprobs`.
fn logprob(assistant: &llavar_assistant::Assistant, id: u32, log_probability: f32) -> Value {
    let text = assistant.tokenizer().decode(&[id], false);
    let text = text.unwrap_or_default();
    json!({
        "token": text,
        "logprob": log_probability,
        "bytes": text.as_bytes(),
        "top_logprobs": [],
    })
}
