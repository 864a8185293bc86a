//! What can go wrong while a world is built or used.

use std::io;

/// Result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a world could not do what was asked, worded for the person who runs it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// iproute2 is not installed.
    #[error(
        "the `ip` command is missing: install iproute2 (`apt-get install iproute2`, `dnf install iproute`)"
    )]
    NoIpCommand,
    /// `ip` refused a line of a batch.
    #[error("`ip {line}` in {netns}: {message}")]
    Ip {
        /// Where it ran: a namespace's name, or `the root namespace`.
        netns: String,
        /// The line it refused, or all of them if it named none.
        line: String,
        /// What it wrote to standard error.
        message: String,
    },
    /// No cgroup v2 hierarchy is mounted.
    #[error(
        "no cgroup v2 hierarchy is mounted: `mkdir -p /run/cgroup2 && mount -t cgroup2 none /run/cgroup2`"
    )]
    NoCgroup2,
    /// A system call failed.
    #[error("{doing}: {source}{}", hint(source))]
    Io {
        /// What was being done, with the path it was done to.
        doing: String,
        /// The system's answer.
        source: io::Error,
    },
    /// No node, pod or external client has this name.
    #[error("this world has no {kind} named {name:?}")]
    Unknown {
        /// `node`, `pod` or `external client`.
        kind: &'static str,
        /// The name asked for.
        name: String,
    },
    /// The world cannot have one more of something, or not under this name or address.
    #[error("{0}")]
    Refused(String),
    /// A peer answered with an error, ended, or did not answer in time.
    #[error("peer in {place}: {message}")]
    Peer {
        /// Name of the node, pod or client it runs in.
        place: String,
        /// What happened.
        message: String,
    },
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            " (worlds need root with CAP_SYS_ADMIN and CAP_NET_ADMIN)"
        }
        _ => "",
    }
}

/// Adds what was being done to a system error.
pub(crate) trait Doing<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> Doing<T> for std::result::Result<T, E> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Error::Io {
            doing: what(),
            source: error.into(),
        })
    }
}
