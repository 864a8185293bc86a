//! What is said between a [`super::Peer`] and its worker, and what comes back to the caller.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Changes whenever a handle could misunderstand an older worker.
pub(super) const VERSION: u32 = 1;

/// First line of a worker.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Hello {
    pub(super) weir_peer: u32,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) id: u64,
    pub(super) command: Command,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Response {
    pub(super) id: u64,
    /// The command's own answer, or why there is none.
    pub(super) result: Result<serde_json::Value, String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Command {
    /// Answered by the server's number and address.
    Serve {
        kind: ServerKind,
        at: SocketAddr,
        name: String,
    },
    /// Answered by [`ServerCounts`].
    ServerCounts {
        server: u64,
    },
    StopServer {
        server: u64,
        keep_connections: bool,
    },
    /// Answered by [`Outcome`].
    Exchange(Exchange),
    /// Answered by the conversation's number, if there is one, and the [`Outcome`] of opening it.
    Open(Exchange),
    /// Answered by [`Outcome`].
    Ask {
        conversation: u64,
        payload: String,
        timeout: Duration,
    },
    Close {
        conversation: u64,
    },
    /// Answered by the job's number.
    Start(JobSpec),
    /// Answered by whether the job is done, and its report.
    Report {
        job: u64,
        stop: bool,
    },
    /// Answered by the CPU time of the worker so far.
    CpuTime,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ServerKind {
    TcpEcho,
    UdpEcho,
    TcpBench,
    UdpBench,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum JobSpec {
    Load(LoadSpec),
    LongLived(LongLivedSpec),
    Bench(BenchSpec),
}

/// What a server has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerCounts {
    /// TCP connections accepted.
    pub accepted: u64,
    /// Chunks of a stream, or datagrams, received.
    pub received: u64,
    /// Bytes received.
    pub bytes: u64,
}

/// How a client talks to a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Transport {
    /// A connection.
    #[default]
    Tcp,
    /// `sendto` and `recvfrom` on a socket without a peer.
    Udp,
    /// `connect`, `send` and `recv`.
    UdpConnected,
}

/// One request to an echo server and its answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Exchange {
    /// Where to. `::ffff:a.b.c.d` makes an IPv6 socket talk IPv4.
    pub to: SocketAddr,
    /// How.
    pub transport: Transport,
    /// Address and port to bind to first; either may be left open by its zero.
    pub from: Option<SocketAddr>,
    /// What to send and expect back. May be empty with TCP, where the server speaks first.
    pub payload: String,
    /// For connecting, and again for each answer.
    pub timeout: Duration,
    /// Close with a reset, which leaves no port in TIME_WAIT.
    pub reset_on_close: bool,
}

impl Exchange {
    /// Over TCP, within two seconds, closed in order.
    #[must_use]
    pub fn tcp(to: impl Into<SocketAddr>) -> Self {
        Self {
            to: to.into(),
            transport: Transport::Tcp,
            from: None,
            payload: "ping".to_owned(),
            timeout: Duration::from_secs(2),
            reset_on_close: false,
        }
    }

    /// Over UDP with `sendto` and `recvfrom`, within two seconds.
    #[must_use]
    pub fn udp(to: impl Into<SocketAddr>) -> Self {
        Self {
            transport: Transport::Udp,
            ..Self::tcp(to)
        }
    }

    /// Over UDP with a connected socket, within two seconds.
    #[must_use]
    pub fn udp_connected(to: impl Into<SocketAddr>) -> Self {
        Self {
            transport: Transport::UdpConnected,
            ..Self::tcp(to)
        }
    }

    /// From this address and port.
    #[must_use]
    pub fn from(mut self, from: impl Into<SocketAddr>) -> Self {
        self.from = Some(from.into());
        self
    }

    /// Within this time, for connecting and again for each answer.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// With this payload.
    #[must_use]
    pub fn payload(mut self, payload: impl Into<String>) -> Self {
        self.payload = payload.into();
        self
    }
}

/// What became of an exchange.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Name of the server that answered.
    pub answered_by: Option<String>,
    /// The client's address as that server saw it.
    pub seen_from: Option<SocketAddr>,
    /// The client's address as `getsockname` gives it.
    pub local: Option<SocketAddr>,
    /// The server's address as `getpeername` gives it; none for an unconnected socket.
    pub peer: Option<SocketAddr>,
    /// Source of the answer as `recvfrom` gives it; none for TCP.
    pub reply_from: Option<SocketAddr>,
    /// Why it failed, if it did.
    pub failure: Option<Failure>,
    /// From the first system call to the answer or the failure.
    pub elapsed: Duration,
}

impl Outcome {
    /// Whether the answer came and was the right one.
    #[must_use]
    pub fn ok(&self) -> bool {
        self.failure.is_none()
    }

    /// Name of the error, if it failed: see [`Failure::errno`].
    #[must_use]
    pub fn errno(&self) -> Option<&str> {
        self.failure.as_ref().map(|failure| failure.errno.as_str())
    }
}

/// Where an exchange failed, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Where.
    pub step: Step,
    /// Name of the error, such as `ECONNREFUSED`. `TIMEOUT` if the time given ran out (`ETIMEDOUT` is the kernel's own),
    /// `EOF` if the server closed without an answer, `MISMATCH` if it answered something else than the echo.
    pub errno: String,
}

/// A step of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Making and binding the socket.
    Open,
    /// Connecting it.
    Connect,
    /// Sending the request.
    Send,
    /// Waiting for the answer.
    Receive,
}

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
    /// Datagrams of connected sockets one way, as many as can be sent: the server's [`ServerCounts`] tell how many arrived.
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
    /// How long it took.
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
