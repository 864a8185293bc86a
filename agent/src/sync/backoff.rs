//! When to try again.

use std::time::{Duration, Instant};

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(10);

/// Doubles the wait with each failure in a row.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
    until: Option<Instant>,
}

impl Backoff {
    /// Notes a failure at `now` and says how long to wait.
    pub(super) fn fail(&mut self, now: Instant) -> Duration {
        let wait = FIRST
            .saturating_mul(2_u32.saturating_pow(self.failures))
            .min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        self.until = Some(now + wait);
        wait
    }

    /// Notes a success.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }

    /// Whether there is nothing to wait for.
    #[must_use]
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.until.is_none_or(|until| until <= now)
    }

    /// The end of the wait, if there is one.
    #[must_use]
    pub(super) fn until(&self) -> Option<Instant> {
        self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_a_limit_and_forgets_on_success() {
        let now = Instant::now();
        let mut backoff = Backoff::default();
        assert!(backoff.is_over(now));
        let waits: Vec<u128> = (0..9).map(|_| backoff.fail(now).as_millis()).collect();
        assert_eq!(
            waits,
            [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]
        );
        assert!(!backoff.is_over(now));
        assert!(backoff.is_over(now + LONGEST));
        backoff.reset();
        assert_eq!(backoff.fail(now), FIRST);
    }
}
