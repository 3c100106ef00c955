//! Prices, and a limit that is never passed.

use std::sync::{Condvar, Mutex, PoisonError};

use llavar_client::Usage;
use serde::{Deserialize, Serialize};

/// Prices of a model, USD a million tokens.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Prices {
    /// Of a request.
    pub prompt: f64,
    /// Of an answer.
    pub completion: f64,
    /// Of a request's tokens that the server has in its cache; as `prompt` where absent.
    pub cached: Option<f64>,
}

impl Prices {
    /// Price of a request, USD.
    pub fn of(&self, usage: &Usage) -> f64 {
        let cached = usage.cached_tokens.min(usage.prompt_tokens);
        let fresh = usage.prompt_tokens - cached;
        (fresh as f64 * self.prompt
            + cached as f64 * self.cached.unwrap_or(self.prompt)
            + usage.completion_tokens as f64 * self.completion)
            / 1e6
    }
}

/// A limit on what a run may cost in all, earlier runs into the same journal included.
#[derive(Debug)]
pub struct Budget {
    limit: Option<f64>,
    state: Mutex<State>,
    settled: Condvar,
}

#[derive(Debug)]
struct State {
    spent: f64,
    reserved: f64,
    /// Requests with something set aside.
    running: usize,
}

impl Budget {
    /// At most `limit`, USD (or tokens, as long as all sums are of one kind), of which `spent` is gone.
    pub fn new(limit: Option<f64>, spent: f64) -> Self {
        Self {
            limit,
            state: Mutex::new(State {
                spent,
                reserved: 0.0,
                running: 0,
            }),
            settled: Condvar::new(),
        }
    }

    /// Sets the most that a request can cost aside; `false` where that might pass the limit. Where it is
    /// only other requests under way that stand in the way, their end is waited for: most cost far less
    /// than they might.
    pub fn reserve(&self, most: f64) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(limit) = self.limit {
            while state.spent + state.reserved + most > limit {
                if state.running == 0 || state.spent + most > limit {
                    return false;
                }
                state = self
                    .settled
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            }
        }
        state.reserved += most;
        state.running += 1;
        true
    }

    /// Puts what was set aside back and takes what it cost.
    pub fn settle(&self, most: f64, cost: f64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.running -= 1;
        // No rest of rounding stays when nothing is under way.
        state.reserved = match state.running {
            0 => 0.0,
            _ => state.reserved - most,
        };
        state.spent += cost;
        self.settled.notify_all();
    }

    /// What was spent.
    pub fn spent(&self) -> f64 {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .spent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_and_limits() {
        let prices = Prices {
            prompt: 2.0,
            completion: 10.0,
            cached: Some(1.0),
        };
        let usage = Usage {
            prompt_tokens: 1_000_000,
            completion_tokens: 100_000,
            cached_tokens: 500_000,
        };
        assert_eq!(prices.of(&usage), 1.0 + 0.5 + 1.0);

        let budget = Budget::new(Some(1.0), 0.4);
        assert!(budget.reserve(0.3) && budget.reserve(0.3) && !budget.reserve(0.7));
        // The third waits for one of the two and then has room.
        std::thread::scope(|scope| {
            let third = scope.spawn(|| budget.reserve(0.15));
            budget.settle(0.3, 0.1);
            assert!(third.join().unwrap());
        });
        budget.settle(0.3, 0.3);
        budget.settle(0.15, 0.1);
        assert!(!budget.reserve(0.2) && budget.reserve(0.05));
        assert!(Budget::new(None, 1e9).reserve(1e9));
    }
}
