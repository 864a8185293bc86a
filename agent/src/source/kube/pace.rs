//! Waits between attempts.

use std::time::Duration;

use super::failure::Failure;

/// The first wait; each one after it is twice as long.
const FIRST: Duration = Duration::from_millis(200);

/// Exponential backoff with jitter, so that the nodes of a cluster do not come back all at once.
#[derive(Debug, Default)]
pub(super) struct Pace {
    attempts: u32,
}

impl Pace {
    /// How long to wait after one more failure.
    pub(super) fn after(&mut self, failure: &Failure) -> Duration {
        let limit = failure.patience.limit();
        let wait = FIRST.saturating_mul(1 << self.attempts.min(16)).min(limit);
        self.attempts += 1;
        wait.mul_f64(0.5 + fastrand::f64() / 2.0)
            .max(failure.asked.min(super::failure::Patience::Long.limit()))
    }

    /// How many failures there were since the last reset.
    pub(super) fn attempts(&self) -> u32 {
        self.attempts
    }

    /// All is well again.
    pub(super) fn reset(&mut self) {
        self.attempts = 0;
    }
}
