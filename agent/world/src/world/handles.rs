//! What a world gives out: nodes, pods and external clients.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketType, socket};

use super::lock;
use crate::address;
use crate::cgroup::{self, Qos};
use crate::error::{Doing, Result};
use crate::place::Place;
use crate::spawn::Process;
use crate::sweep::bpffs_of;
use crate::wiring::INTERFACE;

/// A node. As a [`Place`] it is its host side: its own network namespace and `system.slice/host`.
#[derive(Clone, Debug)]
pub struct Node(pub(super) Arc<NodeParts>);

#[derive(Debug)]
pub(super) struct NodeParts {
    pub(super) number: u8,
    pub(super) host: Place,
    pub(super) cgroup_root: PathBuf,
    pub(super) run_directory: PathBuf,
}

/// A pod. As a [`Place`] it is its container: the pod's network namespace and the container's cgroup.
#[derive(Clone, Debug)]
pub struct Pod(pub(super) Arc<PodParts>);

#[derive(Debug)]
pub(super) struct PodParts {
    pub(super) container: Place,
    pub(super) namespace: String,
    pub(super) uid: String,
    pub(super) qos: Qos,
    pub(super) node: Node,
    pub(super) cgroup: PathBuf,
    pub(super) container_id: String,
    pub(super) host_number: u8,
    pub(super) host_veth: String,
    pub(super) host_ifindex: u32,
    pub(super) pause: Mutex<Option<Process>>,
}

/// A machine outside of the cluster, on the network that joins the nodes.
#[derive(Clone, Debug)]
pub struct Client(pub(super) Arc<Place>);

impl Deref for Node {
    type Target = Place;
    fn deref(&self) -> &Place {
        &self.0.host
    }
}

impl Deref for Pod {
    type Target = Place;
    fn deref(&self) -> &Place {
        &self.0.container
    }
}

impl Deref for Client {
    type Target = Place;
    fn deref(&self) -> &Place {
        &self.0
    }
}

impl Node {
    /// The cgroup that stands for the root of this node's hierarchy: what `--cgroup-root` is told.
    #[must_use]
    pub fn cgroup_root(&self) -> &Path {
        &self.0.cgroup_root
    }

    /// This node's own BPF file system: what `--bpffs` is told. What is pinned there goes away with the world.
    #[must_use]
    pub fn bpffs(&self) -> PathBuf {
        bpffs_of(&self.0.run_directory)
    }

    /// A directory of this node's own, for sockets and files. It goes away with the world.
    #[must_use]
    pub fn run_directory(&self) -> &Path {
        &self.0.run_directory
    }

    /// Prefixes of this node's pods, IPv4 first.
    #[must_use]
    pub fn pod_ranges(&self) -> [String; 2] {
        address::pod_ranges(self.0.number)
    }

    /// Name of the interface to the other nodes and the clients.
    #[must_use]
    pub fn uplink(&self) -> &'static str {
        INTERFACE
    }

    /// Index of an interface in this node's network namespace.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn ifindex(&self, interface: &str) -> Result<u32> {
        self.run(|| {
            let any = socket(AddressFamily::INET, SocketType::DGRAM, None)
                .doing(|| "open a socket".to_owned())?;
            name_to_index(&any, interface).doing(|| format!("find {interface} on {}", self.name()))
        })?
    }
}

impl Pod {
    /// Its Kubernetes namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.0.namespace
    }

    /// Its UID, in the form of an API object's `metadata.uid`.
    #[must_use]
    pub fn uid(&self) -> &str {
        &self.0.uid
    }

    /// Its quality of service class.
    #[must_use]
    pub fn qos(&self) -> Qos {
        self.0.qos
    }

    /// The node it is on.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.0.node
    }

    /// The cgroup of the whole pod, above those of its sandbox and its container.
    #[must_use]
    pub fn pod_cgroup(&self) -> &Path {
        &self.0.cgroup
    }

    /// Id of its container: 64 hexadecimal digits.
    #[must_use]
    pub fn container_id(&self) -> &str {
        &self.0.container_id
    }

    /// Host part of its addresses, for [`crate::PodSpec::host`] of a pod that reuses them.
    #[must_use]
    pub fn host_number(&self) -> u8 {
        self.0.host_number
    }

    /// Name of the host side of its veth, in its node's network namespace.
    #[must_use]
    pub fn host_veth(&self) -> &str {
        &self.0.host_veth
    }

    /// Interface index of the host side of its veth.
    #[must_use]
    pub fn host_ifindex(&self) -> u32 {
        self.0.host_ifindex
    }

    /// Kills every process of the pod, its pause process too, and leaves the rest as it is.
    ///
    /// # Errors
    /// The system's.
    pub fn kill_processes(&self) -> Result<()> {
        cgroup::kill(&self.0.cgroup)?;
        // Waits for the pause process, so that no zombie stays.
        lock(&self.0.pause).take();
        Ok(())
    }

    /// Deletes the veth and the name of the network namespace at once, under the feet of what runs in the pod, as a
    /// container runtime does that loses patience.
    ///
    /// # Errors
    /// It is gone already.
    pub fn delete_netns(&self) -> Result<()> {
        let deleted = self.node().ip(&[&format!("link del {}", self.host_veth())]);
        self.netns().forget();
        deleted
    }

    pub(super) fn remove(&self) -> Result<()> {
        self.kill_processes()?;
        if self.netns().path().exists() {
            self.delete_netns()?;
        }
        cgroup::remove(&self.0.cgroup)
    }
}
