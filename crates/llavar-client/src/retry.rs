//! When to try again.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::{Duration, Instant},
};

use crate::ClientError;

/// Exponential backoff with jitter.
#[derive(Debug, Clone)]
pub struct RetryPolicy {
    /// Requests that are sent at most, the first included.
    pub attempts: u32,
    /// Longest wait before the second attempt; it doubles from attempt to attempt.
    pub base: Duration,
    /// Longest wait of our own choice. What the server asks for may be longer.
    pub cap: Duration,
    /// From the first request on, waits included; then the call fails.
    pub overall: Duration,
}

impl Default for RetryPolicy {
    /// Six attempts, 1 s to 60 s apart, 20 minutes in all.
    fn default() -> Self {
        Self {
            attempts: 6,
            base: Duration::from_secs(1),
            cap: Duration::from_secs(60),
            overall: Duration::from_secs(20 * 60),
        }
    }
}

impl RetryPolicy {
    /// The wait before attempt `next` (2 is the first that is a retry), or `None` where it is not worth
    /// trying. A uniform draw below the bound keeps many clients from coming back at the same moment.
    pub(crate) fn wait(
        &self,
        next: u32,
        error: &ClientError,
        elapsed: Duration,
    ) -> Option<Duration> {
        if next > self.attempts || !error.is_transient() {
            return None;
        }
        let bound = self
            .base
            .saturating_mul(1 << (next - 2).min(20))
            .min(self.cap);
        let drawn = bound.mul_f64(unit_random());
        let wait = match error.retry_after() {
            // Never sooner than the server asks, and not all at its very moment.
            Some(asked) => asked + drawn.min(asked / 4),
            None => drawn,
        };
        (elapsed + wait < self.overall).then_some(wait)
    }
}

/// Uniform in [0, 1). Jitter needs no seed, and the standard library's hasher keys are random.
fn unit_random() -> f64 {
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u8(0);
    (hasher.finish() >> 11) as f64 / (1u64 << 53) as f64
}

/// Sleeps; `false` as soon as `cancel` is set.
pub(crate) fn sleep(wait: Duration, cancel: Option<&AtomicBool>) -> bool {
    let until = Instant::now() + wait;
    loop {
        if cancel.is_some_and(|flag| flag.load(Relaxed)) {
            return false;
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        std::thread::sleep(left.min(Duration::from_millis(50)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_honour_the_server() {
        let policy = RetryPolicy::default();
        let server = ClientError::Server {
            status: 500,
            retry_after: None,
            message: String::new(),
        };
        let mut longest = [Duration::ZERO; 7];
        for _ in 0..200 {
            for next in 2..=6 {
                let wait = policy.wait(next, &server, Duration::ZERO).unwrap();
                assert!(wait <= Duration::from_secs(1 << (next - 2)));
                longest[next as usize] = longest[next as usize].max(wait);
            }
        }
        assert!(longest[6] > longest[2], "{longest:?}");
        assert!(policy.wait(7, &server, Duration::ZERO).is_none());
        assert!(
            policy
                .wait(2, &server, Duration::from_secs(20 * 60))
                .is_none()
        );

        let limit = ClientError::RateLimit {
            retry_after: Some(Duration::from_secs(100)),
            message: String::new(),
        };
        let wait = policy.wait(2, &limit, Duration::ZERO).unwrap();
        assert!(wait >= Duration::from_secs(100) && wait <= Duration::from_secs(125));
        assert!(
            policy
                .wait(2, &ClientError::EmptyChoices, Duration::ZERO)
                .is_some()
        );
        let auth = ClientError::Auth {
            status: 401,
            message: String::new(),
        };
        assert!(policy.wait(2, &auth, Duration::ZERO).is_none());
    }

    #[test]
    fn a_set_flag_ends_a_sleep() {
        let begun = Instant::now();
        assert!(!sleep(
            Duration::from_secs(3600),
            Some(&AtomicBool::new(true))
        ));
        assert!(begun.elapsed() < Duration::from_secs(60));
    }
}
