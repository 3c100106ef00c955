//! The body of a request, within its limits.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Instant,
};

use crate::{HttpLimits, ReadFault, connection::Connection, head::Framing};

/// Bytes of the line before a chunk, at most.
const CHUNK_LINE: usize = 256;

/// Bytes of the headers behind the last chunk, at most.
const TRAILERS: usize = 8 << 10;

/// Bytes that all bodies together may have.
#[derive(Debug)]
pub(crate) struct Budget {
    left: AtomicUsize,
}

impl Budget {
    pub(crate) fn new(bytes: usize) -> Arc<Self> {
        let left = AtomicUsize::new(bytes);
        Arc::new(Self { left })
    }

    /// Takes `bytes` more; where there is no room, gives back the `held` ones in the same moment, so that of bodies
    /// that come together one is refused and not all.
    fn take(&self, bytes: usize, held: usize) -> bool {
        let mut fits = false;
        // Never an error: there is always a new value.
        let _ = self.left.fetch_update(SeqCst, SeqCst, |left| {
            let less = left.checked_sub(bytes);
            fits = less.is_some();
            Some(less.unwrap_or(left + held))
        });
        fits
    }
}

/// Bytes that count as long as this lives.
#[derive(Debug)]
pub struct Lease {
    budget: Arc<Budget>,
    counted: usize,
}

impl Lease {
    /// Counts `new` bytes more; a refusal ends the lease.
    fn count(&mut self, new: usize) -> Result<(), ReadFault> {
        if !self.budget.take(new, self.counted) {
            self.counted = 0;
            let message = "too many large requests at once; try again";
            return Err(ReadFault::refused(503, message));
        }
        self.counted += new;
        Ok(())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.budget.left.fetch_add(self.counted, SeqCst);
    }
}

/// The bytes of a body.
#[derive(Debug)]
pub struct Body {
    bytes: Vec<u8>,
    lease: Lease,
}

impl Body {
    fn new(budget: &Arc<Budget>) -> Self {
        Self {
            bytes: Vec::new(),
            lease: Lease {
                budget: budget.clone(),
                counted: 0,
            },
        }
    }

    /// The bytes, and the lease on them: what is made of them may be as large.
    pub fn into_parts(self) -> (Vec<u8>, Lease) {
        (self.bytes, self.lease)
    }

    /// Counts what has come.
    fn count(&mut self) -> Result<(), ReadFault> {
        self.lease.count(self.bytes.len() - self.lease.counted)
    }

    /// Reads a body.
    pub(crate) fn read(
        connection: &mut Connection,
        framing: Framing,
        limits: &HttpLimits,
        budget: &Arc<Budget>,
    ) -> Result<Self, ReadFault> {
        let mut body = Self::new(budget);
        let by = Instant::now() + limits.body_time;
        match framing {
            Framing::None => {}
            Framing::Length(length) => {
                let length = fitting(length, limits)?;
                while body.bytes.len() < length {
                    if connection.unused().is_empty() {
                        connection.more(by, "the body of the request")?;
                    }
                    connection.take(length - body.bytes.len(), &mut body.bytes);
                    body.count()?;
                }
            }
            Framing::Chunked => body.read_chunks(connection, limits, by)?,
        }
        Ok(body)
    }

    fn read_chunks(
        &mut self,
        connection: &mut Connection,
        limits: &HttpLimits,
        by: Instant,
    ) -> Result<(), ReadFault> {
        loop {
            let size = chunk_size(connection, by)?;
            if size == 0 {
                return skip_trailers(connection, by);
            }
            let end = fitting(size.saturating_add(self.bytes.len() as u64), limits)?;
            while self.bytes.len() < end {
                if connection.unused().is_empty() {
                    connection.more(by, "a chunk")?;
                }
                connection.take(end - self.bytes.len(), &mut self.bytes);
                self.count()?;
            }
            while connection.unused().len() < 2 {
                connection.more(by, "a chunk")?;
            }
            if !connection.unused().starts_with(b"\r\n") {
                return Err(ReadFault::refused(400, "a chunk is longer than it says"));
            }
            connection.skip(2);
        }
    }
}

/// A length within the limit.
fn fitting(length: u64, limits: &HttpLimits) -> Result<usize, ReadFault> {
    let fits = usize::try_from(length).ok();
    fits.filter(|length| *length <= limits.body_bytes)
        .ok_or_else(|| {
            let mib = limits.body_bytes as f64 / f64::from(1 << 20);
            let message = format!("a request's body may have {mib} MiB");
            ReadFault::refused(413, message)
        })
}

/// Reads the line before a chunk.
fn chunk_size(connection: &mut Connection, by: Instant) -> Result<u64, ReadFault> {
    let bad = || ReadFault::refused(400, "the size of a chunk is no number");
    loop {
        let line = connection.unused();
        let line = &line[..line.len().min(CHUNK_LINE)];
        match httparse::parse_chunk_size(line) {
            Ok(httparse::Status::Complete((read, size))) => {
                connection.skip(read);
                return Ok(size);
            }
            Ok(httparse::Status::Partial) if line.len() < CHUNK_LINE => {
                connection.more(by, "the size of a chunk")?;
            }
            Ok(httparse::Status::Partial) | Err(_) => return Err(bad()),
        }
    }
}

/// Reads headers behind the body, which say nothing here, and the empty line after them.
fn skip_trailers(connection: &mut Connection, by: Instant) -> Result<(), ReadFault> {
    let mut seen = 0;
    loop {
        let line_end = connection.unused().iter().position(|byte| *byte == b'\n');
        let Some(end) = line_end else {
            if seen + connection.unused().len() > TRAILERS {
                return Err(ReadFault::refused(431, "the trailers are too long"));
            }
            connection.more(by, "the end of the body")?;
            continue;
        };
        let is_last = matches!(&connection.unused()[..end], b"" | b"\r");
        connection.skip(end + 1);
        seen += end + 1;
        if is_last {
            return Ok(());
        }
        if seen > TRAILERS {
            return Err(ReadFault::refused(431, "the trailers are too long"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_bodies_that_come_together_one_has_the_room() {
        let budget = Budget::new(4);
        let lease = || Lease {
            budget: budget.clone(),
            counted: 0,
        };
        let (mut first, mut second) = (lease(), lease());
        for _ in 0..2 {
            first.count(1).unwrap();
            second.count(1).unwrap();
        }
        assert!(first.count(1).is_err());
        // While the one that was refused still stands.
        second.count(2).unwrap();
        assert!(second.count(1).is_err());
        drop((first, second));
        assert_eq!(budget.left.load(SeqCst), 4, "all was given back once");
    }
}
