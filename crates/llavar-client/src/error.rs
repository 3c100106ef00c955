//! What can go wrong, by class.

use std::time::Duration;

/// Why a request has no answer. Texts of the server are shortened and hold no key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// An address that is none.
    #[error("endpoint `{text}`: {reason}")]
    BadEndpoint {
        /// What was given.
        text: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// A key that cannot be sent.
    #[error("the key in ${variable} cannot be used: {reason}")]
    BadKey {
        /// The environment variable.
        variable: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// Certificates of one's own that cannot be read.
    #[error("{}: {reason}", path.display())]
    Certificates {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The key is missing, wrong, or may not do this (401, 403).
    #[error("the server refuses the key ({status}): {message}")]
    Auth {
        /// HTTP status.
        status: u16,
        /// What the server says.
        message: String,
    },
    /// There is no such model or path (404).
    #[error("not found at {url}: {message}")]
    NotFound {
        /// The address asked.
        url: String,
        /// What the server says.
        message: String,
    },
    /// Too many requests (429).
    #[error("the server asks to slow down (429): {message}")]
    RateLimit {
        /// How long the server says to wait.
        retry_after: Option<Duration>,
        /// What the server says.
        message: String,
    },
    /// The account has no money or quota left; waiting does not help.
    #[error("the account's quota is used up: {message}")]
    Quota {
        /// What the server says.
        message: String,
    },
    /// The server failed (5xx, 408, 409, 425).
    #[error("the server failed ({status}): {message}")]
    Server {
        /// HTTP status.
        status: u16,
        /// How long the server says to wait.
        retry_after: Option<Duration>,
        /// What the server says.
        message: String,
    },
    /// The server does not take this request (other 4xx, redirects).
    #[error("the server refuses the request ({status}): {message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// What the server says.
        message: String,
    },
    /// The request is longer than the model's context.
    #[error("the request is longer than the model's context: {message}")]
    ContextLength {
        /// What the server says.
        message: String,
    },
    /// The server did not answer in time.
    #[error("no answer in time: {what}")]
    TimeOut {
        /// What was waited for.
        what: &'static str,
    },
    /// There is no connection.
    #[error("cannot reach {url}: {reason}")]
    Connect {
        /// The address.
        url: String,
        /// What the system says.
        reason: String,
    },
    /// The connection ended inside the answer.
    #[error("the answer was cut off after {received} bytes")]
    CutBody {
        /// Bytes that came.
        received: usize,
    },
    /// An answer larger than the limit.
    #[error("the answer has more than {limit} bytes")]
    TooLarge {
        /// Bytes.
        limit: usize,
    },
    /// An answer that is not what the interface says.
    #[error("the answer is not what the interface says: {reason}; it begins: {excerpt}")]
    Malformed {
        /// What is wrong.
        reason: String,
        /// The first characters.
        excerpt: String,
    },
    /// An answer without choices.
    #[error("the answer has no text (choices are empty)")]
    EmptyChoices,
    /// An answer whose text is empty, where there has to be one.
    #[error("the answer is empty")]
    EmptyText,
    /// The server answers, but not with what was asked for.
    #[error("the server gives no {what}")]
    Unsupported {
        /// What is missing.
        what: &'static str,
    },
    /// The model or a filter of the server declines.
    #[error("the server declines: {reason}")]
    Filtered {
        /// What it says.
        reason: String,
    },
    /// The caller's stop flag was set.
    #[error("stopped")]
    Cancelled,
    /// All attempts failed.
    #[error("gave up after {attempts} attempts in {:.0} s: {source}", elapsed.as_secs_f64())]
    GaveUp {
        /// Requests that were sent.
        attempts: u32,
        /// Since the first.
        elapsed: Duration,
        /// Why the last failed.
        source: Box<ClientError>,
    },
}

/// Classes of [`ClientError`], for logs and counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ErrorClass {
    /// Wrong address, key or certificate on our side.
    Setup,
    /// The key is refused.
    Auth,
    /// No such model or path.
    NotFound,
    /// Slow down.
    RateLimit,
    /// No quota left.
    Quota,
    /// The server failed.
    Server,
    /// The request is refused.
    Refused,
    /// Too long for the model.
    ContextLength,
    /// No answer in time.
    TimeOut,
    /// No connection.
    Connect,
    /// Cut off.
    CutBody,
    /// Too large.
    TooLarge,
    /// Not what the interface says.
    Malformed,
    /// No choices.
    EmptyChoices,
    /// No text.
    EmptyText,
    /// It cannot do this.
    Unsupported,
    /// Declined.
    Filtered,
    /// Stopped by the caller.
    Cancelled,
}

