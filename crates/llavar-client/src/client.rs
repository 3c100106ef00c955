//! Sending with retries.

use std::{
    ops::ControlFlow,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    ApiKey, ChatAnswer, ChatRequest, ChatScores, ClientError, CompletionAnswer, CompletionRequest,
    Endpoint, Limiter, RetryPolicy, TimeOuts, Usage,
    classify::{malformed, usage_of},
    dialect::Dialect,
    retry::sleep,
    transport::Transport,
};

/// How to reach a server.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// Where it is.
    pub endpoint: Endpoint,
    /// Its key, if it wants one.
    pub key: Option<ApiKey>,
    /// Limits of one attempt.
    pub time_outs: TimeOuts,
    /// When to try again.
    pub retries: RetryPolicy,
    /// Requests at once, at most.
    pub max_concurrency: usize,
    /// Longest answer, bytes.
    pub max_body: usize,
    /// Once set no further request is sent. One that is under way is waited for: it is paid for.
    pub cancel: Option<Arc<AtomicBool>>,
    /// Certificates (PEM) to trust instead of Mozilla's, for servers of one's own.
    pub certificates: Option<PathBuf>,
}

impl ClientOptions {
    /// The usual limits: 16 requests at once, answers up to 16 MiB.
    pub fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            key: None,
            time_outs: TimeOuts::default(),
            retries: RetryPolicy::default(),
            max_concurrency: 16,
            max_body: 16 << 20,
            cancel: None,
            certificates: None,
        }
    }
}

/// An attempt that failed, for logs and ledgers.
#[derive(Debug)]
pub struct Attempt<'a> {
    /// From 1.
    pub number: u32,
    /// Why it failed.
    pub error: &'a ClientError,
    /// Tokens, where the server counted them all the same.
    pub usage: Option<Usage>,
    /// Whether it will be tried again, and after how long.
    pub retry_in: Option<Duration>,
}

/// A server. Threads share it.
#[derive(Debug)]
pub struct Client {
    options: ClientOptions,
    transport: Transport,
    limiter: Limiter,
    dialect: Mutex<Dialect>,
}

/// What one attempt gave.
type Tried<T> = Result<T, (ClientError, Option<Usage>)>;

impl Client {
    /// A client; nothing is sent yet.
    ///
    /// # Errors
    /// [`ClientError::Certificates`].
    pub fn new(options: ClientOptions) -> Result<Self, ClientError> {
        Ok(Self {
            transport: Transport::new(
                &options.time_outs,
                options.max_body,
                options.certificates.as_deref(),
            )?,
            limiter: Limiter::new(options.max_concurrency),
            dialect: Mutex::default(),
            options,
        })
    }

    /// Where it sends to.
    pub fn endpoint(&self) -> &Endpoint {
        &self.options.endpoint
    }

    /// How many requests run at once at present.
    pub fn limiter(&self) -> &Limiter {
        &self.limiter
    }

    /// One answer to a conversation.
    ///
    /// # Errors
    /// [`ClientError::GaveUp`] after retries, other classes at once.
    pub fn chat(&self, request: &ChatRequest) -> Result<ChatAnswer, ClientError> {
        self.chat_watched(request, &mut |_| ControlFlow::Continue(()))
    }

