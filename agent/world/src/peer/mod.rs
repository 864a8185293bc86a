//! Peers: worker processes that open the sockets of a world, each in its pod's network namespace and cgroup.
//!
//! [`Peer`] is the handle, [`main`] the worker's whole program. They speak one JSON object per line over the worker's
//! standard input and output; [`protocol`] has the types. The worker ends with its input.

mod bench;
mod bench_server;
mod connect;
mod conversation;
mod echo;
mod errno;
mod handle;
mod histogram;
mod io;
mod job;
mod load;
mod long_lived;
pub mod protocol;
mod worker;

pub use handle::{Conversation, Job, Peer, PeerCommand, Server};
pub use protocol::{
    BenchKind, BenchReport, BenchSpec, Break, Exchange, Failure, LoadReport, LoadSpec,
    LongLivedReport, LongLivedSpec, Outcome, ServerCounts, Step, Transport,
};
pub use worker::main;
