//! A place where processes run: a pod, the host side of a node, or an external client.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::address::Addresses;
use crate::error::Result;
use crate::netns::NetNs;
use crate::peer::{Peer, PeerCommand};
use crate::spawn::{Process, spawn};
use crate::{ip, netns};

/// A network namespace with its addresses, and the cgroup of its processes.
#[derive(Debug)]
pub struct Place {
    pub(crate) name: String,
    pub(crate) netns: NetNs,
    pub(crate) cgroup: PathBuf,
    pub(crate) addresses: Addresses,
    pub(crate) peer: PeerCommand,
}

impl Place {
    /// Name of the pod, node or client. Its echo servers answer with it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its network namespace.
    #[must_use]
    pub fn netns(&self) -> &NetNs {
        &self.netns
    }

    /// The cgroup its processes are started in: a pod's container, a node's `system.slice/host`.
    #[must_use]
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// Its address of each family.
    #[must_use]
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Starts a peer here: see [`Peer`].
    ///
    /// # Errors
    /// The peer's program cannot be started, or does not answer as one.
    pub fn peer(&self) -> Result<Peer> {
        Peer::start(self)
    }

    /// Starts any program here: in the network namespace, in the cgroup, in a process group of its own. It is killed when
    /// the returned handle is dropped, and when this process ends however it ends.
    ///
    /// # Errors
    /// The program cannot be started, or the place is gone.
    pub fn spawn(&self, command: Command) -> Result<Process> {
        spawn(command, &self.netns, &self.cgroup)
    }

    /// Runs `work` on a thread in this network namespace, but in the cgroup of the caller: see [`netns::in_netns`].
    ///
    /// # Errors
    /// The namespace is gone.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        netns::in_netns(self.netns.path(), work)
    }

    /// Runs lines of `ip` here, such as `route add 203.0.113.0/24 via 192.0.2.1`, in one batch.
    ///
    /// # Errors
    /// The first line that `ip` refuses.
    pub fn ip(&self, lines: &[&str]) -> Result<()> {
        let lines: Vec<String> = lines.iter().map(|&line| line.to_owned()).collect();
        ip::batch(Some(&self.netns), &lines)
    }
}
