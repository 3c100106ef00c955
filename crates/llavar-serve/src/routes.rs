//! What is answered at which address, and to whom.

use std::{
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Instant,
};

use percent_encoding::percent_decode_str;
use serde_json::json;

use llavar_http::{Exchange, Handler, Response};

use crate::{
    chat::{self, Loaded, Stop},
    metrics::{Ending, Now},
    page,
    server::State,
    wire::{ApiError, model_card, shortened},
};

/// The routes of a server.
pub(crate) struct Routes {
    state: Arc<State>,
    /// Ids of requests differ between two runs.
    ids: RandomState,
    requests: AtomicU64,
}

/// What an address stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route<'p> {
    Page,
    Health,
    Ready,
    Metrics,
    Models,
    /// The name as it stands in the address.
    Model(&'p str),
    Chat,
}

impl<'p> Route<'p> {
    fn of(path: &'p str) -> Option<Self> {
        Some(match path {
            "/" => Self::Page,
            "/health" => Self::Health,
            "/ready" => Self::Ready,
            "/metrics" => Self::Metrics,
            "/v1/models" => Self::Models,
            "/v1/chat/completions" => Self::Chat,
            _ => Self::Model(path.strip_prefix("/v1/models/")?),
        })
    }

    fn methods(self) -> &'static str {
        match self {
            Self::Chat => "POST, OPTIONS",
            _ => "GET, HEAD, OPTIONS",
        }
    }

    fn is_open(self) -> bool {
        matches!(self, Self::Page | Self::Health)
    }
}

impl Routes {
    pub(crate) fn new(state: Arc<State>) -> Self {
        Self {
            state,
            ids: RandomState::new(),
            requests: AtomicU64::new(0),
        }
    }

    fn route(&self, exchange: &mut Exchange<'_>, id: &str) -> Result<(), Stop> {
        let head = exchange.head;
        self.check_host(head.header("host").unwrap_or_default())?;
        let route = Route::of(&head.path);
        if let Some(route) = route
            && head.method == "OPTIONS"
        {
            let response = Response::text(204, "").with("Allow", route.methods());
            let wanted = head.header("access-control-request-headers");
            return Ok(exchange.respond(&self.preflight(route, response, wanted))?);
        }
        if !route.is_some_and(Route::is_open) {
            self.check_key(head.header("authorization"))?;
        }
        let Some(route) = route else {
            let message = format!("there is nothing at {:.100}", head.path);
            return Err(ApiError::new(404, message).code("not_found").into());
        };
        if !route
            .methods()
            .split(", ")
            .any(|method| method == head.method)
        {
            let error = ApiError::new(405, format!("here is {}", route.methods()));
            let response = error.response().with("Allow", route.methods());
            return Ok(exchange.respond(&response)?);
        }
        let response = match route {
            Route::Page => page::response(),
            Route::Health => Response::json(200, &json!({"status": "ok"})),
            Route::Ready => match self.loaded() {
                Ok(_) => Response::json(200, &json!({"status": "ready"})),
                Err(error) => error.response(),
            },
            Route::Metrics => self.metrics(exchange.connections),
            Route::Models => {
                let cards = self.loaded().map(card).ok();
                let cards: Vec<_> = cards.into_iter().collect();
                Response::json(200, &json!({"object": "list", "data": cards}))
            }
            Route::Model(name) => {
                let loaded = self.loaded()?;
                let name = percent_decode_str(name).decode_utf8_lossy();
                if loaded.name != name {
                    let message = format!("there is no model {:?} here", shortened(&name));
                    return Err(ApiError::new(404, message).code("model_not_found").into());
                }
                Response::json(200, &card(loaded))
            }
            Route::Chat => return self.chat(exchange, id),
        };
        Ok(exchange.respond(&response)?)
    }

    fn chat(&self, exchange: &mut Exchange<'_>, id: &str) -> Result<(), Stop> {
        let head = exchange.head;
        let kind = head.header("content-type").unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim();
        // A page of another origin can send plain text without being asked first.
        if !kind.eq_ignore_ascii_case("application/json") {
            let message = "the body has to be JSON: send `Content-Type: application/json`";
            return Err(ApiError::new(415, message).into());
        }
        if !exchange.has_body() && head.header("content-length").is_none() {
            let message = "a request needs a body with `Content-Length`";
            return Err(ApiError::new(411, message).into());
        }
        let loaded = self.loaded()?;
        let begun = Instant::now();
        let answered = chat::answer(loaded, &self.state.queue, exchange, id)?;
        self.state.metrics.count(answered.ending);
        let first = match answered.first_token {
            Some(first) => format!("first token {:.3} s, ", first.as_secs_f64()),
            None => String::new(),
        };
        self.state.options.log.line(&format!(
            "{id} {}: {} + {} tokens, {first}{:.3} s",
            answered.ending.name(),
            answered.usage.prompt,
            answered.usage.answer,
            begun.elapsed().as_secs_f64()
        ));
        Ok(())
    }