impl ErrorClass {
    /// The name in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Setup => "setup",
            Self::Auth => "auth",
            Self::NotFound => "not_found",
            Self::RateLimit => "rate_limit",
            Self::Quota => "quota",
            Self::Server => "server",
            Self::Refused => "refused",
            Self::ContextLength => "context_length",
            Self::TimeOut => "time_out",
            Self::Connect => "connect",
            Self::CutBody => "cut_body",
            Self::TooLarge => "too_large",
            Self::Malformed => "malformed",
            Self::EmptyChoices => "empty_choices",
            Self::EmptyText => "empty_text",
            Self::Unsupported => "unsupported",
            Self::Filtered => "filtered",
            Self::Cancelled => "cancelled",
        }
    }
}

impl ClientError {
    /// The class; that of the last attempt for [`ClientError::GaveUp`].
    pub fn class(&self) -> ErrorClass {
        use ErrorClass as C;
        match self {
            Self::BadEndpoint { .. } | Self::BadKey { .. } | Self::Certificates { .. } => C::Setup,
            Self::Auth { .. } => C::Auth,
            Self::NotFound { .. } => C::NotFound,
            Self::RateLimit { .. } => C::RateLimit,
            Self::Quota { .. } => C::Quota,
            Self::Server { .. } => C::Server,
            Self::Refused { .. } => C::Refused,
            Self::ContextLength { .. } => C::ContextLength,
            Self::TimeOut { .. } => C::TimeOut,
            Self::Connect { .. } => C::Connect,
            Self::CutBody { .. } => C::CutBody,
            Self::TooLarge { .. } => C::TooLarge,
            Self::Malformed { .. } => C::Malformed,
            Self::EmptyChoices => C::EmptyChoices,
            Self::EmptyText => C::EmptyText,
            Self::Unsupported { .. } => C::Unsupported,
            Self::Filtered { .. } => C::Filtered,
            Self::Cancelled => C::Cancelled,
            Self::GaveUp { source, .. } => source.class(),
        }
    }

    /// Whether the same request may succeed later.
    pub fn is_transient(&self) -> bool {
        use ErrorClass as C;
        matches!(
            self.class(),
            C::RateLimit
                | C::Server
                | C::TimeOut
                | C::Connect
                | C::CutBody
                | C::Malformed
                | C::EmptyChoices
                | C::EmptyText
        )
    }

    /// Whether every other request would fail alike: the work should stop.
    pub fn is_fatal(&self) -> bool {
        use ErrorClass as C;
        matches!(
            self.class(),
            C::Setup | C::Auth | C::NotFound | C::Quota | C::Unsupported | C::Cancelled
        )
    }

    /// Whether the server may have done (and charged) the work all the same.
    pub fn may_be_charged(&self) -> bool {
        use ErrorClass as C;
        matches!(
            self.class(),
            C::TimeOut
                | C::CutBody
                | C::TooLarge
                | C::Malformed
                | C::EmptyChoices
                | C::EmptyText
                | C::Unsupported
                | C::Filtered
                | C::Server
        )
    }

    /// How long the server says to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimit { retry_after, .. } | Self::Server { retry_after, .. } => *retry_after,
            Self::GaveUp { source, .. } => source.retry_after(),
            _ => None,
        }
    }
}
