//! Waits between attempts.

use std::time::Duration;

use super::failure::{Failure, Patience, Recovery};

/// The first wait; each one after it is twice as long.
const FIRST: Duration = Duration::from_millis(200);

/// Exponential backoff with jitter, so that the nodes of a cluster do not come back all at once.
///
/// Failures of different sorts count apart. A server that comes back after a long outage first refuses rights it has not
/// read yet, or says that the watch has expired; the outage is no reason to wait long after that.
#[derive(Debug, Default)]
pub(super) struct Pace {
    counts: [u32; 4],
}

impl Pace {
    /// How long to wait after one more failure.
    pub(super) fn after(&mut self, failure: &Failure) -> Duration {
        let sort = match (failure.recovery, failure.patience) {
            (Recovery::Relist, _) => 0,
            (_, Patience::Short) => 1,
            (_, Patience::Medium) => 2,
            (_, Patience::Long) => 3,
        };
        let count = &mut self.counts[sort];
        let wait = FIRST
            .saturating_mul(1 << (*count).min(16))
            .min(failure.patience.limit());
        *count += 1;
        wait.mul_f64(0.5 + fastrand::f64() / 2.0)
            .max(failure.asked.min(Patience::Long.limit()))
    }

    /// How many failures there were since the last reset.
    pub(super) fn failures(&self) -> u32 {
        self.counts.iter().sum()
    }

    /// All is well again.
    pub(super) fn reset(&mut self) {
        self.counts = [0; 4];
    }
}
