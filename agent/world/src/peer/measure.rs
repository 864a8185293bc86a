//! Measurements: what is asked for, and what is reported.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A measurement, by one thread on blocking sockets, against a server of [`super::Peer::bench_server`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BenchSpec {
    /// Where to.
    pub to: SocketAddr,
    /// What is measured.
    pub kind: BenchKind,
    /// How long at most.
    pub duration: Duration,
    /// How many operations at most.
    pub operations: Option<u64>,
    /// Bytes of a request and its answer, a write or a datagram. Not used by `Connect`, which sends one byte each way.
    pub size: usize,
    /// Sockets used in turn, each a flow of its own; by UDP only.
    pub flows: usize,
    /// Close connections with a reset, which leaves no port in TIME_WAIT.
    pub reset_on_close: bool,
}

impl BenchSpec {
    /// With requests of one byte, writes of 64 KiB or datagrams of 64 bytes, one flow, and connections reset on close.
    #[must_use]
    pub fn new(to: impl Into<SocketAddr>, kind: BenchKind, duration: Duration) -> Self {
        Self {
            to: to.into(),
            kind,
            duration,
            operations: None,
            size: match kind {
                BenchKind::Connect | BenchKind::RequestResponse => 1,
                BenchKind::Bulk => 64 << 10,
                BenchKind::UdpRequestResponse | BenchKind::UdpFlood => 64,
            },
            flows: 1,
            reset_on_close: true,
        }
    }
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum BenchKind {
    /// Connect, one byte each way, close; over and over.
    Connect,
    /// Request and answer on one TCP connection.
    RequestResponse,
    /// Writes on one TCP connection, until the server has read them all.
    Bulk,
    /// Request and answer in datagrams of connected sockets; a lost one counts as a failure.
    UdpRequestResponse,
    /// Datagrams of connected sockets one way, as many as can be sent: the server's [`super::ServerCounts`] tell how many arrived.
    UdpFlood,
}

/// What was measured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BenchReport {
    /// Operations done: connections, requests, writes or datagrams.
    pub operations: u64,
    /// Those that failed, by name of the error. A broken connection ends all but `Connect`.
    pub failed: BTreeMap<String, u64>,
    /// Bytes sent.
    pub bytes: u64,
    /// How long it took, without the opening of sockets that go on.
    pub elapsed: Duration,
    /// CPU time of the measuring thread, system calls and softirqs on its account included.
    pub cpu: Duration,
    /// Half of the operations took no longer. Not measured by `Bulk` and `UdpFlood`, whose writes only fill a buffer.
    pub p50: Duration,
    /// 99 of 100 operations took no longer.
    pub p99: Duration,
    /// The longest.
    pub max: Duration,
}

impl BenchReport {
    /// Operations per second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.operations as f64 / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// Bytes per second.
    #[must_use]
    pub fn throughput(&self) -> f64 {
        self.bytes as f64 / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }
}
