//! Trying again.

use std::{thread, time::Duration};

use super::RemoteError;

/// How often and after which waits a request is sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// Requests at most, the first included.
    pub attempts: u32,
    /// Wait before the second; it doubles from one to the next.
    pub base: Duration,
    /// Longest wait, also where the server asks for more.
    pub cap: Duration,
}

impl Default for Retry {
    /// Six attempts within about 15 seconds.
    fn default() -> Self {
        Self {
            attempts: 6,
            base: Duration::from_millis(500),
            cap: Duration::from_secs(30),
        }
    }
}

impl Retry {
    /// Calls until it succeeds, fails for good, or has failed too often.
    pub(super) fn run<T>(
        &self,
        mut call: impl FnMut() -> Result<T, RemoteError>,
    ) -> Result<T, RemoteError> {
        let mut attempt = 1;
        loop {
            match call() {
                Err(error) if error.is_transient() && attempt < self.attempts => {
                    let own = self.base.saturating_mul(1 << (attempt - 1).min(16));
                    thread::sleep(error.wait().unwrap_or(own).min(self.cap));
                    attempt += 1;
                }
                result => return result,
            }
        }
    }
}
