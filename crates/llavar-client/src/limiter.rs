//! How many requests run at once: additive increase, multiplicative decrease.

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Hands out permits. The number grows by one for each full round of successes and halves when the server
/// asks to slow down; a wait that the server asks for holds everybody back.
#[derive(Debug)]
pub struct Limiter {
    most: f64,
    state: Mutex<State>,
    freed: Condvar,
}

#[derive(Debug)]
struct State {
    limit: f64,
    running: usize,
    not_before: Option<Instant>,
    /// Failures of requests that were sent before this are of the same congestion.
    reduced: Option<Instant>,
}

/// The right to send one request; given back when dropped.
#[derive(Debug)]
pub(crate) struct Permit<'a> {
    limiter: &'a Limiter,
    begun: Instant,
}

impl Limiter {
    /// At most `most` requests at once (at least one). It begins with four: a server that is not
    /// known is not met with all of them.
    pub fn new(most: usize) -> Self {
        let most = most.max(1) as f64;
        Self {
            most,
            state: Mutex::new(State {
                limit: most.min(4.0),
                running: 0,
                not_before: None,
                reduced: None,
            }),
            freed: Condvar::new(),
        }
    }

    /// How many requests may run at present.
    pub fn limit(&self) -> usize {
        self.lock().limit as usize
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a permit; `None` once `stop` says so.
    pub(crate) fn acquire(&self, stop: impl Fn() -> bool) -> Option<Permit<'_>> {
        let mut state = self.lock();
        loop {
            if stop() {
                return None;
            }
            let now = Instant::now();
            let held = state.not_before.filter(|at| *at > now).map(|at| at - now);
            if held.is_none() && state.running < state.limit as usize {
                state.running += 1;
                return Some(Permit {
                    limiter: self,
                    begun: now,
                });
            }
            // The flag has no wake-up of its own.
            let tick = Duration::from_millis(50);
            let wait = held.map_or(tick, |held| held.min(tick));
            state = self
                .freed
                .wait_timeout(state, wait)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

impl Permit<'_> {
    /// The request went through.
    pub(crate) fn succeeded(&self) {
        let mut state = self.limiter.lock();
        state.limit = (state.limit + 1.0 / state.limit).min(self.limiter.most);
    }

    /// The server asked to slow down; nobody sends for `wait`.
    pub(crate) fn congested(&self, wait: Option<Duration>) {
        let mut state = self.limiter.lock();
        let now = Instant::now();
        // Requests of one round fail together and are one sign, not many.
        if state.reduced.is_none_or(|at| self.begun >= at) {
            state.limit = (state.limit / 2.0).max(1.0);
            state.reduced = Some(now);
        }
        if let Some(until) = wait.and_then(|wait| now.checked_add(wait)) {
            state.not_before = Some(state.not_before.map_or(until, |at| at.max(until)));
        }
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.limiter.lock().running -= 1;
        self.limiter.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_by_rounds_and_halves_once_a_round() {
        let limiter = Limiter::new(8);
        assert_eq!(limiter.limit(), 4);
        for _ in 0..40 {
            limiter.acquire(|| false).unwrap().succeeded();
        }
        assert_eq!(limiter.limit(), 8);
        let round: Vec<_> = (0..8).map(|_| limiter.acquire(|| false).unwrap()).collect();
        round.iter().for_each(|permit| permit.congested(None));
        assert_eq!(limiter.limit(), 4);
        drop(round);
        for _ in 0..10 {
            limiter.acquire(|| false).unwrap().congested(None);
        }
        assert_eq!(limiter.limit(), 1);
    }

    #[test]
    fn the_servers_wait_holds_everybody_and_a_stop_frees_them() {
        let limiter = Limiter::new(2);
        let permit = limiter.acquire(|| false).unwrap();
        permit.congested(Some(Duration::from_secs(3600)));
        drop(permit);
        assert!(limiter.acquire(|| true).is_none());
        let polls = std::cell::Cell::new(0);
        let stop = || polls.replace(polls.get() + 1) > 2;
        assert!(limiter.acquire(stop).is_none(), "held back");
    }

    #[test]
    fn never_more_than_the_limit() {
        let limiter = Limiter::new(3);
        let most = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        let permit = limiter.acquire(|| false).unwrap();
                        let running = limiter.lock().running;
                        most.fetch_max(running, std::sync::atomic::Ordering::Relaxed);
                        permit.succeeded();
                    }
                });
            }
        });
        assert!(most.into_inner() <= 3);
    }
}
