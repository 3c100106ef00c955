//! The server as a whole: from an address to an orderly end.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use llavar_assistant::Assistant;
use llavar_client::ApiKey;
use llavar_model::generation::{GenerationOptions, Room};
use llavar_ocr::Reader;

use llavar_http::{Listener, Socket};

use crate::{
    HttpLimits, Log, ServeError,
    chat::{Gate, Loaded},
    engine::{Engine, Queue},
    metrics::Metrics,
    routes::Routes,
    wire::now,
};

/// Where a server listens, and whom it lets in.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// A name or an address of this machine.
    pub host: String,
    /// 0 takes a free one.
    pub port: u16,
    /// What a client has to send; without one everybody is let in who reaches the address.
    pub key: Option<ApiKey>,
    /// Whether pages of other origins may ask.
    pub cors: bool,
    /// Requests that wait, at most.
    pub queue: usize,
    /// What clients may take.
    pub limits: HttpLimits,
    /// Says what happens.
    pub log: Log,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".to_owned(),
            port: 8080,
            key: None,
            cors: false,
            queue: 64,
            limits: HttpLimits::default(),
            log: Log::silent(),
        }
    }
}

/// A model, and how it is asked.
pub struct Served {
    /// The model.
    pub assistant: Assistant,
    /// What clients call it.
    pub name: String,
    /// Reads the text of pictures, which is put before the question.
    pub reader: Option<Reader>,
    /// What holds where a request names nothing else. Beams are not searched for.
    pub defaults: GenerationOptions,
    /// Answers side by side, and tokens of each.
    pub room: Room,
    /// Bytes of features of pictures that are kept for further questions.
    pub picture_bytes: usize,
}

/// What the routes see.
pub(crate) struct State {
    pub(crate) options: ServerOptions,
    /// Whether the address can be reached from this machine alone.
    pub(crate) is_local: bool,
    pub(crate) loaded: OnceLock<Loaded>,
    pub(crate) ending: AtomicBool,
    pub(crate) queue: Arc<Queue>,
    pub(crate) metrics: Arc<Metrics>,
}

/// A server. It answers from the moment that it is bound: until [`Server::load`] it says that it is not ready.
pub struct Server {
    listener: Listener,
    state: Arc<State>,
    /// Held while a model is set up.
    loading: Mutex<()>,
}

impl Server {
    /// Listens.
    ///
    /// # Errors
    /// [`ServeError::Listen`] where the address cannot be had.
    pub fn bind(options: ServerOptions) -> Result<Self, ServeError> {
        let (host, port, limits) = (options.host.clone(), options.port, options.limits.clone());
        let listen = |source| ServeError::Listen {
            host: host.clone(),
            port,
            source,
        };
        let socket = Socket::bind(&host, port).map_err(listen)?;
        let state = Arc::new(State {
            queue: Queue::new(options.queue),
            options,
            is_local: socket.address().ip().is_loopback(),
            loaded: OnceLock::new(),
            ending: AtomicBool::new(false),
            metrics: Arc::default(),
        });
        let routes = Arc::new(Routes::new(state.clone()));
        let listener = socket.listen(routes, limits).map_err(listen)?;
        Ok(Self {
            listener,
            state,
            loading: Mutex::new(()),
        })
    }

    /// The address that is listened to.
    pub fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    /// Puts a model behind the address; from now on requests are answered.
    ///
    /// # Errors
    /// Where the device has no room for the keys and values, or there is a model already, which stays as it is.
    pub fn load(&self, served: Served) -> Result<(), ServeError> {
        // An engine takes requests from its start, so none is started that is not kept.
        let _alone = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        if self.state.loaded.get().is_some() {
            return Err(ServeError::AlreadyLoaded);
        }
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        let engine = Engine::start(
            served.assistant,
            served.room,
            served.picture_bytes,
            self.state.queue.clone(),
            self.state.metrics.clone(),
            self.state.options.log.clone(),
        )?;
        let loaded = Loaded {
            engine,
            reader: served.reader,
            defaults: served.defaults,
            // A picture at work takes up to half a gigabyte, and an engine for its text uses all cores itself.
            gate: Gate::new(cores.min(4)),
            name: served.name,
            created: now(),
        };
        self.state
            .loaded
            .set(loaded)
            .map_err(|_| ServeError::AlreadyLoaded)
    }

    /// Takes no more requests, finishes those that are there within `grace`, and ends. Whether all were
    /// finished.
    pub fn stop(mut self, grace: Duration) -> bool {
        let by = Instant::now() + grace;
        self.state.ending.store(true, SeqCst);
        self.state.queue.close();
        self.listener.stop();
        let open = |by: Instant| {
            while self.listener.connections() > 0 && Instant::now() < by {
                std::thread::sleep(Duration::from_millis(20));
            }
            self.listener.connections()
        };
        let finished = open(by) == 0;
        if let Some(loaded) = self.state.loaded.get() {
            if !finished {
                loaded.engine.abort();
                // What is told to clients goes out.
                open(Instant::now() + Duration::from_secs(1));
            }
            loaded.engine.join();
        }
        finished
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.state.queue.close();
        if let Some(loaded) = self.state.loaded.get() {
            loaded.engine.abort();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use llavar_assistant::testing;

    fn served() -> Served {
        let assistant = testing::with(Vec::new());
        Served {
            name: "tiny".to_owned(),
            reader: None,
            defaults: assistant.defaults(),
            room: Room {
                slots: 1,
                context: 64,
            },
            picture_bytes: 0,
            assistant,
        }
    }

    #[test]
    fn a_second_model_starts_no_engine() {
        let options = ServerOptions {
            port: 0,
            ..ServerOptions::default()
        };
        let server = Server::bind(options).unwrap();
        // The thread of an engine holds the line until it ends.
        let holders = || Arc::strong_count(&server.state.queue);
        let before = holders();
        std::thread::scope(|scope| {
            let loads = [0, 1, 2].map(|_| scope.spawn(|| server.load(served())));
            let done = loads.map(|load| load.join().unwrap());
            assert_eq!(done.iter().filter(|done| done.is_ok()).count(), 1);
        });
        assert!(matches!(
            server.load(served()),
            Err(ServeError::AlreadyLoaded)
        ));
        assert_eq!(holders(), before + 1);
        assert!(server.stop(Duration::from_secs(60)));
    }
}