    fn loaded(&self) -> Result<&Loaded, ApiError> {
        if self.state.ending.load(SeqCst) {
            return Err(chat::stopping());
        }
        self.state.loaded.get().ok_or_else(|| {
            ApiError::new(503, "the model is being loaded")
                .code("loading")
                .retry_after(2)
        })
    }

    fn metrics(&self, connections: usize) -> Response {
        let loaded = self.state.loaded.get();
        let now = Now {
            waiting: self.state.queue.len(),
            connections,
            slots: loaded.map_or(0, |loaded| loaded.engine.room.slots),
        };
        let name = loaded.map_or("", |loaded| loaded.name.as_str());
        let text = self.state.metrics.render(name, &now);
        Response::new(200, "text/plain; version=0.0.4; charset=utf-8", text)
    }

    fn check_key(&self, sent: Option<&str>) -> Result<(), ApiError> {
        let Some(key) = &self.state.options.key else {
            return Ok(());
        };
        let scheme = sent.and_then(|sent| sent.split_once(' '));
        let bearer = scheme.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        match bearer {
            Some((_, sent)) if key.is(sent.trim()) => Ok(()),
            Some(_) => {
                Err(ApiError::new(401, "this key is not the server's").code("invalid_api_key"))
            }
            None => {
                let message = "this server wants a key: send `Authorization: Bearer KEY`";
                Err(ApiError::new(401, message).code("missing_api_key"))
            }
        }
    }

    /// A page of another site that has its name point to this machine would be let in where everybody is who
    /// reaches the address; its requests carry that name.
    fn check_host(&self, host: &str) -> Result<(), ApiError> {
        if self.state.options.key.is_some() || !self.state.is_local || host.is_empty() {
            return Ok(());
        }
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
            _ => host,
        };
        let name = name.trim_start_matches('[').trim_end_matches(']');
        let own = self.state.options.host.as_str();
        let is_address = name.parse::<IpAddr>().is_ok();
        let is_localhost = name.eq_ignore_ascii_case("localhost");
        match is_address || is_localhost || name.eq_ignore_ascii_case(own) {
            true => Ok(()),
            false => {
                let message =
                    "without a key this server answers to `localhost` and addresses alone";
                Err(ApiError::new(403, message).code("unknown_host"))
            }
        }
    }

    /// What a browser asks before it lets another origin's page send a request. The page may send the headers that
    /// it `wants` to: clients have some of their own, and none does anything here but those two.
    fn preflight(&self, route: Route<'_>, response: Response, wants: Option<&str>) -> Response {
        match self.state.options.cors {
            false => response,
            true => response
                .with("Access-Control-Allow-Methods", route.methods())
                .with(
                    "Access-Control-Allow-Headers",
                    wants
                        .filter(|wants| are_names(wants))
                        .unwrap_or("Authorization, Content-Type"),
                )
                .with("Access-Control-Max-Age", "600"),
        }
    }

    fn id(&self) -> String {
        let number = self.requests.fetch_add(1, SeqCst);
        let hash = |salt: u8| self.ids.hash_one((number, salt));
        format!("chatcmpl-{:016x}{:08x}", hash(0), hash(1) as u32)
    }
}

/// Whether a text is a list of names of headers.
fn are_names(list: &str) -> bool {
    let mut names = list.split(',').map(str::trim);
    let of_name = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    names.all(|name| !name.is_empty() && name.bytes().all(of_name))
}

fn card(loaded: &Loaded) -> serde_json::Value {
    model_card(&loaded.name, loaded.created, loaded.engine.room.context)
}

impl Handler for Routes {
    fn handle(&self, exchange: &mut Exchange<'_>) {
        let id = self.id();
        exchange.add_header("X-Request-Id", id.clone());
        if self.state.options.cors {
            exchange.add_header("Access-Control-Allow-Origin", "*".to_owned());
            exchange.add_header("Access-Control-Expose-Headers", "X-Request-Id".to_owned());
        }
        let Err(stop) = self.route(exchange, &id) else {
            return;
        };
        let log = &self.state.options.log;
        let (ending, error) = match stop {
            Stop::Gone => {
                log.line(&format!("{id} cancelled: the client has gone"));
                (Ending::Cancelled, None)
            }
            Stop::Refused(error) => {
                log.line(&format!("{id} {}: {}", error.status, error.message));
                let ending = match error.status {
                    429 | 503 => Ending::Overloaded,
                    _ => Ending::Refused,
                };
                (ending, Some(error))
            }
            Stop::Failed(cause) => {
                log.error(&id, &*cause);
                (Ending::Failed, Some(ApiError::internal()))
            }
        };
        if exchange.head.path == "/v1/chat/completions" {
            self.state.metrics.count(ending);
        }
        if let Some(error) = error
            && !exchange.has_answered()
        {
            // A client that has gone meanwhile needs no answer.
            let _ = exchange.respond(&error.response());
        }
    }

    fn refusal(&self, status: u16, message: &str) -> Response {
        ApiError::new(status, message).response()
    }
}
