//! The control channel: a connection of every rank with rank 0, for small agreements and signs of life.
//!
//! Tensors never pass here. A frame is `length u32, kind u8, payload`. Every rank says that it lives a few
//! times within the time-out; one that closes its connection or falls silent is reported to all.

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::{Error, Result};

/// Names the program and the version of this protocol.
const MAGIC: &[u8] = b"llavar-ranks-1";
/// No frame is longer; what claims to be comes from somebody else.
const MOST: usize = 64 << 20;
/// Between two looks for a connection that has not come yet.
const RETRY: Duration = Duration::from_millis(20);

const HELLO: u8 = 1;
const WORDS: u8 = 2;
const ALL: u8 = 3;
const ALIVE: u8 = 4;
const BYE: u8 = 5;
const FAILED: u8 = 6;
const LOST: u8 = 7;

/// This process's end of the channel.
#[derive(Debug)]
pub(crate) struct Control {
    rank: usize,
    size: usize,
    shared: Arc<Shared>,
}

/// Looks whether all ranks are alive. Cloning shares it.
#[derive(Debug, Clone)]
pub(crate) struct Watch(Option<Arc<Shared>>);

#[derive(Debug)]
struct Shared {
    /// By rank on rank 0 (its own is absent); rank 0's alone elsewhere.
    peers: Vec<Option<Mutex<TcpStream>>>,
    names: Vec<String>,
    state: Mutex<State>,
    changed: Condvar,
    timeout: Duration,
}

#[derive(Debug, Default)]
struct State {
    /// Frames of an exchange that have arrived, by rank.
    words: Vec<VecDeque<Vec<u8>>>,
    /// Ranks that have said farewell.
    left: Vec<bool>,
    lost: Option<Error>,
    closed: bool,
}

impl Watch {
    /// For one rank alone, which cannot lose another.
    pub(crate) fn none() -> Self {
        Self(None)
    }

    /// The error of a lost rank, if there is one.
    pub(crate) fn check(&self) -> Result<()> {
        match &self.0 {
            None => Ok(()),
            Some(shared) => shared.lock().lost.clone().map_or(Ok(()), Err),
        }
    }

    /// Calls `f` on a thread of its own when a rank is lost.
    pub(crate) fn on_loss(&self, f: impl FnOnce(&Error) + Send + 'static) {
        let Some(shared) = self.0.clone() else {
            return;
        };
        let wait = move || {
            let mut state = shared.lock();
            while state.lost.is_none() && !state.closed {
                state = shared.wait(state, shared.timeout);
            }
            let lost = state.lost.clone();
            drop(state);
            if let Some(error) = lost {
                f(&error);
            }
        };
        // Without the thread a loss is still found by whoever asks `check`.
        let _ = std::thread::Builder::new().name("watch".into()).spawn(wait);
    }
}

impl Control {
    /// Listens for the others; `address` may have port 0. To be given to [`Control::gather`].
    pub(crate) fn listen(address: &str, port: u16) -> Result<TcpListener> {
        TcpListener::bind((address, port)).map_err(|e| Error::Collective {
            op: "meeting of the ranks",
            reason: format!(
                "rank 0 cannot listen at {address}:{port} ({e}); set MASTER_PORT to a free port"
            ),
        })
    }

