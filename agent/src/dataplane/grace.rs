//! A grace period that somebody else waits for.

use std::thread::{self, JoinHandle};

/// The time until no program still uses what it read before this was made.
#[derive(Debug)]
pub struct GracePeriod {
    /// Who waits for its end; nobody if it is over.
    waiter: Option<JoinHandle<()>>,
}

impl GracePeriod {
    /// One that has been waited for.
    #[must_use]
    pub fn over() -> Self {
        Self { waiter: None }
    }

    /// One that is over once `wait` returns, which a thread of its own calls.
    pub fn watched_by(wait: fn()) -> Self {
        let waiter = thread::Builder::new().name("weir-grace".into()).spawn(wait);
        match waiter {
            Ok(waiter) => Self {
                waiter: Some(waiter),
            },
            Err(error) => {
                tracing::debug!(%error, "no thread for a grace period");
                wait();
                Self::over()
            }
        }
    }

    /// Whether it is over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.waiter.as_ref().is_none_or(JoinHandle::is_finished)
    }
}
