//! Peers: worker processes that open the sockets of a world, each in its pod's network namespace and cgroup.
//!
//! [`Peer`] is the handle, [`main`] the worker's whole program. They speak one JSON object per line over the worker's
//! standard input and output of `protocol`. The worker ends with its input.

mod bench;
mod bench_server;
mod command;
mod connect;
mod conversation;
mod echo;
mod errno;
mod exchange;
mod handle;
mod histogram;
mod io;
mod job;
mod load;
mod long_lived;
mod measure;
mod protocol;
mod remote;
mod traffic;
mod worker;

pub use command::PeerCommand;
pub use exchange::{Exchange, Failure, Outcome, Step, Transport};
pub use handle::Peer;
pub use measure::{BenchKind, BenchReport, BenchSpec};
pub use protocol::ServerCounts;
pub use remote::{Conversation, Job, Server};
pub use traffic::{Break, LoadReport, LoadSpec, LongLivedReport, LongLivedSpec};
pub use worker::main;