    /// Rank 0: waits until all ranks have come.
    pub(crate) fn gather(listener: &TcpListener, size: usize, timeout: Duration) -> Result<Self> {
        let failed = |e: io::Error| meeting(format!("rank 0 cannot be reached ({e})"));
        listener.set_nonblocking(true).map_err(failed)?;
        let end = Instant::now() + timeout;
        let mut peers: Vec<Option<Mutex<TcpStream>>> = (0..size).map(|_| None).collect();
        let mut names = vec![own_name(); size];
        let mut missing = size - 1;
        while missing > 0 {
            match listener.accept() {
                Ok((stream, _)) => {
                    // A stranger is turned away; the rank that it is not will still come.
                    if let Ok((rank, name)) = greet(&stream, size, timeout)
                        && peers[rank].is_none()
                        && rank > 0
                    {
                        peers[rank] = Some(Mutex::new(stream));
                        names[rank] = name;
                        missing -= 1;
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(RETRY),
                Err(e) => return Err(failed(e)),
            }
            if missing > 0 && Instant::now() > end {
                let absent: Vec<String> = (1..size)
                    .filter(|r| peers[*r].is_none())
                    .map(|r| r.to_string())
                    .collect();
                return Err(meeting(format!(
                    "rank {} of {size} did not come within {} s; LLAVAR_RANK_TIMEOUT sets the seconds",
                    absent.join(", "),
                    timeout.as_secs()
                )));
            }
        }
        Self::start(0, size, peers, names, timeout)
    }

    /// Any other rank: goes to rank 0.
    pub(crate) fn go_to(
        (host, port): (&str, u16),
        rank: usize,
        size: usize,
        timeout: Duration,
    ) -> Result<Self> {
        let end = Instant::now() + timeout;
        let stream = loop {
            let tried = connect(host, port, timeout);
            match tried {
                Ok(stream) => break stream,
                Err(e) if Instant::now() > end => {
                    return Err(meeting(format!(
                        "rank {rank} did not reach rank 0 at {host}:{port} within {} s ({e}); \
                         LLAVAR_RANK_TIMEOUT sets the seconds",
                        timeout.as_secs()
                    )));
                }
                Err(_) => std::thread::sleep(RETRY),
            }
        };
        let mut hello = MAGIC.to_vec();
        hello.extend((size as u32).to_le_bytes());
        hello.extend((rank as u32).to_le_bytes());
        hello.extend(own_name().bytes());
        send(&stream, HELLO, &hello).map_err(|e| meeting(format!("rank 0 hung up ({e})")))?;
        let mut names = vec![String::new(); size];
        names[0] = host.to_owned();
        let peers = vec![Some(Mutex::new(stream))];
        Self::start(rank, size, peers, names, timeout)
    }

    fn start(
        rank: usize,
        size: usize,
        peers: Vec<Option<Mutex<TcpStream>>>,
        names: Vec<String>,
        timeout: Duration,
    ) -> Result<Self> {
        let failed = |e: io::Error| meeting(e.to_string());
        let mut readers = Vec::new();
        for (peer, stream) in peers.iter().enumerate() {
            let Some(stream) = stream else { continue };
            let stream = lock(stream);
            stream.set_nonblocking(false).map_err(failed)?;
            stream.set_nodelay(true).map_err(failed)?;
            stream.set_read_timeout(Some(timeout)).map_err(failed)?;
            stream.set_write_timeout(Some(timeout)).map_err(failed)?;
            readers.push((peer, stream.try_clone().map_err(failed)?));
        }
        let shared = Arc::new(Shared {
            peers,
            names,
            state: Mutex::new(State {
                words: vec![VecDeque::new(); size],
                left: vec![false; size],
                ..State::default()
            }),
            changed: Condvar::new(),
            timeout,
        });
        let thread = |name: &str, work: Box<dyn FnOnce() + Send>| {
            let made = std::thread::Builder::new().name(name.into()).spawn(work);
            made.map(|_| ()).map_err(failed)
        };
        for (peer, stream) in readers {
            let shared = Arc::clone(&shared);
            let read = move || shared.read(peer, stream);
            thread("control", Box::new(read))?;
        }
        let beat = Arc::clone(&shared);
        thread("alive", Box::new(move || beat.beat()))?;
        Ok(Self { rank, size, shared })
    }

    pub(crate) fn watch(&self) -> Watch {
        Watch(Some(Arc::clone(&self.shared)))
    }

    /// What every rank gives, by rank; all ranks call it in the same order.
    pub(crate) fn exchange(&self, words: &[u8]) -> Result<Vec<Vec<u8>>> {
        let shared = &self.shared;
        if self.rank > 0 {
            shared.send(0, WORDS, words);
            let all = shared.next(0)?;
            return unpack(&all).ok_or_else(|| meeting("a frame is torn".into()));
        }
        let mut all = vec![words.to_vec()];
        for peer in 1..self.size {
            all.push(shared.next(peer)?);
        }
        let mut packed = Vec::new();
        for words in &all {
            packed.extend((words.len() as u32).to_le_bytes());
            packed.extend(words);
        }
        for peer in 1..self.size {
            shared.send(peer, ALL, &packed);
        }
        Ok(all)
    }

    /// Says farewell: without `failure` the others go on to their own end, else they end with it.
    pub(crate) fn leave(&self, failure: Option<&str>) {
        let shared = &self.shared;
        let own = failure.map(|text| (self.rank, own_name(), text.to_owned()));
        match &own {
            Some((rank, host, text)) if self.rank == 0 => shared.tell_lost(*rank, host, text),
            Some((.., text)) => shared.send(0, FAILED, text.as_bytes()),
            None => (0..shared.peers.len()).for_each(|peer| shared.send(peer, BYE, &[])),
        }
        shared.lock().closed = true;
        shared.changed.notify_all();
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let shared = &self.shared;
        if !shared.lock().closed {
            self.leave(None);
        }
        for stream in shared.peers.iter().flatten() {
            // The far end reads what was sent before it sees the end.
            let _ = lock(stream).shutdown(Shutdown::Write);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, time: Duration) -> MutexGuard<'a, State> {
        let waited = self.changed.wait_timeout(state, time);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// A failure shows when the far end is read.
    fn send(&self, peer: usize, kind: u8, payload: &[u8]) {
        if let Some(Some(stream)) = self.peers.get(peer) {
            let _ = send(&lock(stream), kind, payload);
        }
    }

    /// The next frame of an exchange from a peer.
    fn next(&self, peer: usize) -> Result<Vec<u8>> {
        let mut state = self.lock();
        loop {
            if let Some(words) = state.words[peer].pop_front() {
                return Ok(words);
            }
            if let Some(error) = &state.lost {
                return Err(error.clone());
            }
            if state.left[peer] {
                return Err(Error::RankLost {
                    rank: peer,
                    host: self.names[peer].clone(),
                    reason: "it has ended already".into(),
                });
            }
            state = self.wait(state, self.timeout);
        }
    }

    /// Says now and then that this process lives.
    fn beat(&self) {
        let pause = (self.timeout / 5).clamp(Duration::from_millis(50), Duration::from_secs(5));
        let mut state = self.lock();
        while !state.closed {
            drop(state);
            (0..self.peers.len()).for_each(|peer| self.send(peer, ALIVE, &[]));
            state = self.wait(self.lock(), pause);
        }
    }

    /// Takes what a peer sends until it is gone.
    fn read(&self, peer: usize, mut stream: TcpStream) {
        let host = || self.names[peer].clone();
        loop {
            let reason = match receive(&mut stream) {
                Ok((WORDS | ALL, payload)) => {
                    self.lock().words[peer].push_back(payload);
                    self.changed.notify_all();
                    continue;
                }
                Ok((BYE, _)) => {
                    self.lock().left[peer] = true;
                    self.changed.notify_all();
                    continue;
                }
                Ok((FAILED, text)) => {
                    let text = String::from_utf8_lossy(&text).into_owned();
                    return self.tell_lost(peer, &host(), &text);
                }
                Ok((LOST, payload)) => {
                    let text = String::from_utf8_lossy(&payload).into_owned();
                    let mut parts = text.splitn(3, '\n');
                    let rank = parts.next().and_then(|r| r.parse().ok()).unwrap_or(peer);
                    let host = parts.next().unwrap_or_default().to_owned();
                    let reason = parts.next().unwrap_or_default().to_owned();
                    return self.lose(rank, host, reason);
                }
                Ok(_) => continue,
                Err(error) if silent(&error) => {
                    format!("no sign of life for {} s", self.timeout.as_secs_f32())
                }
                Err(_) => "its process has ended".to_owned(),
            };
            let state = self.lock();
            if state.closed || state.left[peer] {
                return;
            }
            drop(state);
            return self.tell_lost(peer, &host(), &reason);
        }
    }

    /// Notes that a rank is gone and, on rank 0, tells the others.
    fn tell_lost(&self, rank: usize, host: &str, reason: &str) {
        let text = format!("{rank}\n{host}\n{reason}");
        // Elsewhere the only peer is rank 0, which finds out by itself.
        if self.peers.len() > 1 {
            for peer in (1..self.peers.len()).filter(|peer| *peer != rank) {
                self.send(peer, LOST, text.as_bytes());
            }
        }
        self.lose(rank, host.to_owned(), reason.to_owned());
    }

    /// The first loss is the cause of all others.
    fn lose(&self, rank: usize, host: String, reason: String) {
        self.lock()
            .lost
            .get_or_insert(Error::RankLost { rank, host, reason });
        self.changed.notify_all();
    }
}

fn meeting(reason: String) -> Error {
    Error::Collective {
        op: "meeting of the ranks",
        reason,
    }
}

fn silent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

/// Machine and process, as other ranks name it.
fn own_name() -> String {
    format!("{}, process {}", host_name(), std::process::id())
}

/// Name of this machine.
pub(crate) fn host_name() -> String {
    let file = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let name = file.or_else(|| std::env::var("HOSTNAME").ok());
    name.map_or("localhost".into(), |name| name.trim().to_owned())
}

fn connect(host: &str, port: u16, timeout: Duration) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    let addresses: Vec<SocketAddr> = (host, port).to_socket_addrs()?.collect();
    for address in addresses {
        match TcpStream::connect_timeout(&address, timeout) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Rank and name of who has just connected.
fn greet(stream: &TcpStream, size: usize, timeout: Duration) -> io::Result<(usize, String)> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(timeout.min(Duration::from_secs(5))))?;
    let (kind, hello) = receive(&mut &*stream)?;
    let stranger = || io::Error::from(io::ErrorKind::InvalidData);
    let rest = hello.strip_prefix(MAGIC).filter(|_| kind == HELLO);
    let (size_then, rest) = rest
        .and_then(|r| r.split_first_chunk())
        .ok_or_else(stranger)?;
    let (rank, name) = rest.split_first_chunk().ok_or_else(stranger)?;
    let rank = u32::from_le_bytes(*rank) as usize;
    if u32::from_le_bytes(*size_then) as usize != size || rank >= size {
        return Err(stranger());
    }
    Ok((rank, String::from_utf8_lossy(name).into_owned()))
}

fn send(mut stream: &TcpStream, kind: u8, payload: &[u8]) -> io::Result<()> {
    let mut frame = Vec::with_capacity(payload.len() + 5);
    frame.extend((payload.len() as u32).to_le_bytes());
    frame.push(kind);
    frame.extend(payload);
    stream.write_all(&frame)
}

fn receive(stream: &mut impl Read) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 5];
    stream.read_exact(&mut head)?;
    let [a, b, c, d, kind] = head;
    let len = u32::from_le_bytes([a, b, c, d]) as usize;
    if len > MOST {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut payload = vec![0; len];
    stream.read_exact(&mut payload)?;
    Ok((kind, payload))
}

fn unpack(mut packed: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut all = Vec::new();
    while !packed.is_empty() {
        let (len, rest) = packed.split_first_chunk()?;
        let (words, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        all.push(words.to_vec());
        packed = rest;
    }
    Some(all)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All ranks of one run as threads of this process.
    fn meet(size: usize, timeout: Duration) -> Vec<Control> {
        let listener = Control::listen("127.0.0.1", 0).unwrap();
        let port = listener.local_addr().unwrap().port();
        let others: Vec<_> = (1..size)
            .map(|rank| {
                std::thread::spawn(move || {
                    Control::go_to(("127.0.0.1", port), rank, size, timeout).unwrap()
                })
            })
            .collect();
        // A stranger at the door changes nothing.
        let stranger = TcpStream::connect(("127.0.0.1", port)).unwrap();
        (&stranger).write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        drop(stranger);
        let mut all = vec![Control::gather(&listener, size, timeout).unwrap()];
        all.extend(others.into_iter().map(|t| t.join().unwrap()));
        all
    }

    #[test]
    fn words_of_all_ranks_reach_all() {
        let all = meet(3, Duration::from_secs(5));
        std::thread::scope(|scope| {
            for control in &all {
                scope.spawn(move || {
                    for round in 0..20u8 {
                        let own = vec![control.rank as u8; usize::from(round)];
                        let got = control.exchange(&own).unwrap();
                        let want: Vec<Vec<u8>> =
                            (0..3).map(|r| vec![r; usize::from(round)]).collect();
                        assert_eq!(got, want);
                    }
                });
            }
        });
        for control in &all {
            control.leave(None);
        }
        assert!(all.iter().all(|c| c.watch().check().is_ok()));
    }

    #[test]
    fn a_rank_that_fails_or_vanishes_is_named_to_all() {
        for said in [true, false] {
            let mut all = meet(3, Duration::from_secs(5));
            let last = all.pop().unwrap();
            if said {
                last.leave(Some("the disk is full"));
            }
            for stream in last.shared.peers.iter().flatten() {
                lock(stream).shutdown(Shutdown::Both).unwrap();
            }
            for control in &all {
                let error = control.exchange(b"x").unwrap_err();
                let Error::RankLost { rank, reason, .. } = &error else {
                    panic!("{error}");
                };
                assert_eq!(*rank, 2, "{error}");
                assert!(said == reason.contains("disk"), "{error}");
            }
            // Its threads know that nobody listens any more.
            last.shared.lock().closed = true;
        }
    }

    #[test]
    fn a_silent_rank_is_lost_after_the_timeout() {
        let all = meet(2, Duration::from_millis(400));
        // Its signs of life stop, its connection stays.
        all[1].shared.lock().closed = true;
        all[1].shared.changed.notify_all();
        let begun = Instant::now();
        let error = all[0].exchange(b"x").unwrap_err().to_string();
        assert!(
            error.contains("rank 1") && error.contains("no sign of life"),
            "{error}"
        );
        assert!(begun.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn one_that_never_comes_is_named() {
        let listener = Control::listen("127.0.0.1", 0).unwrap();
        let error = Control::gather(&listener, 2, Duration::from_millis(100)).unwrap_err();
        assert!(error.to_string().contains("rank 1 of 2"), "{error}");
        drop(listener);
    }
}
