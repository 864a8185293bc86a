//! Traffic in the background: what is asked for, and what is reported.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::exchange::{Exchange, Failure};

/// Many exchanges, each on a socket of its own.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LoadSpec {
    /// What each of them is.
    pub exchange: Exchange,
    /// How many run at once.
    pub workers: usize,
    /// How long at most.
    pub duration: Duration,
    /// How many at most, over all workers.
    pub count: Option<u64>,
    /// Pause of a worker between two.
    pub pause: Duration,
}

impl LoadSpec {
    /// Four workers without a pause, for this long. Connections are reset on close, so that no number of them uses up the ports.
    #[must_use]
    pub fn new(exchange: Exchange, duration: Duration) -> Self {
        Self {
            exchange: Exchange {
                reset_on_close: true,
                ..exchange
            },
            workers: 4,
            duration,
            count: None,
            pause: Duration::ZERO,
        }
    }

    /// With so many workers.
    #[must_use]
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    /// No more than so many exchanges.
    #[must_use]
    pub fn count(mut self, count: u64) -> Self {
        self.count = Some(count);
        self
    }

    /// With a pause of each worker between two exchanges.
    #[must_use]
    pub fn pause(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }
}

/// What a load has done so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadReport {
    /// Exchanges that were answered.
    pub ok: u64,
    /// Those that failed, by name of the error.
    pub failed: BTreeMap<String, u64>,
    /// Those that were answered, by name of the server.
    pub answered_by: BTreeMap<String, u64>,
    /// The first failure, and when.
    pub first_failure: Option<(Duration, Failure)>,
    /// Half of the answered ones took no longer.
    pub p50: Duration,
    /// 99 of 100 answered ones took no longer.
    pub p99: Duration,
    /// The longest of all, failed ones too.
    pub max: Duration,
    /// Since the start, until now or the end.
    pub elapsed: Duration,
}

impl LoadReport {
    /// How many failed.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failed.values().sum()
    }
}

/// Sockets that stay open, with a request now and then.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LongLivedSpec {
    /// Where to, how, and what each request is.
    pub exchange: Exchange,
    /// How many sockets.
    pub connections: usize,
    /// From a request's end to the next on the same socket.
    pub every: Duration,
    /// How long at most.
    pub duration: Duration,
    /// Whether a broken connection is opened again. UDP sockets always go on.
    pub reopen: bool,
}

impl LongLivedSpec {
    /// So many sockets, a request every 20 ms on each, not opened again when broken.
    #[must_use]
    pub fn new(exchange: Exchange, connections: usize, duration: Duration) -> Self {
        Self {
            exchange,
            connections,
            every: Duration::from_millis(20),
            duration,
            reopen: false,
        }
    }

    /// With this time between requests.
    #[must_use]
    pub fn every(mut self, every: Duration) -> Self {
        self.every = every;
        self
    }

    /// Opening broken connections again.
    #[must_use]
    pub fn reopen(mut self) -> Self {
        self.reopen = true;
        self
    }
}

/// What long-lived sockets have seen so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LongLivedReport {
    /// Sockets open now.
    pub open: u64,
    /// Requests answered.
    pub requests: u64,
    /// Requests answered, by name of the server.
    pub answered_by: BTreeMap<String, u64>,
    /// Sockets open now, by name of the server of their last answer.
    pub open_to: BTreeMap<String, u64>,
    /// What broke, in order.
    pub breaks: Vec<Break>,
    /// The longest request.
    pub max: Duration,
}

/// A request that was not answered, or a connection that could not be opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Break {
    /// Which socket, from 0.
    pub connection: usize,
    /// Since the start.
    pub at: Duration,
    /// Server of its last answer.
    pub answered_by: Option<String>,
    /// How.
    pub failure: Failure,
}
