//! Requests that wait for the engine, first come, first served.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc::Sender},
    time::Instant,
};

use llavar_assistant::Picture;
use llavar_model::generation::GenerationOptions;

use super::Event;

/// A request that is ready for the engine. Whoever waits for it holds the other end of `events`.
pub(crate) struct Pending {
    /// Names it to its owner.
    pub(crate) number: u64,
    pub(crate) prompt: Vec<i32>,
    pub(crate) pictures: Vec<Picture>,
    pub(crate) options: Arc<GenerationOptions>,
    pub(crate) events: Sender<Event>,
    /// When its first bytes came.
    pub(crate) arrived: Instant,
    /// When it was ready.
    pub(crate) submitted: Instant,
}

/// The waiting line, with a place for each request that is being read or waits.
pub(crate) struct Queue {
    line: Mutex<Line>,
    arrived: Condvar,
    most: usize,
}

#[derive(Default)]
struct Line {
    waiting: VecDeque<Pending>,
    /// Places of requests whose pictures are being read.
    reserved: usize,
    closed: bool,
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoPlace {
    /// As many wait as may.
    Full,
    /// No more requests are taken.
    Closed,
}

impl Queue {
    /// A line of at most `most` requests.
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            line: Mutex::default(),
            arrived: Condvar::new(),
            most: most.max(1),
        })
    }

    /// Places in it.
    pub(crate) fn places(&self) -> usize {
        self.most
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place, before anything costly is done for a request.
    pub(crate) fn enter(self: &Arc<Self>) -> Result<Place, NoPlace> {
        let mut line = self.line();
        if line.closed {
            return Err(NoPlace::Closed);
        }
        if line.waiting.len() + line.reserved >= self.most {
            return Err(NoPlace::Full);
        }
        line.reserved += 1;
        Ok(Place(self.clone()))
    }

    /// The first in line; with `wait` once there is one, or `None` when no more can come.
    pub(super) fn take(&self, wait: bool) -> Option<Pending> {
        let mut line = self.line();
        loop {
            let first = line.waiting.pop_front();
            let may_come = !line.closed || line.reserved > 0;
            if first.is_some() || !wait || !may_come {
                return first;
            }
            line = self
                .arrived
                .wait(line)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub(super) fn is_waiting(&self) -> bool {
        !self.line().waiting.is_empty()
    }

    /// Forgets a request whose client has gone; nothing happens where it does not wait any more.
    pub(crate) fn leave(&self, number: u64) {
        self.line().waiting.retain(|p| p.number != number);
    }

    /// Requests that wait or are being read.
    pub(crate) fn len(&self) -> usize {
        let line = self.line();
        line.waiting.len() + line.reserved
    }

    /// Takes no more requests; those that wait are still answered.
    pub(crate) fn close(&self) {
        self.line().closed = true;
        self.arrived.notify_all();
    }

    /// Lets go of all that wait.
    pub(super) fn clear(&self) {
        self.line().waiting.clear();
    }
}

/// A place in the line, given back when it is dropped.
pub(crate) struct Place(Arc<Queue>);

impl Place {
    /// Puts the request into its place.
    pub(crate) fn submit(self, pending: Pending) {
        self.0.line().waiting.push_back(pending);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.line().reserved -= 1;
        // The engine may wait for this place alone.
        self.0.arrived.notify_all();
    }
}
