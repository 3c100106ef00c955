//! A local page on which people accept, edit or reject duos beside the picture.
//!
//! The server listens on 127.0.0.1 alone. Every request must name it by that address (so that no foreign
//! page reaches it under a name of its own) and carry the token of the address that was printed; changes
//! carry it in a header, which a foreign page cannot set. The page loads nothing from elsewhere. Decisions
//! are in the journal before the page hears that they are.

mod api;
mod http;

use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    time::Duration,
};

use crate::{InstructError, Journal, PictureResult, RunFile, read_pictures};

/// Connections at once: a browser opens six.
const MOST_CONNECTIONS: usize = 32;

/// A run that is being reviewed.
#[derive(Debug)]
pub struct ReviewServer {
    listener: TcpListener,
    address: SocketAddr,
    token: String,
    journal: Journal,
    images: PathBuf,
    file: RunFile,
    pictures: Vec<PictureResult>,
    running: AtomicUsize,
}

impl ReviewServer {
    /// Opens a run folder; `port` 0 takes a free one.
    ///
    /// # Errors
    /// [`InstructError`] of the run's files; [`InstructError::Io`] for a port that is taken.
    pub fn open(run: &Path, port: u16) -> Result<Self, InstructError> {
        let file = RunFile::read(run)?;
        let mut pictures = read_pictures(run)?;
        pictures.retain(|picture| !picture.duos.is_empty());
        // Told now and not by a page without pictures.
        let images = file.folder(run);
        std::fs::read_dir(&images).map_err(InstructError::io(&images))?;
        let journal = Journal::open(run)?;
        let io = |source| InstructError::Io {
            path: format!("port {port}").into(),
            source,
        };
        let listener = TcpListener::bind(("127.0.0.1", port)).map_err(io)?;
        listener.set_nonblocking(true).map_err(io)?;
        Ok(Self {
            address: listener.local_addr().map_err(io)?,
            listener,
            token: token(),
            journal,
            images,
            file,
            pictures,
            running: AtomicUsize::new(0),
        })
    }

    /// The address to open in a browser.
    pub fn url(&self) -> String {
        format!("http://{}/?token={}", self.address, self.token)
    }

    /// Pictures that have duos.
    pub fn pictures(&self) -> usize {
        self.pictures.len()
    }

    /// Serves until `stop` is set.
    ///
    /// # Errors
    /// [`InstructError::Io`] where the system takes the port away.
    pub fn serve(&self, stop: &AtomicBool) -> Result<(), InstructError> {
        std::thread::scope(|scope| {
            while !stop.load(SeqCst) {
                match self.listener.accept() {
                    Ok((stream, _)) if self.running.load(SeqCst) < MOST_CONNECTIONS => {
                        self.running.fetch_add(1, SeqCst);
                        scope.spawn(move || {
                            // A browser that goes away is no fault.
                            let _ = self.answer(stream);
                            self.running.fetch_sub(1, SeqCst);
                        });
                    }
                    // Too many: this one is closed.
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        std::thread::sleep(Duration::from_millis(15));
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(source) => {
                        return Err(InstructError::Io {
                            path: self.address.to_string().into(),
                            source,
                        });
                    }
                }
            }
            Ok(())
        })
    }

    fn answer(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.set_write_timeout(Some(Duration::from_secs(30)))?;
        let response = match http::Request::read(&mut stream)? {
            Ok(request) => self.respond(&request),
            Err(status) => http::Response::text(status, "bad request"),
        };
        response.write(&mut stream)
    }
}

/// 32 hexadecimal digits out of the keys that the standard library draws from the system.
fn token() -> String {
    use std::hash::{BuildHasher, Hasher, RandomState};
    let half = || RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", half(), half())
}
