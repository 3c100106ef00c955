//! Where the text of an answer goes: into one document at its end, or out in pieces.

use std::io;

use serde_json::Value;

use super::Stop;
use llavar_http::{EventStream, Exchange};

use crate::wire::{ApiError, Closing, Reply, Usage};

/// Takes an answer piece by piece.
pub(super) trait Outlet {
    /// Takes text, and the entries of its tokens where they are wanted.
    fn text(&mut self, piece: &str, logprobs: Option<Vec<Value>>) -> io::Result<()>;

    /// Whether the client is known to have gone.
    fn client_is_gone(&mut self) -> bool;
}

/// An answer that is kept until its end.
pub(super) struct Collected<'e, 'c> {
    exchange: &'e mut Exchange<'c>,
    text: String,
    logprobs: Option<Vec<Value>>,
}

impl<'e, 'c> Collected<'e, 'c> {
    pub(super) fn new(exchange: &'e mut Exchange<'c>, logprobs: bool) -> Self {
        Self {
            exchange,
            text: String::new(),
            logprobs: logprobs.then(Vec::new),
        }
    }

    pub(super) fn into_parts(self) -> (String, Option<Vec<Value>>) {
        (self.text, self.logprobs)
    }
}

impl Outlet for Collected<'_, '_> {
    fn text(&mut self, piece: &str, logprobs: Option<Vec<Value>>) -> io::Result<()> {
        self.text.push_str(piece);
        if let (Some(all), Some(new)) = (&mut self.logprobs, logprobs) {
            all.extend(new);
        }
        Ok(())
    }

    fn client_is_gone(&mut self) -> bool {
        self.exchange.client_is_gone()
    }
}

/// An answer in pieces, as server-sent events.
pub(super) struct Streamed<'e, 'c> {
    stream: EventStream<'e, 'c>,
    reply: &'e Reply,
}

impl<'e, 'c> Streamed<'e, 'c> {
    pub(super) fn begin(exchange: &'e mut Exchange<'c>, reply: &'e Reply) -> io::Result<Self> {
        let mut stream = exchange.stream()?;
        stream.send([reply.first().to_string().as_str()])?;
        Ok(Self { stream, reply })
    }

    pub(super) fn finish(mut self, closing: Closing, usage: Option<Usage>) -> io::Result<()> {
        let last = self.reply.last(closing).to_string();
        let usage = usage.map(|usage| self.reply.usage(usage).to_string());
        let end = [Some(last.as_str()), usage.as_deref(), Some("[DONE]")];
        self.stream.send(end.into_iter().flatten())?;
        self.stream.finish()
    }

    /// Tells the client that no more will come, as far as it can still be told.
    pub(super) fn break_off(mut self, stop: Stop) -> Stop {
        let error = match &stop {
            Stop::Gone => None,
            Stop::Refused(error) => Some(error.clone()),
            Stop::Failed(_) => Some(ApiError::internal()),
        };
        if let Some(error) = error {
            let _ = self.stream.send([error.to_json().to_string().as_str()]);
        }
        self.stream.break_off();
        stop
    }
}

impl Outlet for Streamed<'_, '_> {
    fn text(&mut self, piece: &str, logprobs: Option<Vec<Value>>) -> io::Result<()> {
        let piece = self.reply.text(piece, logprobs).to_string();
        self.stream.send([piece.as_str()])
    }

    fn client_is_gone(&mut self) -> bool {
        self.stream.client_is_gone()
    }
}
