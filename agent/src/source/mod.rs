//! Where the cluster's objects come from: watches of a Kubernetes API server, or a directory of manifests.
//!
//! Both reduce every object to Weir's own types at once and yield the same [`Event`]s through one bounded channel, so
//! that nothing behind it knows which of them is in use. An object that cannot be read is reported and skipped; its
//! last good version stays in force. No source ever gives up: what fails is reported and tried again.

pub mod kube;
pub mod manifests;
mod reduce;

use std::fmt;

use serde::{Serialize, Serializer};
use tokio::sync::mpsc;
use weir_core::model::Kind;
use weir_core::state::Change;

/// A sensible capacity for the channel of events: a source that is ahead of its reader by this much waits.
pub const EVENTS: usize = 1024;

/// What a source has to tell.
#[derive(Debug)]
pub enum Event {
    /// The cluster's content changed.
    Change(Change),
    /// All objects of this kind were listed; sent after the [`Change::Replace`] of every list, the first one and any later one.
    Listed(Kind),
    /// Something could not be read. Its last good version, if there was one, stays in force. Sent again only when the error
    /// changes; ended by [`Event::Restored`] with the same `kind` and `name`.
    Skipped {
        /// What it is.
        kind: Subject,
        /// `namespace/name`, or `name` of an object without a namespace, or the path of a manifest.
        name: String,
        /// What is wrong with it and what to do.
        error: String,
    },
    /// What was skipped before is fine now, or gone.
    Restored {
        /// As in [`Event::Skipped`].
        kind: Subject,
        /// As in [`Event::Skipped`].
        name: String,
    },
    /// A watch does not work at present. Sent for every failed attempt; the next one follows by itself.
    WatchFailed {
        /// What is watched.
        kind: Subject,
        /// What is wrong and what to do.
        error: String,
    },
    /// A watch works: sent when it first does, and when it does again after a failure.
    WatchStarted {
        /// What is watched.
        kind: Subject,
    },
}

/// What an [`Event`] is about: objects of one kind, or the directory of manifests and its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// Objects of one kind.
    Object(Kind),
    /// Manifests, before one can say which objects are in them.
    Manifest,
}

impl Subject {
    /// The kind's name as in Kubernetes, or `Manifest`: for logs and metric labels.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Object(kind) => kind.label(),
            Self::Manifest => "Manifest",
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

impl From<Kind> for Subject {
    fn from(kind: Kind) -> Self {
        Self::Object(kind)
    }
}

impl Serialize for Subject {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.label())
    }
}

/// A source that is ready to run.
pub enum Source {
    /// Watches of an API server.
    Kube(kube::Source),
    /// A directory of manifests.
    Manifests(manifests::Source),
}

impl Source {
    /// Sends events until the receiver is dropped. Dropping the future ends everything that the source started.
    pub async fn run(self, events: mpsc::Sender<Event>) {
        match self {
            Self::Kube(source) => source.run(events).await,
            Self::Manifests(source) => source.run(events).await,
        }
    }
}
