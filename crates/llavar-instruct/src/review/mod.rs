//! A local page on which people accept, edit or reject duos beside the picture.
//!
//! The server listens on 127.0.0.1 alone. Every request must name it by that address (so that no foreign
//! page reaches it under a name of its own) and carry the token of the address that was printed; changes
//! carry it in a header, which a foreign page cannot set. The page loads nothing from elsewhere. Decisions
//! are in the journal before the page hears that they are.

mod api;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use llavar_http::{HttpLimits, Listener, Socket};

use crate::{InstructError, Journal, PictureResult, RunFile, read_pictures};

/// How often it is looked whether the server is to end.
const LOOK: Duration = Duration::from_millis(20);

/// A run that is being reviewed.
pub struct ReviewServer {
    listener: Listener,
    review: Arc<Review>,
}

/// What the page shows and writes.
struct Review {
    address: SocketAddr,
    token: String,
    journal: Journal,
    images: PathBuf,
    file: RunFile,
    pictures: Vec<PictureResult>,
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
        // A decision is small, and a browser opens six connections.
        let limits = HttpLimits {
            body_bytes: 256 << 10,
            all_body_bytes: 4 << 20,
            connections: 32,
            ..HttpLimits::default()
        };
        let io = |source| InstructError::Io {
            path: format!("port {port}").into(),
            source,
        };
        let socket = Socket::bind("127.0.0.1", port).map_err(io)?;
        let review = Arc::new(Review {
            address: socket.address(),
            token: token(),
            journal,
            images,
            file,
            pictures,
        });
        let listener = socket.listen(review.clone(), limits).map_err(io)?;
        Ok(Self { listener, review })
    }

    /// The address to open in a browser.
    pub fn url(&self) -> String {
        format!(
            "http://{}/?token={}",
            self.review.address, self.review.token
        )
    }

    /// Pictures that have duos.
    pub fn pictures(&self) -> usize {
        self.review.pictures.len()
    }

    /// Serves until `stop` is set, and ends with the answers under way.
    pub fn serve(mut self, stop: &AtomicBool) {
        while !stop.load(SeqCst) {
            std::thread::sleep(LOOK);
        }
        self.listener.stop();
    }
}

/// 32 hexadecimal digits out of the keys that the standard library draws from the system.
fn token() -> String {
    use std::hash::{BuildHasher, Hasher, RandomState};
    let half = || RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", half(), half())
}
