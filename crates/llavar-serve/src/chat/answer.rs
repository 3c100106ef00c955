//! A question on its way to the engine, and its answer on the way to the client.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{self, Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use llavar_assistant::{Assistant, Picture, Visible};
use llavar_http::{Exchange, Response};
use llavar_model::generation::{GenerationOptions, StopReason};
use serde_json::{Value, json};

use super::{
    Answered, Loaded, Stop,
    outlet::{Collected, Outlet, Streamed},
    stopping,
};
use crate::{
    engine::{Event, Pending, Place, Queue},
    metrics::Ending,
    wire::{Closing, Reply, Usage},
};

/// How often it is looked whether a client has gone.
const LOOK: Duration = Duration::from_millis(100);

/// What is asked, whatever picture it is asked about.
pub(super) struct Asked<'a> {
    pub(super) loaded: &'a Loaded,
    pub(super) queue: &'a Queue,
    pub(super) prompt: Vec<i32>,
    pub(super) options: Arc<GenerationOptions>,
    pub(super) stops: Vec<String>,
    pub(super) logprobs: bool,
    /// When the request's first bytes came.
    pub(super) arrived: Instant,
}

impl Asked<'_> {
    /// Puts the question about these pictures into the line.
    pub(super) fn put(&self, place: Place, pictures: Vec<Picture>) -> Answer<'_> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Relaxed);
        let (events, receiver) = mpsc::channel();
        place.submit(Pending {
            number,
            prompt: self.prompt.clone(),
            pictures,
            options: self.options.clone(),
            events,
            arrived: self.arrived,
            submitted: Instant::now(),
        });
        Answer {
            asked: self,
            number,
            events: receiver,
            visible: Visible::new(self.stops.clone()),
            tokens: 0,
            score: 0.0,
            first_token: None,
        }
    }
}

/// An answer on its way from the engine to the client. Dropped, it leaves the line.
pub(super) struct Answer<'a> {
    asked: &'a Asked<'a>,
    number: u64,
    events: Receiver<Event>,
    visible: Visible,
    tokens: usize,
    /// Log-probability of the whole answer.
    score: f64,
    first_token: Option<Duration>,
}

/// An answer that is complete.
pub(super) struct Said {
    text: String,
    logprobs: Option<Vec<Value>>,
    /// Log-probability of the whole answer.
    pub(super) score: f64,
    /// Where a closer look was wanted: whether one was taken.
    pub(super) closer_look: Option<bool>,
    pub(super) answered: Answered,
}

impl Said {
    fn closing(&self) -> Closing {
        Closing {
            finish: self.answered.ending.name(),
            probability: self.score.exp(),
            closer_look: self.closer_look,
        }
    }

    /// Sends it as one document.
    pub(super) fn respond(
        self,
        exchange: &mut Exchange<'_>,
        reply: &Reply,
    ) -> Result<Answered, Stop> {
        let closing = self.closing();
        let body = reply.whole(&self.text, self.logprobs, closing, self.answered.usage);
        exchange.respond(&Response::json(200, &body))?;
        Ok(self.answered)
    }

    /// Sends it as a stream of one piece.
    pub(super) fn stream(
        self,
        exchange: &mut Exchange<'_>,
        reply: &Reply,
        include_usage: bool,
    ) -> Result<Answered, Stop> {
        let closing = self.closing();
        let mut outlet = Streamed::begin(exchange, reply)?;
        if !self.text.is_empty() || self.logprobs.is_some() {
            outlet.text(&self.text, self.logprobs)?;
        }
        outlet.finish(closing, include_usage.then_some(self.answered.usage))?;
        Ok(self.answered)
    }
}

impl Answer<'_> {
    /// Sends it piece by piece as it comes.
    pub(super) fn stream(
        mut self,
        exchange: &mut Exchange<'_>,
        reply: &Reply,
        include_usage: bool,
    ) -> Result<Answered, Stop> {
        let prompt = self.wait_for_begin(exchange)?;
        let mut outlet = Streamed::begin(exchange, reply)?;
        let ending = match self.follow(&mut outlet) {
            Ok(ending) => ending,
            Err(stop) => return Err(outlet.break_off(stop)),
        };
        let answered = self.answered(ending, prompt);
        let closing = Closing {
            finish: ending.name(),
            probability: self.score.exp(),
            closer_look: None,
        };
        outlet.finish(closing, include_usage.then_some(answered.usage))?;
        Ok(answered)
    }

    /// Waits for all of it.
    pub(super) fn collect(mut self, exchange: &mut Exchange<'_>) -> Result<Said, Stop> {
        let prompt = self.wait_for_begin(exchange)?;
        let mut outlet = Collected::new(exchange, self.asked.logprobs);
        let ending = self.follow(&mut outlet)?;
        let (text, logprobs) = outlet.into_parts();
        Ok(Said {
            text,
            logprobs,
            score: self.score,
            closer_look: None,
            answered: self.answered(ending, prompt),
        })
    }

    fn answered(&self, ending: Ending, prompt: usize) -> Answered {
        Answered {
            ending,
            usage: Usage {
                prompt,
                answer: self.tokens,
            },
            first_token: self.first_token,
        }
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
    fn follow(&mut self, outlet: &mut dyn Outlet) -> Result<Ending, Stop> {
        let asked = self.asked;
        let assistant = &asked.loaded.engine.assistant;
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
                            .get_or_insert_with(|| asked.arrived.elapsed());
                        self.tokens += 1;
                        self.score += f64::from(log_probability);
                        if let Some(text) = stream.push(id).map_err(failed)? {
                            piece += &self.visible.push(&text);
                        }
                        if asked.logprobs {
                            logprobs.push(logprob(assistant, id, log_probability));
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
                outlet.text(&piece, asked.logprobs.then_some(logprobs))?;
            }
            if let Some(ending) = end {
                return Ok(ending);
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
        match self.asked.loaded.engine.is_aborted() {
            true => stopping().into(),
            false => {
                Stop::Failed("the model failed while it answered this and other requests".into())
            }
        }
    }
}

impl Drop for Answer<'_> {
    fn drop(&mut self) {
        self.asked.queue.leave(self.number);
    }
}

/// An entry of `logprobs`.
fn logprob(assistant: &Assistant, id: u32, log_probability: f32) -> Value {
    // Joined, the bytes are the text also where a character is spread over tokens.
    let bytes = assistant.tokenizer().token_bytes(id);
    json!({
        "token": String::from_utf8_lossy(&bytes),
        "logprob": log_probability,
        "bytes": bytes,
        "top_logprobs": [],
    })
}
