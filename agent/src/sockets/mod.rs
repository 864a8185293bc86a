//! Ending connections to endpoints that are gone.
//!
//! Nothing answers any more at the address of a deleted pod, so that what is connected to it waits until TCP gives up
//! (15 minutes of retransmissions; without data, for ever), and a connected UDP socket sends into the void
//! (kubernetes#77903, kubernetes#48244). Those sockets are ended from outside, in the network namespace that owns them:
//! a TCP connection fails with `ECONNABORTED`, and so does a UDP socket that waits for an answer; one that sends is told
//! `EDESTADDRREQ`, for it is connected no more, and can be connected again.
//!
//! - Only endpoints that were *deleted* are to be given to this module. One that merely terminates still serves the
//!   connections it has, and one that another endpoint has followed at the same address and port is not gone: whoever asks
//!   for the end of connections to it would end its successor's.
//! - To be asked after the tables no longer name the endpoint and every program that may have read them before has ended;
//!   else a connection that is being made may be missed.
//! - What is ended is every socket whose remote address and port is the endpoint's, whether Weir translated it or it was
//!   connected to the pod's own address. Both hang in the same way, and of the second kind are the clients that find pods
//!   through a headless service.
//! - Left alone are sockets that listen, UDP sockets that are not connected, everything with another remote address or
//!   port, and SCTP, which the kernel cannot end from outside. Connections of pods that are translated packet by packet have
//!   the service's address for a remote: they are the packet path's to reset.

mod diag;
mod reaper;

use std::{
    collections::HashSet,
    fs::File,
    io,
    net::SocketAddr,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use weir_core::model::Protocol;

pub use reaper::Reaper;

/// The network namespace of the agent itself: on a node, the host's.
const OWN_NAMESPACE: &str = "/proc/self/ns/net";

/// An endpoint that is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    addr: SocketAddr,
    protocol: Protocol,
}

impl Endpoint {
    /// The endpoint at `addr`. A v4-mapped address is the IPv4 address it stands for.
    #[must_use]
    pub fn new(addr: SocketAddr, protocol: Protocol) -> Self {
        Self {
            addr: SocketAddr::new(addr.ip().to_canonical(), addr.port()),
            protocol,
        }
    }
}

/// What was ended, and what could not be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// TCP connections.
    pub tcp: u64,
    /// Connected UDP sockets.
    pub udp: u64,
    /// Network namespaces that were looked into.
    pub namespaces: usize,
    /// The kernel cannot end sockets, or not of one of the protocols (`CONFIG_INET_DIAG_DESTROY`, `inet_diag`).
    pub unsupported: bool,
    /// What else went wrong, with the namespace it went wrong in. Everything else was done all the same.
    pub failures: Vec<String>,
}

/// Ends every connection to `endpoints` in the agent's own network namespace and in those at `namespaces`, which are files
/// such as `/proc/PID/ns/net`. A namespace that is named more than once is looked into once; one that is gone meanwhile has
/// no connections. Blocks until all is done, on a thread of its own that moves between the namespaces.
#[must_use]
pub fn end_connections(endpoints: &HashSet<Endpoint>, namespaces: Vec<PathBuf>) -> Ended {
    std::thread::scope(|scope| {
        let work = || end_everywhere(endpoints, namespaces);
        match std::thread::Builder::new()
            .name("weir-sockets".to_owned())
            .spawn_scoped(scope, work)
        {
            Ok(thread) => thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            Err(error) => Ended {
                failures: vec![format!("cannot start a thread: {error}")],
                ..Ended::default()
            },
        }
    })
}

/// As [`end_connections`], on this thread, which is left in any of the namespaces.
fn end_everywhere(endpoints: &HashSet<Endpoint>, namespaces: Vec<PathBuf>) -> Ended {
    let mut ended = Ended::default();
    for (path, namespace) in distinct(namespaces, &mut ended) {
        let entered =
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network));
        let done = entered
            .map_err(io::Error::from)
            .and_then(|()| diag::end_here(endpoints, &mut ended));
        ended.namespaces += 1;
        if let Err(error) = done {
            failed(&mut ended, &path, &error);
        }
    }
    ended
}

/// Opens each namespace once, the agent's own first.
fn distinct(paths: Vec<PathBuf>, ended: &mut Ended) -> Vec<(PathBuf, File)> {
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    for path in std::iter::once(PathBuf::from(OWN_NAMESPACE)).chain(paths) {
        match File::open(&path).and_then(|file| Ok((file.metadata()?, file))) {
            Ok((metadata, file)) => {
                if seen.insert((metadata.dev(), metadata.ino())) {
                    found.push((path, file));
                }
            }
            Err(error) if is_gone(&error) => {}
            Err(error) => failed(ended, &path, &error),
        }
    }
    found
}

/// Whether this is how a process looks that ended.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

fn failed(ended: &mut Ended, namespace: &Path, error: &io::Error) {
    ended
        .failures
        .push(format!("{}: {error}", namespace.display()));
}

#[cfg(test)]
mod tests;
