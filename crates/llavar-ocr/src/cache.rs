//! An engine with a memory: every picture is read once.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError},
};

use llavar_data::write::write_whole;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{ContentHash, Engine, Line, OcrError, Page};

/// Results kept in memory before the oldest way of forgetting is used: all at once.
const IN_MEMORY: usize = 4096;

/// A result that several may wait for.
type Slot = Arc<Mutex<Option<Arc<[Line]>>>>;

/// An engine whose results are kept in memory and, where there is a folder, on disk, by the hash of the
/// picture's content and the engine's fingerprint.
///
/// A picture is read once even if several threads ask for it at the same time, but for threads of a rayon pool, which
/// do not wait for each other. A result that cannot be written is still a result; one that is damaged on disk is made
/// again.
pub struct Reader {
    engine: Box<dyn Engine>,
    /// Where results lie, and the part of their names that stands for the engine.
    store: Option<(PathBuf, String)>,
    known: Mutex<HashMap<ContentHash, Slot>>,
}

/// A result on disk.
#[derive(Serialize, Deserialize)]
struct Stored<'a> {
    engine: std::borrow::Cow<'a, str>,
    lines: std::borrow::Cow<'a, [Line]>,
}

impl Reader {
    /// Keeps results in `folder` too. Those of engines without a fingerprint are kept in memory only.
    pub fn new(engine: Box<dyn Engine>, folder: Option<PathBuf>) -> Self {
        let store = folder.zip(engine.fingerprint()).map(|(folder, print)| {
            let tag = crate::hex(&Sha256::digest(print.as_bytes())[..8]);
            (folder, tag)
        });
        Self {
            engine,
            store,
            known: Mutex::default(),
        }
    }

    /// Keeps results in the user's cache: `$LLAVAR_CACHE/ocr`, `$XDG_CACHE_HOME/llavar/ocr` or
    /// `~/.cache/llavar/ocr`.
    pub fn of_user(engine: Box<dyn Engine>) -> Self {
        Self::new(engine, crate::cache_folder().map(|f| f.join("results")))
    }

    /// The engine.
    pub fn engine(&self) -> &dyn Engine {
        &*self.engine
    }

    /// The lines of a picture file.
    ///
    /// # Errors
    /// As [`Engine::read`], and when the file cannot be read.
    pub fn read_file(&self, path: &Path) -> Result<Arc<[Line]>, OcrError> {
        self.read(&Page::open(path)?)
    }

    /// The lines of a picture.
    ///
    /// # Errors
    /// As [`Engine::read`]. Failures are not remembered.
    pub fn read(&self, page: &Page) -> Result<Arc<[Line]>, OcrError> {
        if self.engine.fingerprint().is_none() {
            return Ok(self.engine.read(page)?.into());
        }
        let slot = {
            let mut known = lock(&self.known);
            if known.len() >= IN_MEMORY && !known.contains_key(page.hash()) {
                known.clear();
            }
            known.entry(page.hash().clone()).or_default().clone()
        };
        let mut slot = match slot.try_lock() {
            Ok(slot) => slot,
            Err(TryLockError::Poisoned(slot)) => slot.into_inner(),
            // An engine that shares its work out over the pool does other work of the pool until the shares are done,
            // and that may be this picture again: a thread of the pool that waits here may wait for itself.
            Err(TryLockError::WouldBlock) if rayon::current_thread_index().is_some() => {
                return Ok(self.engine.read(page)?.into());
            }
            // Whoever else comes second waits here for the first.
            Err(TryLockError::WouldBlock) => lock(&slot),
        };
        if let Some(lines) = &*slot {
            return Ok(lines.clone());
        }
        let lines: Arc<[Line]> = match self.stored(page) {
            Some(lines) => lines.into(),
            None => {
                let lines = self.engine.read(page)?;
                self.keep(page, &lines);
                lines.into()
            }
        };
        *slot = Some(lines.clone());
        Ok(lines)
    }

    /// The OCR prefix of a question about a picture file: [`crate::prefix`].
    ///
    /// # Errors
    /// As [`Reader::read_file`].
    pub fn prefix(&self, path: &Path) -> Result<String, OcrError> {
        Ok(crate::prefix(&self.read_file(path)?))
    }

    fn file(&self, page: &Page) -> Option<PathBuf> {
        let (folder, tag) = self.store.as_ref()?;
        let hash = page.hash().as_str();
        // Millions of files in one folder are slow on many systems.
        Some(folder.join(&hash[..2]).join(format!("{hash}-{tag}.json")))
    }

    fn stored(&self, page: &Page) -> Option<Vec<Line>> {
        let bytes = fs::read(self.file(page)?).ok()?;
        let stored: Stored = serde_json::from_slice(&bytes).ok()?;
        Some(stored.lines.into_owned())
    }

    fn keep(&self, page: &Page, lines: &[Line]) {
        let stored = Stored {
            engine: self.engine.name().into(),
            lines: lines.into(),
        };
        if let Some((file, bytes)) = self.file(page).zip(serde_json::to_vec(&stored).ok()) {
            // The cache is a convenience: where it cannot be written, the next run reads the picture again.
            let _ = write_whole(&file, |out| out.write_all(&bytes));
        }
    }
}

