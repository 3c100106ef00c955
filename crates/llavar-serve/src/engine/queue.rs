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

/// The waiting line, with a place for each request that is being read or waits. What finds a free slot of the
/// engine does not wait.
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
    /// Slots of the engine.
    slots: usize,
    /// Requests that are in them.
    running: usize,
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
    /// A line in which at most `most` requests wait while all slots are taken.
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

    /// Says how many requests the engine answers side by side.
    pub(super) fn set_slots(&self, slots: usize) {
        self.line().slots = slots;
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
        // Free slots take the first in line at once: only those behind them wait.
        let all = line.waiting.len() + line.reserved + line.running;
        if all >= self.most.saturating_add(line.slots) {
            return Err(NoPlace::Full);
        }
        line.reserved += 1;
        Ok(Place(self.clone()))
    }

    /// The first in line and the slot that it takes; with `wait` once there is one, or `None` when no more can come.
    pub(super) fn take(self: &Arc<Self>, wait: bool) -> Option<(Pending, Slot)> {
        let mut line = self.line();
        loop {
            if let Some(first) = line.waiting.pop_front() {
                line.running += 1;
                return Some((first, Slot(self.clone())));
            }
            let may_come = !line.closed || line.reserved > 0;
            if !wait || !may_come {
                return None;
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

/// A slot of the engine that is taken, free again when this is dropped.
pub(super) struct Slot(Arc<Queue>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.line().running -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn pending() -> Pending {
        Pending {
            number: 0,
            prompt: Vec::new(),
            pictures: Vec::new(),
            options: Arc::default(),
            // Nobody listens.
            events: mpsc::channel().0,
            arrived: Instant::now(),
            submitted: Instant::now(),
        }
    }

    #[test]
    fn the_line_is_full_when_as_many_wait_as_may_behind_the_slots() {
        let queue = Queue::new(1);
        queue.set_slots(2);
        let enter =
            |count: usize| -> Vec<Place> { (0..count).map(|_| queue.enter().unwrap()).collect() };
        let is_full = || queue.enter().err() == Some(NoPlace::Full);
        // Two for the slots and one that waits, however far they are.
        let places = enter(3);
        assert!(is_full());
        for place in places {
            place.submit(pending());
        }
        assert!(is_full());
        let running = [queue.take(false), queue.take(false)];
        assert!(running.iter().all(Option::is_some));
        assert_eq!(queue.len(), 1);
        assert!(is_full());
        // The one that waits has a slot now; there is room for another, and for one behind them.
        drop(running);
        let places = enter(2);
        assert!(is_full());
        drop(places);
        assert_eq!(queue.len(), 1);
        assert!(!is_full());
    }
}
