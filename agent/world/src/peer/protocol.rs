//! What is said between a [`super::Peer`] and its worker.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::exchange::Exchange;
use super::measure::BenchSpec;
use super::traffic::{LoadSpec, LongLivedSpec};

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
