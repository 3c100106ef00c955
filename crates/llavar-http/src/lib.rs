//! As much of HTTP/1.1 as the servers of this program need, on threads and blocking sockets.
//!
//! | Start here | For |
//! |---|---|
//! | [`Socket`] | an address, then a [`Listener`] there with a [`Handler`] that answers |
//! | [`Exchange`] | a request, read as far as is asked for, and its [`Response`] or [`EventStream`] |
//! | [`HttpLimits`] | what clients may take |
//!
//! A connection has a thread. Everything that a client decides is bounded: bytes of head and body, the time
//! that it takes to send them and to take the answer, connections at once, and the bytes of all bodies
//! together.

#![forbid(unsafe_code)]

mod body;
mod connection;
mod exchange;
mod head;
mod listener;
mod response;

#[cfg(test)]
mod tests;

use std::time::Duration;

pub use body::{Body, Lease};
pub use exchange::{EventStream, Exchange};
pub use head::Head;
pub use listener::{Handler, Listener, Socket};
pub use response::Response;

/// What clients may take.
#[derive(Debug, Clone)]
pub struct HttpLimits {
    /// Bytes of a request's first line and headers.
    pub head_bytes: usize,
    /// Bytes of a request's body.
    pub body_bytes: usize,
    /// Bytes of all bodies that are being read or worked on.
    pub all_body_bytes: usize,
    /// Connections at once.
    pub connections: usize,
    /// How long a connection may wait for its next request.
    pub idle: Duration,
    /// From the first byte of a head to its last.
    pub head_time: Duration,
    /// From the first byte of a body to its last.
    pub body_time: Duration,
    /// From the first byte of an answer, or of a piece of a streamed one, to its last.
    pub write_time: Duration,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            head_bytes: 32 << 10,
            body_bytes: 64 << 20,
            all_body_bytes: 512 << 20,
            connections: 256,
            idle: Duration::from_secs(60),
            head_time: Duration::from_secs(15),
            body_time: Duration::from_secs(120),
            write_time: Duration::from_secs(30),
        }
    }
}

/// Why a request could not be read.
#[derive(Debug)]
pub enum ReadFault {
    /// The client has gone, or its connection broke.
    Gone,
    /// It is told why.
    Refused {
        /// HTTP status.
        status: u16,
        /// For the client.
        message: String,
    },
}

impl ReadFault {
    pub(crate) fn refused(status: u16, message: impl Into<String>) -> Self {
        let message = message.into();
        Self::Refused { status, message }
    }
}