/// A panic of an engine leaves nothing half done in what these locks guard.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            atomic::{AtomicUsize, Ordering},
            mpsc,
        },
        time::Duration,
    };

    use rayon::prelude::*;

    use super::*;

    /// Counts how often it is asked.
    struct Counting(Arc<AtomicUsize>, &'static str);

    impl Engine for Counting {
        fn name(&self) -> &'static str {
            "counting"
        }

        fn fingerprint(&self) -> Option<String> {
            Some(self.1.to_owned())
        }

        fn read(&self, page: &Page) -> Result<Vec<Line>, OcrError> {
            std::thread::sleep(Duration::from_millis(5));
            let at = self.0.fetch_add(1, Ordering::SeqCst);
            page.image()?;
            Ok(vec![Line::in_box(
                [0.1, 1.0, 2.0, 3.0],
                format!("read {at}"),
                0.1,
            )])
        }
    }

    fn page(name: &str, colour: u8) -> Page {
        let image = llavar_image::RgbImage::filled(2, 2, [colour; 3]);
        Page::from_image(name.as_ref(), image)
    }

    #[test]
    fn read_once_in_memory_and_on_disk() {
        let folder = tempfile::tempdir().unwrap();
        let count = Arc::new(AtomicUsize::new(0));
        let reader = |print| {
            let engine = Box::new(Counting(count.clone(), print));
            Reader::new(engine, Some(folder.path().to_owned()))
        };
        let first = reader("v1");
        std::thread::scope(|scope| {
            for name in ["a", "b", "c", "d"] {
                let reader = &first;
                scope.spawn(move || reader.read(&page(name, 1)).unwrap());
            }
        });
        assert_eq!(count.load(Ordering::SeqCst), 1);
        let lines = first.read(&page("a", 1)).unwrap();
        // Another process finds the same, to the bit.
        assert_eq!(*reader("v1").read(&page("e", 1)).unwrap(), *lines);
        assert_eq!(count.load(Ordering::SeqCst), 1);
        // Another picture and another engine do not.
        first.read(&page("a", 2)).unwrap();
        reader("v2").read(&page("a", 1)).unwrap();
        assert_eq!(count.load(Ordering::SeqCst), 3);
    }

    #[test]
    fn damaged_results_and_failures_are_done_again() {
        let folder = tempfile::tempdir().unwrap();
        let count = Arc::new(AtomicUsize::new(0));
        let reader = || {
            let engine = Box::new(Counting(count.clone(), "v"));
            Reader::new(engine, Some(folder.path().to_owned()))
        };
        let first = reader();
        first.read(&page("a", 1)).unwrap();
        let file = first.file(&page("a", 1)).unwrap();
        fs::write(&file, b"{\"engine\":").unwrap();
        reader().read(&page("a", 1)).unwrap();
        assert_eq!(count.load(Ordering::SeqCst), 2);
        assert!(fs::read(&file).unwrap().ends_with(b"}"));
        let bad = Page::from_bytes("bad.png".as_ref(), b"no picture".to_vec());
        for _ in 0..2 {
            first.read(&bad).unwrap_err();
        }
        assert_eq!(count.load(Ordering::SeqCst), 4);
        // A cache that cannot be written costs nothing but time.
        let nowhere = file.join("below a file");
        let lost = Reader::new(Box::new(Counting(count.clone(), "v")), Some(nowhere));
        assert_eq!(lost.read(&page("a", 1)).unwrap()[0].text, "read 4");
    }

    /// Does other work of its pool meanwhile, as PP-OCR does while it waits for a share of its own work.
    struct Sharing;

    impl Engine for Sharing {
        fn name(&self) -> &'static str {
            "sharing"
        }

        fn fingerprint(&self) -> Option<String> {
            Some("v".to_owned())
        }

        fn read(&self, _page: &Page) -> Result<Vec<Line>, OcrError> {
            rayon::yield_now();
            std::thread::sleep(Duration::from_millis(1));
            rayon::yield_now();
            Ok(vec![Line::in_box([0.0, 0.0, 1.0, 1.0], "read", 1.0)])
        }
    }

    #[test]
    fn threads_of_a_pool_never_wait_for_each_other() {
        for threads in [1, 8] {
            let (sender, done) = mpsc::channel();
            // A thread of its own, so that the test fails where it would hang.
            std::thread::spawn(move || {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
                let reader = Reader::new(Box::new(Sharing), None);
                let read = |at: usize| reader.read(&page("a", (at % 2) as u8)).unwrap().len();
                let asks = || (0..64).into_par_iter().with_max_len(1).map(read).sum();
                let lines: usize = pool.unwrap().install(asks);
                sender.send(lines).unwrap();
            });
            let lines = done.recv_timeout(Duration::from_secs(60));
            assert_eq!(lines, Ok(64), "{threads} threads wait for each other");
        }
    }
}
