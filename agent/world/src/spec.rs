//! What to build: the builder of worlds, and the description of a pod.

use crate::cgroup::{CgroupDriver, Qos};
use crate::error::Result;
use crate::peer::PeerCommand;
use crate::wiring::Wiring;
use crate::world::World;

/// Describes a world; [`WorldBuilder::build`] makes it.
#[derive(Clone, Debug)]
pub struct WorldBuilder {
    pub(crate) nodes: u8,
    pub(crate) wiring: Wiring,
    pub(crate) driver: CgroupDriver,
    pub(crate) peer: PeerCommand,
    pub(crate) pods: Vec<PodSpec>,
    pub(crate) clients: Vec<String>,
}

impl WorldBuilder {
    pub(crate) fn new(peer: PeerCommand) -> Self {
        Self {
            nodes: 1,
            wiring: Wiring::default(),
            driver: CgroupDriver::default(),
            peer,
            pods: Vec::new(),
            clients: Vec::new(),
        }
    }

    /// How many nodes, named `node1`, `node2`, ...; one unless told.
    #[must_use]
    pub fn nodes(mut self, count: u8) -> Self {
        self.nodes = count;
        self
    }

    /// How nodes reach their pods; routed unless told.
    #[must_use]
    pub fn wiring(mut self, wiring: Wiring) -> Self {
        self.wiring = wiring;
        self
    }

    /// How cgroups are named; as cgroupfs names them unless told.
    #[must_use]
    pub fn cgroup_driver(mut self, driver: CgroupDriver) -> Self {
        self.driver = driver;
        self
    }

    /// One more pod.
    #[must_use]
    pub fn pod(mut self, pod: PodSpec) -> Self {
        self.pods.push(pod);
        self
    }

    /// More pods.
    #[must_use]
    pub fn pods(mut self, pods: impl IntoIterator<Item = PodSpec>) -> Self {
        self.pods.extend(pods);
        self
    }

    /// One more client outside of the cluster, on the network that joins the nodes.
    #[must_use]
    pub fn client(mut self, name: impl Into<String>) -> Self {
        self.clients.push(name.into());
        self
    }

    /// Removes what killed owners left, then builds the world.
    ///
    /// # Errors
    /// Missing rights or tools, and names or addresses given twice. What was built by then is removed again.
    pub fn build(self) -> Result<World> {
        World::build(self)
    }
}

/// Describes a pod.
#[derive(Clone, Debug)]
pub struct PodSpec {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) node: String,
    pub(crate) uid: Option<String>,
    pub(crate) qos: Qos,
    pub(crate) host: Option<u8>,
    pub(crate) pause: bool,
}

impl PodSpec {
    /// A best-effort pod of this name on `node1`, in the Kubernetes namespace `default`, with the next free address.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            namespace: "default".to_owned(),
            node: "node1".to_owned(),
            uid: None,
            qos: Qos::default(),
            host: None,
            pause: true,
        }
    }

    /// On this node.
    #[must_use]
    pub fn on(mut self, node: impl Into<String>) -> Self {
        self.node = node.into();
        self
    }

    /// In this Kubernetes namespace. Only told back by [`crate::Pod::namespace`].
    #[must_use]
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// With this UID; otherwise the pod gets one of its own.
    #[must_use]
    pub fn uid(mut self, uid: impl Into<String>) -> Self {
        self.uid = Some(uid.into());
        self
    }

    /// Of this quality of service class.
    #[must_use]
    pub fn qos(mut self, qos: Qos) -> Self {
        self.qos = qos;
        self
    }

    /// At `10.244.<node>.<host>` and `fd00:10:244:<node>::<host>`, 2 to 254: to be known beforehand, or to reuse the address
    /// of a pod that is gone. Otherwise the pod gets the lowest one that no pod of its node has had.
    #[must_use]
    pub fn host(mut self, host: u8) -> Self {
        self.host = Some(host);
        self
    }

    /// Without the pause process that a container runtime keeps in each pod's sandbox.
    #[must_use]
    pub fn without_pause(mut self) -> Self {
        self.pause = false;
        self
    }
}
