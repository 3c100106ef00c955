//! One thread with the model: it takes requests as they come and answers them side by side.

mod feed;
mod queue;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc,
    },
    thread::JoinHandle,
    time::Duration,
};

use llavar_assistant::{Assistant, Error, PictureCache};
use llavar_model::generation::{Generation, Room, generate_as_they_come};

pub(crate) use queue::{NoPlace, Pending, Place, Queue};

use crate::{ServeError, log::Log, metrics::Metrics};
use feed::Feed;

/// Why one request has no answer; others are not concerned.
pub(crate) type Fault = Box<Error>;

/// What whoever waits for an answer is told. A channel that closes before its end says that the model failed.
#[derive(Debug)]
pub(crate) enum Event {
    /// The request is among those that are answered; its prompt has so many tokens.
    Begun(usize),
    /// An id of the answer, and its log-probability.
    Token(u32, f32),
    /// The whole answer.
    Done(Generation),
    /// There is none.
    Failed(Fault),
}

/// The model at work.
pub(crate) struct Engine {
    pub(crate) assistant: Arc<Assistant>,
    pub(crate) room: Room,
    abort: Arc<AtomicBool>,
    thread: std::sync::Mutex<Option<JoinHandle<()>>>,
}

impl Engine {
    /// Sets the model up and begins to take requests. `picture_bytes`: features of pictures that are kept.
    ///
    /// # Errors
    /// When the device has no room for the keys and values.
    pub(crate) fn start(
        assistant: Assistant,
        room: Room,
        picture_bytes: usize,
        queue: Arc<Queue>,
        metrics: Arc<Metrics>,
        log: Log,
    ) -> Result<Self, ServeError> {
        queue.set_slots(room.slots);
        let assistant = Arc::new(assistant);
        let abort = Arc::new(AtomicBool::new(false));
        let (ready, is_ready) = mpsc::channel();
        let (failed, has_failed) = mpsc::channel();
        let of_thread = (assistant.clone(), abort.clone());
        let work = move || {
            let (assistant, abort) = of_thread;
            let mut feed = Feed {
                assistant: &assistant,
                room,
                queue,
                metrics,
                pictures: PictureCache::new(picture_bytes),
                abort,
                ready: Some(ready),
                taken: 0,
            };
            while let Err(fault) = answer(&mut feed) {
                if feed.ready.is_some() {
                    let _ = failed.send(fault);
                    return;
                }
                recover(&mut feed, &fault, &log);
            }
        };
        let thread = std::thread::Builder::new().name("engine".to_owned());
        let thread = thread.spawn(work).map_err(ServeError::Thread)?;
        // It is ready, or its thread has ended.
        if is_ready.recv().is_err() {
            return Err(match has_failed.recv() {
                Ok(EngineFault::Model(error)) => ServeError::Model(error),
                Ok(EngineFault::Panic(message)) => ServeError::EnginePanic { message },
                Err(_) => ServeError::EnginePanic {
                    message: "its thread ended".to_owned(),
                },
            });
        }
        Ok(Self {
            assistant,
            room,
            abort,
            thread: std::sync::Mutex::new(Some(thread)),
        })
    }

    /// Ends all answers where they are, those that wait too.
    pub(crate) fn abort(&self) {
        self.abort.store(true, Relaxed);
    }

    pub(crate) fn is_aborted(&self) -> bool {
        self.abort.load(Relaxed)
    }

    /// Waits for the end of the thread, which comes when the line is closed and empty.
    pub(crate) fn join(&self) {
        let thread = self.thread.lock().map(|mut thread| thread.take());
        if let Ok(Some(thread)) = thread {
            let _ = thread.join();
        }
    }
}

/// What ends the work on all requests that are being answered.
enum EngineFault {
    Model(llavar_model::ModelError),
    Panic(String),
}

/// Answers requests until no more will come.
fn answer(feed: &mut Feed<'_>) -> Result<(), EngineFault> {
    let (assistant, room) = (feed.assistant, feed.room);
    let vocab_limit = assistant.defaults().vocab_limit;
    feed.taken = 0;
    let work = || generate_as_they_come(assistant.model(), room, vocab_limit, feed);
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(EngineFault::Model(error)),
        Err(payload) => {
            let text = payload.downcast_ref::<String>().cloned();
            let text = text.or_else(|| payload.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            Err(EngineFault::Panic(text.unwrap_or_default()))
        }
    }
}

/// After a fault of the model: those who were being answered have been told by their channels. Those who wait
/// get their chance, unless the model cannot even be set up.
fn recover(feed: &mut Feed<'_>, fault: &EngineFault, log: &Log) {
    match fault {
        EngineFault::Model(error) => log.error("the model failed", error),
        EngineFault::Panic(message) => log.line(&format!("error: the model failed: {message}")),
    }
    if feed.taken == 0 {
        feed.queue.clear();
        std::thread::sleep(Duration::from_secs(1));
    }
}
