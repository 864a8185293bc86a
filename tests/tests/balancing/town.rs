//! The world that the stories share: three nodes with an agent each, servers and clients in pods on all of them, and two
//! machines outside.
//!
//! It is built by the first story that wants it and removed when the test program exits. Stories go on at the same time in
//! it, so each has services of its own, and pods of its own where it ends some.

use std::{
    collections::BTreeMap,
    fmt,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::net::UnixStream,
    sync::{
        Arc, Mutex, MutexGuard, Once, PoisonError,
        atomic::{AtomicU16, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};
use weir_tests::{
    agent::{Agent, PATIENCE, peer_command},
    manifests::{self, Manifests},
};
use weir_world::{Addresses, Node, Peer, Pod, PodSpec, Wiring, World};

/// Where every server listens, TCP and UDP.
pub(crate) const TARGET: u16 = 8080;
/// Where every server listens as well, under its name with `-admin` behind it.
pub(crate) const ADMIN: u16 = 8081;
/// Where the nodes' own servers listen, which are those of pods with `hostNetwork`.
pub(crate) const HOST_TARGET: u16 = 9090;
/// The zone of each node.
pub(crate) const ZONES: [(&str, &str); 3] =
    [("node1", "west"), ("node2", "east"), ("node3", "north")];

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) const BOTH: [Self; 2] = [Self::V4, Self::V6];

    pub(crate) fn of(self, addresses: Addresses) -> IpAddr {
        match self {
            Self::V4 => addresses.v4.into(),
            Self::V6 => addresses.v6.into(),
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// See the module.
pub(crate) struct Town {
    // In the order in which they are to end.
    pub(crate) agents: Vec<Agent>,
    peers: Mutex<BTreeMap<String, Peer>>,
    pub(crate) manifests: Manifests,
    pub(crate) world: World,
    numbers: AtomicU16,
    changes: Mutex<u32>,
}

type Slot = Mutex<Option<Result<Arc<Town>, String>>>;
static ROUTED: Slot = Mutex::new(None);
static BRIDGED: Slot = Mutex::new(None);

/// The town of routed pods.
pub(crate) fn town() -> Result<Arc<Town>> {
    open(&ROUTED, Wiring::Routed)
}

/// The town of bridged pods, and the other.
pub(crate) fn both_towns() -> Result<[Arc<Town>; 2]> {
    Ok([town()?, open(&BRIDGED, Wiring::Bridged)?])
}

fn open(slot: &'static Slot, wiring: Wiring) -> Result<Arc<Town>> {
    static AT_EXIT: Once = Once::new();
    AT_EXIT.call_once(|| {
        // SAFETY: the function takes nothing, unwinds nowhere and is there until the end.
        unsafe { libc::atexit(remove_all) };
    });
    let mut slot = lock(slot);
    let built = slot.get_or_insert_with(|| {
        let town = Town::build(wiring);
        town.map(Arc::new).map_err(|error| format!("{error:#}"))
    });
    built.clone().map_err(|error| anyhow!(error))
}

/// The end of the program drops no statics by itself.
extern "C" fn remove_all() {
    for slot in [&ROUTED, &BRIDGED] {
        let town = lock(slot).take();
        // What is left then, the next world removes.
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(town)));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Town {
    fn build(wiring: Wiring) -> Result<Self> {
        let mut pods = Vec::new();
        for (number, node) in [("one", "node1"), ("two", "node2"), ("three", "node3")] {
            for pod in ["a", "b", "client", "mesh"] {
                pods.push(PodSpec::new(format!("{number}-{pod}")).on(node));
            }
        }
        let world = World::builder(peer_command()?)
            .nodes(3)
            .wiring(wiring)
            .client("ann")
            .client("ben")
            .pods(pods)
            .build()?;
        // Ann's way to whatever is not a machine is node1, Ben's is node2.
        for (client, node) in [("ann", "node1"), ("ben", "node2")] {
            let via = world.node(node)?.addresses();
            let routes = [
                format!("route add 10.96.0.0/16 via {}", via.v4),
                format!("route add 203.0.113.0/24 via {}", via.v4),
                format!("route add 198.51.100.0/24 via {}", via.v4),
                format!("route add fd00:10:96::/64 via {}", via.v6),
                format!("route add 2001:db8:100::/64 via {}", via.v6),
                format!("route add 2001:db8:200::/64 via {}", via.v6),
            ];
            let routes: Vec<&str> = routes.iter().map(String::as_str).collect();
            world.client(client)?.ip(&routes)?;
        }
        let manifests = Manifests::new(world.nodes()[0].run_directory())?;
        for node in world.nodes() {
            manifests.apply(node.name(), &node_object(node))?;
        }
        let town = Self {
            agents: Vec::new(),
            peers: Mutex::default(),
            manifests,
            world,
            numbers: AtomicU16::new(1),
            changes: Mutex::new(0),
        };
        for pod in town.world.pods() {
            town.manifests.apply(
                &format!("pod-{}", pod.name()),
                &manifests::pod(&pod, opts_out(&pod)),
            )?;
            if pod.name().ends_with("-a") || pod.name().ends_with("-b") {
                let server = town.peer(pod.name())?;
                server.echo(TARGET)?;
                server.echo_as(&format!("{}-admin", pod.name()), ADMIN)?;
            }
        }
        for node in town.world.nodes() {
            town.peer(node.name())?.echo(HOST_TARGET)?;
        }
        town.with_agents()
    }

    fn with_agents(mut self) -> Result<Self> {
        let arguments = ["--manifests".as_ref(), self.manifests.path().as_os_str()];
        for node in self.world.nodes() {
            self.agents.push(Agent::spawn(node, &arguments)?);
        }
        for agent in &self.agents {
            agent.wait_until_synced()?;
        }
        self.pods_are_served()?;
        Ok(self)
    }

    /// The worker at a pod, node or machine outside; started by the first who asks.
    pub(crate) fn peer(&self, place: &str) -> Result<Peer> {
        let mut peers = lock(&self.peers);
        if let Some(peer) = peers.get(place) {
            return Ok(peer.clone());
        }
        let peer = match (self.world.pod(place), self.world.node(place)) {
            (Ok(pod), _) => pod.peer()?,
            (_, Ok(node)) => node.peer()?,
            _ => self.world.client(place)?.peer()?,
        };
        peers.insert(place.to_owned(), peer.clone());
        Ok(peer)
    }

    /// The addresses of a pod, node or machine outside.
    pub(crate) fn addresses(&self, place: &str) -> Result<Addresses> {
        Ok(match (self.world.pod(place), self.world.node(place)) {
            (Ok(pod), _) => pod.addresses(),
            (_, Ok(node)) => node.addresses(),
            _ => self.world.client(place)?.addresses(),
        })
    }

    /// A port of a place.
    pub(crate) fn at(&self, place: &str, family: Family, port: u16) -> Result<SocketAddr> {
        Ok((family.of(self.addresses(place)?), port).into())
    }

    /// A further pod, with servers that answer by its name. It is served when this returns.
    pub(crate) fn add_server(&self, pod: PodSpec) -> Result<Pod> {
        let pod = self.world.add_pod(pod)?;
        self.manifests.apply(
            &format!("pod-{}", pod.name()),
            &manifests::pod(&pod, opts_out(&pod)),
        )?;
        self.peer(pod.name())?.echo(TARGET)?;
        self.pods_are_served()?;
        Ok(pod)
    }

    /// Ends a pod and its object.
    pub(crate) fn remove_pod(&self, name: &str) -> Result<()> {
        self.forget_pod(name)?;
        lock(&self.peers).remove(name);
        Ok(self.world.remove_pod(name)?)
    }

    /// Deletes a pod's object, and leaves the pod as it is.
    pub(crate) fn forget_pod(&self, name: &str) -> Result<()> {
        self.manifests.delete(&format!("pod-{name}"))
    }

    /// A number that no other service of the town has.
    pub(crate) fn number(&self) -> u16 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// Waits until every agent has programmed what the manifests say now.
    ///
    /// Agents take in what they find in one look in the order of kinds, namespaces after services: one that knows the last
    /// of ours knows all that was written before.
    pub(crate) fn settle(&self) -> Result<()> {
        let mut changes = lock(&self.changes);
        *changes += 1;
        let known = *changes;
        let items: Vec<Value> = (0..known)
            .map(|n| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": format!("change-{n}")}}))
            .collect();
        let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
        self.manifests.apply("zz-changes", &list)?;
        drop(changes);
        for node in self.world.nodes() {
            self.eventually(&format!("{} knows change {known}", node.name()), || {
                let status = status(node)?;
                let sources = status["sources"].as_array().context("no sources")?;
                let namespaces = sources.iter().find(|source| source["kind"] == "Namespace");
                let seen = namespaces.and_then(|source| source["objects"].as_u64());
                Ok(seen >= Some(known.into())
                    && status["sync"]["pending"] == 0
                    && status["sync"]["last_error"].is_null())
            })?;
        }
        Ok(())
    }

    /// Waits until every pod's interface is followed, and the meshes' sockets are left alone.
    fn pods_are_served(&self) -> Result<()> {
        for node in self.world.nodes() {
            self.eventually(&format!("the pods of {} are served", node.name()), || {
                let status = status(node)?;
                let interfaces = status["pods"]["interfaces"].as_array();
                let served = |pod: &Pod| {
                    let mut here = interfaces.into_iter().flatten();
                    here.any(|interface| {
                        interface["device"] == pod.host_veth()
                            && interface["opt_out"] == opts_out(pod)
                    })
                };
                let pods = self.world.pods();
                let mut pods = pods.iter().filter(|pod| pod.node().name() == node.name());
                Ok(status["pods"]["listed"] == true
                    && status["pods"]["devices"] == json!(["eth0"])
                    && pods.all(served))
            })?;
        }
        Ok(())
    }

    /// Waits until a condition holds; errors of it count as not yet.
    pub(crate) fn eventually(
        &self,
        what: &str,
        mut condition: impl FnMut() -> Result<bool>,
    ) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let result = condition();
            if matches!(result, Ok(true)) {
                return Ok(());
            }
            if Instant::now() > deadline {
                // What the manifests say is known; what the agents complain of is not.
                let logs: Vec<String> = self.agents.iter().map(Agent::log).collect();
                let told = logs.iter().flat_map(|log| log.lines());
                let told: Vec<&str> = told.filter(|line| !line.contains(" DEBUG ")).collect();
                bail!(
                    "waited {PATIENCE:?} until {what}; last: {result:?}\n{}",
                    told.join("\n")
                );
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// What an agent says of itself, without the cost of a process for each question.
fn status(node: &Node) -> Result<Value> {
    let mut stream = UnixStream::connect(node.run_directory().join("weir.sock"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /v1/status HTTP/1.1\r\nHost: weir\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    Ok(serde_json::from_str(body)?)
}

fn opts_out(pod: &Pod) -> bool {
    pod.name().ends_with("mesh")
}

fn node_object(node: &Node) -> Value {
    let addresses = node.addresses();
    let zone = ZONES.iter().find(|(name, _)| *name == node.name());
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": node.name(),
            "labels": {"topology.kubernetes.io/zone": zone.map(|(_, zone)| zone)},
        },
        "spec": {"podCIDRs": node.pod_ranges()},
        "status": {"addresses": [
            {"type": "InternalIP", "address": addresses.v4},
            {"type": "InternalIP", "address": addresses.v6},
        ]},
    })
}

/// The addresses that a service of that number may have.
pub(crate) fn cluster_ip(number: u16, family: Family) -> IpAddr {
    let [high, low] = number.to_be_bytes();
    match family {
        Family::V4 => Ipv4Addr::new(10, 96, high, low).into(),
        Family::V6 => Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, number).into(),
    }
}

/// As [`cluster_ip`]: a load balancer's.
pub(crate) fn balancer_ip(number: u16, family: Family) -> IpAddr {
    let [_, low] = number.to_be_bytes();
    match family {
        Family::V4 => Ipv4Addr::new(203, 0, 113, low).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0x100, 0, 0, 0, 0, number).into(),
    }
}

/// As [`cluster_ip`]: one that the cluster's operator claims.
pub(crate) fn external_ip(number: u16, family: Family) -> IpAddr {
    let [_, low] = number.to_be_bytes();
    match family {
        Family::V4 => Ipv4Addr::new(198, 51, 100, low).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0x200, 0, 0, 0, 0, number).into(),
    }
}
