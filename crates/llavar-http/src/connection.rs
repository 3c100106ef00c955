//! Bytes of a connection: what was read and is not used yet, and deadlines on everything.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use crate::{Head, HttpLimits, ReadFault};

/// How often a connection that waits looks whether the server ends.
pub(crate) const LOOK: Duration = Duration::from_millis(200);

/// How long what has begun to come may still take once the server ends.
const LAST: Duration = Duration::from_millis(500);

/// Bytes that are read at once.
const PIECE: usize = 64 << 10;

/// Heads up to this size are looked at with every piece, so that what is no HTTP is told so at once.
const EARLY: usize = 2 << 10;

/// Two ways of bytes with deadlines.
pub(crate) trait Wire: Send {
    /// Reads some bytes, 0 at the end; [`ErrorKind::TimedOut`] after the deadline.
    fn read_by(&mut self, into: &mut [u8], by: Instant) -> io::Result<usize>;

    /// Writes all bytes; [`ErrorKind::TimedOut`] after the deadline.
    fn write_by(&mut self, bytes: &[u8], by: Instant) -> io::Result<()>;

    /// Whether the client is known to have gone.
    fn is_gone(&mut self) -> bool;

    /// Says that nothing more will be written.
    fn end(&mut self);
}

/// The longest wait of one call.
fn until(by: Instant) -> io::Result<Option<Duration>> {
    let left = by.saturating_duration_since(Instant::now());
    match left.is_zero() {
        true => Err(ErrorKind::TimedOut.into()),
        // A socket takes no time of less than a microsecond.
        false => Ok(Some(left.max(Duration::from_millis(1)))),
    }
}

impl Wire for TcpStream {
    fn read_by(&mut self, into: &mut [u8], by: Instant) -> io::Result<usize> {
        loop {
            self.set_read_timeout(until(by)?)?;
            match self.read(into) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return Err(ErrorKind::TimedOut.into());
                }
                read => return read,
            }
        }
    }

    fn write_by(&mut self, mut bytes: &[u8], by: Instant) -> io::Result<()> {
        while !bytes.is_empty() {
            self.set_write_timeout(until(by)?)?;
            match self.write(bytes) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return Err(ErrorKind::TimedOut.into());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn is_gone(&mut self) -> bool {
        if self.set_nonblocking(true).is_err() {
            return true;
        }
        let peeked = self.peek(&mut [0]);
        let blocking = self.set_nonblocking(false);
        match peeked {
            Ok(0) => true,
            Ok(_) => blocking.is_err(),
            Err(error) => error.kind() != ErrorKind::WouldBlock,
        }
    }

    fn end(&mut self) {
        let _ = self.shutdown(std::net::Shutdown::Write);
    }
}

/// A connection with what was read and is not used yet.
pub(crate) struct Connection {
    pub(crate) wire: Box<dyn Wire>,
    unused: Vec<u8>,
    /// Whether the server ends.
    ending: Arc<AtomicBool>,
    /// Until when a request has to be here, from the moment that the end was seen.
    last: Option<Instant>,
}

impl Connection {
    /// With `ending` the server says that it ends.
    pub(crate) fn new(wire: impl Wire + 'static, ending: Arc<AtomicBool>) -> Self {
        Self {
            wire: Box::new(wire),
            unused: Vec::new(),
            ending,
            last: None,
        }
    }

    /// Whether a request has begun to arrive, waiting for it until the deadline.
    pub(crate) fn has_begun(&mut self, by: Instant) -> io::Result<bool> {
        if !self.unused.is_empty() {
            return Ok(true);
        }
        Ok(self.fill(by)? > 0)
    }

    /// Reads a head that has begun.
    pub(crate) fn head(&mut self, limits: &HttpLimits) -> Result<Head, ReadFault> {
        let by = Instant::now() + limits.head_time;
        let mut looked_at = 0;
        loop {
            let from = looked_at.min(self.unused.len());
            if self.unused.len() <= EARLY || ends(&self.unused[from..]) {
                // A head that is too long is no better for being whole.
                let seen = &self.unused[..self.unused.len().min(limits.head_bytes)];
                if let Some((head, size)) = Head::parse(seen)? {
                    self.unused.drain(..size);
                    return Ok(head);
                }
            }
            if self.unused.len() >= limits.head_bytes {
                let message = format!("head of a request: {} bytes at most", limits.head_bytes);
                return Err(ReadFault::refused(431, message));
            }
            looked_at = self.unused.len().saturating_sub(3);
            self.more(by, "the head of the request")?;
        }
    }

    /// Reads more bytes of something that is not complete. A server that ends does not wait for the rest: who has
    /// stopped sending would hold it up.
    pub(crate) fn more(&mut self, by: Instant, what: &str) -> Result<(), ReadFault> {
        loop {
            if self.ending.load(SeqCst) && self.last.is_none() {
                self.last = Some(Instant::now() + LAST);
            }
            let until = self.last.map_or(by, |last| last.min(by));
            match self.fill(until.min(Instant::now() + LOOK)) {
                Ok(0) => {
                    let message = format!("{what} ends in its middle");
                    return Err(ReadFault::refused(400, message));
                }
                Ok(_) => return Ok(()),
                Err(error) if error.kind() != ErrorKind::TimedOut => return Err(ReadFault::Gone),
                Err(_) if Instant::now() < until => {}
                Err(_) if self.last.is_some() => {
                    return Err(ReadFault::refused(503, "the server is stopping"));
                }
                Err(_) => {
                    let message = format!("{what} did not come in time");
                    return Err(ReadFault::refused(408, message));
                }
            }
        }
    }

    fn fill(&mut self, by: Instant) -> io::Result<usize> {
        let held = self.unused.len();
        self.unused.resize(held + PIECE, 0);
        let read = self.wire.read_by(&mut self.unused[held..], by);
        self.unused.truncate(held + *read.as_ref().unwrap_or(&0));
        read
    }

    /// What was read and is not used yet.
    pub(crate) fn unused(&self) -> &[u8] {
        &self.unused
    }

    /// Takes the first `count` bytes, or as many as there are, to the end of `into`.
    pub(crate) fn take(&mut self, count: usize, into: &mut Vec<u8>) {
        into.extend(self.unused.drain(..count.min(self.unused.len())));
    }

    /// Leaves out the first `count` bytes.
    pub(crate) fn skip(&mut self, count: usize) {
        self.unused.drain(..count);
    }

    /// Says good-bye to a client that may still be sending: closing at once would throw away the answer on
    /// its way.
    pub(crate) fn close(mut self) {
        self.wire.end();
        let seconds = if self.ending.load(SeqCst) { 1 } else { 2 };
        let by = Instant::now() + Duration::from_secs(seconds);
        let mut rest = vec![0; PIECE];
        while self.wire.read_by(&mut rest, by).is_ok_and(|n| n > 0) {}
    }
}

fn ends(bytes: &[u8]) -> bool {
    let blank = |end: &[u8]| bytes.windows(end.len()).any(|seen| seen == end);
    blank(b"\n\r\n") || blank(b"\n\n")
}