    /// [`Client::chat`]; every attempt that failed is shown to `watch`, which says whether the next is made.
    ///
    /// # Errors
    /// As there; where `watch` breaks off, the error of the attempt that it was shown.
    pub fn chat_watched(
        &self,
        request: &ChatRequest,
        watch: &mut dyn FnMut(&Attempt<'_>) -> ControlFlow<()>,
    ) -> Result<ChatAnswer, ClientError> {
        let begun = Instant::now();
        let key = request.idempotency_key.as_deref();
        let (mut answer, attempts) = self.retried(watch, &|repeat| {
            let key = key.map(|key| numbered(key, repeat));
            let make = |dialect: &Dialect| request.body(dialect);
            let (value, dialect) = self.in_dialect("chat/completions", key.as_deref(), &make)?;
            let usage = usage_of(&value);
            ChatAnswer::from_json(&value, dialect.format, request.may_be_empty)
                .map_err(|error| (error, usage))
        })?;
        answer.attempts = attempts;
        answer.seconds = begun.elapsed().as_secs_f64();
        Ok(answer)
    }

    /// A text that goes on, or the scores of one.
    ///
    /// # Errors
    /// As [`Client::chat`]; [`ClientError::Malformed`] where scores were asked for and the server gives none.
    pub fn complete(&self, request: &CompletionRequest) -> Result<CompletionAnswer, ClientError> {
        let key = request.idempotency_key.as_deref();
        let (mut answer, attempts) =
            self.retried(&mut |_| ControlFlow::Continue(()), &|repeat| {
                let key = key.map(|key| numbered(key, repeat));
                let make = |dialect: &Dialect| request.body(dialect);
                let (value, _) = self.in_dialect("completions", key.as_deref(), &make)?;
                let usage = usage_of(&value);
                CompletionAnswer::from_json(&value, request).map_err(|error| (error, usage))
            })?;
        answer.attempts = attempts;
        Ok(answer)
    }

    /// The scores of a conversation ([`ChatRequest::score`]).
    ///
    /// # Errors
    /// As [`Client::chat`]; [`ClientError::Unsupported`] where the server gives none.
    pub fn score_chat(&self, request: &ChatRequest) -> Result<ChatScores, ClientError> {
        let key = request.idempotency_key.as_deref();
        let (mut scores, attempts) =
            self.retried(&mut |_| ControlFlow::Continue(()), &|repeat| {
                let key = key.map(|key| numbered(key, repeat));
                let make = |dialect: &Dialect| request.body(dialect);
                let (value, _) = self.in_dialect("chat/completions", key.as_deref(), &make)?;
                ChatScores::from_json(&value).map_err(|error| (error, usage_of(&value)))
            })?;
        scores.attempts = attempts;
        Ok(scores)
    }

    /// Names of the models on the server.
    ///
    /// # Errors
    /// As [`Client::chat`].
    pub fn models(&self) -> Result<Vec<String>, ClientError> {
        let url = self.options.endpoint.of("models");
        let (names, _) = self.retried(&mut |_| ControlFlow::Continue(()), &|_| {
            let value = self
                .transport
                .exchange(&url, self.options.key.as_ref(), None, None)
                .map_err(|error| (error, None))?;
            let list = value.get("data").and_then(Value::as_array);
            let list = list.ok_or_else(|| {
                (
                    malformed("there is no list `data`", &value.to_string()),
                    None,
                )
            })?;
            let name = |model: &Value| Some(model.get("id")?.as_str()?.to_owned());
            Ok(list.iter().filter_map(name).collect())
        })?;
        Ok(names)
    }

    /// Sends in the form that the server is known to take, and in weaker ones where it refuses.
    fn in_dialect(
        &self,
        operation: &str,
        idempotency_key: Option<&str>,
        make: &dyn Fn(&Dialect) -> Value,
    ) -> Tried<(Value, Dialect)> {
        let url = self.options.endpoint.of(operation);
        let known = self
            .dialect
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let mut dialect = known.clone();
        loop {
            let body = make(&dialect);
            let key = self.options.key.as_ref();
            let sent = self
                .transport
                .exchange(&url, key, idempotency_key, Some(&body));
            match sent {
                Ok(value) => {
                    if dialect != known {
                        *self.dialect.lock().unwrap_or_else(PoisonError::into_inner) =
                            dialect.clone();
                    }
                    return Ok((value, dialect));
                }
                Err(ClientError::Refused { status, message }) => {
                    let next = match status {
                        400 | 415 | 422 | 501 => dialect.after_refusal(&message, &body),
                        _ => None,
                    };
                    match next {
                        Some(next) => dialect = next,
                        None => return Err((ClientError::Refused { status, message }, None)),
                    }
                }
                Err(error) => return Err((error, None)),
            }
        }
    }

    /// Runs attempts until one succeeds. An attempt gets the number of answers that came whole and were
    /// of no use: a server that keeps answers by key must not give the same again.
    fn retried<T>(
        &self,
        watch: &mut dyn FnMut(&Attempt<'_>) -> ControlFlow<()>,
        attempt: &dyn Fn(u32) -> Tried<T>,
    ) -> Result<(T, u32), ClientError> {
        let cancel = self.options.cancel.as_deref();
        let cancelled = || cancel.is_some_and(|flag| flag.load(Relaxed));
        let mut begun = None;
        let (mut number, mut useless) = (0, 0);
        loop {
            let Some(permit) = self.limiter.acquire(cancelled) else {
                return Err(ClientError::Cancelled);
            };
            // Waiting for one's turn is not the server's fault.
            let begun = *begun.get_or_insert_with(Instant::now);
            number += 1;
            let (error, usage) = match attempt(useless) {
                Ok(answer) => {
                    permit.succeeded();
                    return Ok((answer, number));
                }
                Err(failed) => failed,
            };
            useless += u32::from(matches!(
                error,
                ClientError::Malformed { .. } | ClientError::EmptyChoices | ClientError::EmptyText
            ));
            let policy = &self.options.retries;
            let retry_in = policy.wait(number + 1, &error, begun.elapsed());
            match &error {
                // A wait that outlasts this call is not laid on the others: each hears it for itself.
                ClientError::RateLimit { retry_after, .. } => {
                    permit.congested(retry_after.and(retry_in));
                }
                ClientError::Server {
                    status: 503 | 529, ..
                } => permit.congested(None),
                _ => {}
            }
            drop(permit);
            let goes_on = watch(&Attempt {
                number,
                error: &error,
                usage,
                retry_in,
            });
            let Some(wait) = retry_in.filter(|_| goes_on.is_continue()) else {
                return Err(match number {
                    1 => error,
                    attempts => ClientError::GaveUp {
                        attempts,
                        elapsed: begun.elapsed(),
                        source: Box::new(error),
                    },
                });
            };
            if !sleep(wait, cancel) {
                return Err(ClientError::Cancelled);
            }
        }
    }
}

/// The key of a repeat: the first is as given.
fn numbered(key: &str, repeat: u32) -> String {
    match repeat {
        0 => key.to_owned(),
        n => format!("{key}-{n}"),
    }
}
