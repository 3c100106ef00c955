//! Connections as they come, a thread each.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crate::{
    Exchange, HttpLimits, ReadFault, Response,
    body::Budget,
    connection::{Connection, LOOK, Wire},
};

/// Connections that were turned away and are read on for a moment, at most.
const LINGERING: usize = 64;

/// What answers requests.
pub trait Handler: Send + Sync + 'static {
    /// Answers a request. One that it does not answer is answered with 500, unless the client was found to have
    /// gone.
    fn handle(&self, exchange: &mut Exchange<'_>);

    /// The answer to what could not be read as a request, or failed.
    fn refusal(&self, status: u16, message: &str) -> Response;
}

/// A socket that is listened to, until it is dropped.
pub struct Listener {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

struct Shared {
    handler: Arc<dyn Handler>,
    limits: HttpLimits,
    budget: Arc<Budget>,
    open: AtomicUsize,
    /// Of those that were turned away: [`LINGERING`].
    lingering: AtomicUsize,
    ending: Arc<AtomicBool>,
}

/// A socket at which nobody answers yet.
pub struct Socket {
    listener: TcpListener,
    address: SocketAddr,
}

impl Socket {
    /// The first address that `host` and `port` stand for and that can be had; port 0 takes a free one.
    ///
    /// # Errors
    /// When the host is unknown or no address of it can be had.
    pub fn bind(host: &str, port: u16) -> io::Result<Self> {
        let addresses: Vec<SocketAddr> = (host, port).to_socket_addrs()?.collect();
        let listener = TcpListener::bind(&addresses[..])?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers from now on, on threads of its own.
    ///
    /// # Errors
    /// When there can be no thread.
    pub fn listen(self, handler: Arc<dyn Handler>, limits: HttpLimits) -> io::Result<Listener> {
        let shared = Arc::new(Shared {
            handler,
            budget: Budget::new(limits.all_body_bytes),
            limits,
            open: AtomicUsize::new(0),
            lingering: AtomicUsize::new(0),
            ending: Arc::default(),
        });
        let (of_thread, listener) = (shared.clone(), self.listener);
        let accepting = std::thread::Builder::new()
            .name("accept".to_owned())
            .spawn(move || accept(&listener, &of_thread))?;
        Ok(Listener {
            address: self.address,
            shared,
            accepting: Some(accepting),
        })
    }
}

impl Listener {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections that are open.
    pub fn connections(&self) -> usize {
        self.shared.open.load(SeqCst)
    }

    /// Takes no more connections, and ends each with the answer it is at.
    pub fn stop(&mut self) {
        let Some(accepting) = self.accepting.take() else {
            return;
        };
        self.shared.ending.store(true, SeqCst);
        // The thread waits for a connection: it gets one.
        let ip = match self.address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        let own = SocketAddr::new(ip, self.address.port());
        let woken = TcpStream::connect_timeout(&own, Duration::from_secs(2));
        if woken.is_ok() {
            let _ = accepting.join();
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop();
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.ending.load(SeqCst) {
            return;
        }
        let Ok(stream) = stream else {
            // Out of file descriptors, for one: some will be given back.
            std::thread::sleep(Duration::from_millis(20));
            continue;
        };
        // Pieces of a streamed answer are small and are wanted at once.
        let _ = stream.set_nodelay(true);
        let guard = OpenConnection::new(shared);
        if shared.open.load(SeqCst) > shared.limits.connections {
            let busy = shared
                .handler
                .refusal(503, "too many connections; try again");
            turn_away(stream, &busy.with("Retry-After", "1"), shared);
            continue;
        }
        let thread = std::thread::Builder::new().name("connection".to_owned());
        // A thread that cannot be had closes its connection by dropping it.
        let _ = thread.spawn(move || guard.serve(stream));
    }
}

/// Answers before anything was read; the few bytes fit into the socket's buffer. The request is on its way all the
/// same, and a client whose request meets a closed connection may never look at the answer.
fn turn_away(mut stream: TcpStream, response: &Response, shared: &Arc<Shared>) {
    let by = Instant::now() + LOOK;
    let _ = stream.write_by(&response.bytes(None, &[], true), by);
    let lingers = Lingers::new(shared);
    if shared.lingering.load(SeqCst) <= LINGERING {
        let thread = std::thread::Builder::new().name("turned away".to_owned());
        let connection = Connection::new(stream, shared.ending.clone());
        let _ = thread.spawn(move || {
            connection.close();
            drop(lingers);
        });
    }
}

/// Counts a connection that was turned away as long as it is read on.
struct Lingers(Arc<Shared>);

impl Lingers {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.lingering.fetch_add(1, SeqCst);
        Self(shared.clone())
    }
}

impl Drop for Lingers {
    fn drop(&mut self) {
        self.0.lingering.fetch_sub(1, SeqCst);
    }
}

/// Counts a connection as long as it lives.
struct OpenConnection(Arc<Shared>);

impl OpenConnection {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.open.fetch_add(1, SeqCst);
        Self(shared.clone())
    }

    /// Answers the requests of a connection, one after the other.
    fn serve(self, stream: TcpStream) {
        let shared = &self.0;
        let mut connection = Connection::new(stream, shared.ending.clone());
        while self.waits_for_request(&mut connection) {
            let head = match connection.head(&shared.limits) {
                Ok(head) => head,
                Err(ReadFault::Gone) => return,
                Err(ReadFault::Refused { status, message }) => {
                    let response = shared.handler.refusal(status, &message);
                    let by = Instant::now() + shared.limits.write_time;
                    let bytes = response.bytes(None, &[], true);
                    let _ = connection.wire.write_by(&bytes, by);
                    break;
                }
            };
            let ending = shared.ending.load(SeqCst);
            let open = shared.open.load(SeqCst);
            let bounds = (&shared.limits, &shared.budget);
            let mut exchange = Exchange::new(&mut connection, &head, bounds, open, ending);
            let handled = catch_unwind(AssertUnwindSafe(|| {
                shared.handler.handle(&mut exchange);
            }));
            // A client that counts as gone may still read, and the server has not failed.
            if !exchange.has_answered() && !exchange.was_gone() {
                let failed = shared.handler.refusal(500, "the server failed");
                let _ = exchange.respond(&failed);
            }
            if handled.is_err() || !exchange.is_open() {
                break;
            }
        }
        connection.close();
    }

    /// Whether a request has begun to arrive before the connection has waited too long or the server ends.
    fn waits_for_request(&self, connection: &mut Connection) -> bool {
        let by = Instant::now() + self.0.limits.idle;
        loop {
            let look = (Instant::now() + LOOK).min(by);
            match connection.has_begun(look) {
                Ok(begun) => return begun,
                Err(error) if error.kind() == ErrorKind::TimedOut && Instant::now() < by => {}
                Err(_) => return false,
            }
            if self.0.ending.load(SeqCst) {
                return false;
            }
        }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, SeqCst);
    }
}
