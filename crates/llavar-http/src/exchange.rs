//! One request and its answer.

use std::{io, sync::Arc, time::Instant};

use crate::{
    Body, Head, HttpLimits, ReadFault, Response,
    body::Budget,
    connection::Connection,
    head::Framing,
    response::{Extra, stream_head},
};

/// A request whose body may be unread, and which wants an answer.
pub struct Exchange<'c> {
    /// Its first line and headers.
    pub head: &'c Head,
    connection: &'c mut Connection,
    limits: &'c HttpLimits,
    budget: &'c Arc<Budget>,
    /// Connections that are open.
    pub connections: usize,
    extra: Vec<Extra>,
    /// Whether no byte of the body is left.
    body_is_read: bool,
    /// Whether the connection ends with this answer.
    closes: bool,
    has_answered: bool,
    /// Whether the client was found to have gone.
    is_gone: bool,
}

impl<'c> Exchange<'c> {
    /// `connections`: how many are open. With `closes` the server is about to end.
    pub(crate) fn new(
        connection: &'c mut Connection,
        head: &'c Head,
        (limits, budget): (&'c HttpLimits, &'c Arc<Budget>),
        connections: usize,
        closes: bool,
    ) -> Self {
        Self {
            closes: closes || !head.keeps_alive(),
            connections,
            body_is_read: head.framing == Framing::None,
            head,
            connection,
            limits,
            budget,
            extra: Vec::new(),
            has_answered: false,
            is_gone: false,
        }
    }

    /// A header for whatever is answered.
    pub fn add_header(&mut self, name: &'static str, value: String) {
        self.extra.push((name, value));
    }

    /// Reads the body.
    pub fn body(&mut self) -> Result<Body, ReadFault> {
        let body = self.read_body();
        self.is_gone |= matches!(body, Err(ReadFault::Gone));
        body
    }

    fn read_body(&mut self) -> Result<Body, ReadFault> {
        let fits = match self.head.framing {
            Framing::Length(length) => length <= self.limits.body_bytes as u64,
            Framing::None | Framing::Chunked => true,
        };
        if fits && self.head.expects_continue() && self.connection.unused().is_empty() {
            let by = Instant::now() + self.limits.write_time;
            let go_on = b"HTTP/1.1 100 Continue\r\n\r\n";
            let told = self.connection.wire.write_by(go_on, by);
            told.map_err(|_| ReadFault::Gone)?;
        }
        let body = Body::read(self.connection, self.head.framing, self.limits, self.budget)?;
        self.body_is_read = true;
        Ok(body)
    }

    /// Whether the request says that it has a body.
    pub fn has_body(&self) -> bool {
        self.head.framing != Framing::None
    }

    /// Sends an answer.
    pub fn respond(&mut self, response: &Response) -> io::Result<()> {
        // What is left of the body would be read as the next request.
        self.closes |= !self.body_is_read;
        self.has_answered = true;
        let bytes = response.bytes(Some(self.head), &self.extra, self.closes);
        let by = Instant::now() + self.limits.write_time;
        let written = self.connection.wire.write_by(&bytes, by);
        self.closes |= written.is_err();
        written
    }

    /// Begins an answer in pieces.
    pub fn stream(&mut self) -> io::Result<EventStream<'_, 'c>> {
        let chunked = self.head.is_1_1;
        self.closes |= !self.body_is_read || !chunked;
        self.has_answered = true;
        let head = stream_head(&self.extra, chunked, self.closes);
        let mut stream = EventStream {
            exchange: self,
            chunked,
        };
        stream.write(&head)?;
        Ok(stream)
    }

    /// Whether the client is known to have gone. One that says that it will send no more cannot be told from one
    /// that has gone, and counts as such. After that a request may be left without an answer.
    pub fn client_is_gone(&mut self) -> bool {
        self.is_gone |= self.connection.wire.is_gone();
        self.is_gone
    }

    /// Whether the client was found to have gone.
    pub(crate) fn was_gone(&self) -> bool {
        self.is_gone
    }

    /// Whether another request may follow.
    pub(crate) fn is_open(&self) -> bool {
        self.has_answered && !self.closes
    }

    /// Whether an answer was sent, or begun.
    pub fn has_answered(&self) -> bool {
        self.has_answered
    }
}

/// Server-sent events.
pub struct EventStream<'e, 'c> {
    exchange: &'e mut Exchange<'c>,
    chunked: bool,
}

impl EventStream<'_, '_> {
    /// Sends events of these data, each one line, in one piece.
    pub fn send<'t>(&mut self, data: impl IntoIterator<Item = &'t str>) -> io::Result<()> {
        let events: String = data
            .into_iter()
            .map(|data| format!("data: {data}\n\n"))
            .collect();
        if events.is_empty() {
            return Ok(());
        }
        match self.chunked {
            true => self.write(format!("{:x}\r\n{events}\r\n", events.len()).as_bytes()),
            false => self.write(events.as_bytes()),
        }
    }

    /// Whether the client is known to have gone.
    pub fn client_is_gone(&mut self) -> bool {
        self.exchange.client_is_gone()
    }

    /// Ends the answer.
    pub fn finish(mut self) -> io::Result<()> {
        match self.chunked {
            true => self.write(b"0\r\n\r\n"),
            false => Ok(()),
        }
    }

    /// Ends the connection in the middle of the answer, so that nobody takes it for a whole one.
    pub fn break_off(self) {
        self.exchange.closes = true;
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let by = Instant::now() + self.exchange.limits.write_time;
        let written = self.exchange.connection.wire.write_by(bytes, by);
        self.exchange.closes |= written.is_err();
        written
    }
}
