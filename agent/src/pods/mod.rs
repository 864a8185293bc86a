//! The pods of this node: found, followed, attached to, programmed.
//!
//! Nobody is asked but the kernel. A thread walks the kubelet's cgroups, finds each pod's network namespace through its oldest
//! process, and the veths of the node that lead into it; the addresses are what the pod's sides carry. So it is the same for every
//! CNI plugin that gives pods a veth, routed or bridged. Cluster objects only add names, the wish to be left alone, and that a pod
//! is finished.
//!
//! It is all level-triggered: cgroups, interfaces, addresses and objects that change cause a new look, and what is found is
//! compared with what the [`Sink`] was told. Events make it quick; a look every ten seconds makes it right.

mod attacher;
mod cgroups;
mod devices;
mod discover;
mod endpoints;
mod follow;
mod links;
mod monitor;
mod namespace;
mod objects;
mod process;
mod reconcile;
mod view;

use std::{fmt, net::IpAddr, sync::Arc};

use anyhow::Result;
use weir_core::model::ObjectName;

pub use attacher::{Attacher, Programs};
pub use devices::{Choice, Device, LeftDevice};
pub use endpoints::Endpoints;
pub use follow::{Follower, Handle, Options, follow};
pub use namespace::netns_cookie;
pub use view::{Failure, InterfaceView, View};

/// An interface that joins a pod of this node to it. A pod with several has several of these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalPod {
    /// The UID in the name of its cgroup. Of a static pod, it is not that of its object.
    pub uid: Arc<str>,
    /// Its name, once its object is known.
    pub name: Option<ObjectName>,
    /// Name of the interface's host side.
    pub device: String,
    /// Index of the interface's host side.
    pub ifindex: u32,
    /// The addresses of the interface's other side, in the pod.
    pub addresses: Vec<IpAddr>,
    /// Cookie of its network namespace.
    pub netns_cookie: u64,
    /// Whether its sockets are to be left alone.
    pub opt_out: bool,
}

/// `namespace/name`, or what its cgroup says.
impl fmt::Display for LocalPod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => name.fmt(f),
            None => write!(f, "pod {}", self.uid),
        }
    }
}

/// Whether an interface could be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It is.
    Served,
    /// It has gone meanwhile. Nothing of it is left, and it is not told to go.
    Gone,
}

/// Who is told of pods and devices. In one round, what is new comes before what goes, and [`Sink::done`] last.
pub trait Sink: Send {
    /// A pod's interface is new, or has changed in anything but its pod and its index.
    ///
    /// # Errors
    /// What keeps it from being served. It is told again from time to time, and is told to go in the end.
    fn pod(&mut self, pod: &LocalPod) -> Result<Presence>;

    /// A pod's interface has gone, or is a pod's no longer.
    ///
    /// # Errors
    /// What could not be removed; it is not told again.
    fn pod_gone(&mut self, pod: &LocalPod) -> Result<()>;

    /// An external device is new.
    ///
    /// # Errors
    /// As [`Sink::pod`].
    fn device(&mut self, device: &Device) -> Result<Presence>;

    /// An external device has gone, or is external no longer.
    ///
    /// # Errors
    /// As [`Sink::pod_gone`].
    fn device_gone(&mut self, device: &Device) -> Result<()>;

    /// All that is there has been told, for the first time: whatever else an earlier agent left is left over.
    ///
    /// # Errors
    /// What could not be removed.
    fn listed(&mut self) -> Result<()>;

    /// The round is over.
    ///
    /// # Errors
    /// What could not be done.
    fn done(&mut self) -> Result<()>;
}
