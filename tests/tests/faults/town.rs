//! The world that the stories happen in: a node with an agent, three servers, clients of every kind.

use std::{
    cell::Cell,
    collections::BTreeMap,
    ffi::OsStr,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weir_tests::{
    agent::{Agent, PATIENCE, peer_command},
    manifests::{self, Manifests},
};
use weir_world::{
    Node, Peer, Pod, PodSpec, Wiring, World,
    peer::{Exchange, Job, LoadReport, LoadSpec, LongLivedReport, LongLivedSpec, Transport},
};

/// Where the servers listen, TCP and UDP.
pub(crate) const TARGET: u16 = 8080;
pub(crate) const SERVERS: [&str; 3] = ["web-1", "web-2", "web-3"];
pub(crate) const V4: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 80);
pub(crate) const V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0x80);
pub(crate) const NODE_PORT: u16 = 30080;

/// Those who ask: a pod, a pod whose sockets are left alone, the node itself, and a machine outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    Pod,
    Mesh,
    Host,
    Outside,
}

/// A node with three servers and the service `web`: TCP and UDP port 80, and a node port.
pub(crate) struct Town {
    pub(crate) manifests: Manifests,
    peers: BTreeMap<String, Peer>,
    changes: Cell<u32>,
    pub(crate) world: World,
}

/// What is said of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    Ready,
    Terminating,
}

impl Town {
    pub(crate) fn open(wiring: Wiring) -> Result<Self> {
        let pods = SERVERS.into_iter().chain(["client", "mesh"]);
        let world = World::builder(peer_command()?)
            .wiring(wiring)
            .client("ann")
            .pods(pods.map(PodSpec::new))
            .build()?;
        let node = &world.nodes()[0];
        let manifests = Manifests::new(node.run_directory())?;
        manifests.apply("node1", &node_object(node))?;
        let mut peers = BTreeMap::new();
        for pod in world.pods() {
            manifests.apply(
                &format!("pod-{}", pod.name()),
                &manifests::pod(&pod, pod.name() == "mesh"),
            )?;
            let peer = pod.peer()?;
            if SERVERS.contains(&pod.name()) {
                peer.echo(TARGET)?;
            }
            peers.insert(pod.name().to_owned(), peer);
        }
        peers.insert("node1".to_owned(), node.peer()?);
        peers.insert("ann".to_owned(), world.client("ann")?.peer()?);
        let town = Self {
            manifests,
            peers,
            changes: Cell::new(0),
            world,
        };
        town.manifests.apply("web", &web())?;
        town.endpoints(&SERVERS.map(|server| (server, Condition::Ready)))?;
        Ok(town)
    }

    pub(crate) fn node(&self) -> &Node {
        &self.world.nodes()[0]
    }

    /// Starts an agent with more options; it serves the pods when this returns.
    pub(crate) fn agent(&self, options: &[&str]) -> Result<Agent> {
        let directory = self.manifests.path().as_os_str();
        let mut arguments: Vec<&OsStr> = vec!["--manifests".as_ref(), directory];
        arguments.extend(options.iter().map(OsStr::new));
        let agent = Agent::spawn(self.node(), &arguments)?;
        agent.wait_until_synced()?;
        agent.wait_until("the pods are served", |agent| {
            let status = agent.status()?;
            let interfaces = status["pods"]["interfaces"].as_array();
            let served = |pod: &Pod| {
                let mut here = interfaces.into_iter().flatten();
                here.any(|interface| {
                    interface["device"] == pod.host_veth()
                        && interface["opt_out"] == (pod.name() == "mesh")
                })
            };
            Ok(status["pods"]["listed"] == true
                && status["pods"]["devices"] == json!(["eth0"])
                && self.world.pods().iter().all(served))
        })?;
        Ok(agent)
    }

    pub(crate) fn peer(&self, place: &str) -> Result<&Peer> {
        self.peers.get(place).context("no such place")
    }

    /// Who asks, and where.
    pub(crate) fn asker(&self, who: Who, v6: bool) -> Result<(&Peer, SocketAddr)> {
        let node = self.node().addresses();
        let cluster: IpAddr = if v6 { V6.into() } else { V4.into() };
        let node: IpAddr = if v6 { node.v6.into() } else { node.v4.into() };
        Ok(match who {
            Who::Pod => (self.peer("client")?, (cluster, 80).into()),
            Who::Mesh => (self.peer("mesh")?, (cluster, 80).into()),
            Who::Host => (self.peer("node1")?, (cluster, 80).into()),
            Who::Outside => (self.peer("ann")?, (node, NODE_PORT).into()),
        })
    }

    /// Keeps sockets open, with a request every few milliseconds.
    pub(crate) fn long_lived(
        &self,
        who: Who,
        transport: Transport,
        v6: bool,
        sockets: usize,
    ) -> Result<Job<LongLivedReport>> {
        let (peer, to) = self.asker(who, v6)?;
        let spec = LongLivedSpec::new(exchange(transport, to), sockets, LONG);
        Ok(peer.long_lived(spec.every(Duration::from_millis(5)))?)
    }

    /// Makes exchanges on sockets of their own.
    pub(crate) fn load(&self, who: Who, transport: Transport, v6: bool) -> Result<Job<LoadReport>> {
        let (peer, to) = self.asker(who, v6)?;
        let spec = LoadSpec::new(exchange(transport, to), LONG);
        Ok(peer.load(spec.workers(1).pause(Duration::from_millis(1)))?)
    }

    /// Makes these the endpoints of `web`.
    pub(crate) fn endpoints(&self, servers: &[(&str, Condition)]) -> Result<()> {
        let mut items = Vec::new();
        for v6 in [false, true] {
            let mut endpoints = Vec::new();
            for (server, condition) in servers {
                let ready = *condition == Condition::Ready;
                let addresses = self.world.pod(server)?.addresses().both();
                endpoints.push(json!({
                    "addresses": [addresses[usize::from(v6)]],
                    "conditions": {"ready": ready, "serving": true, "terminating": !ready},
                    "nodeName": "node1",
                }));
            }
            let family = if v6 { "IPv6" } else { "IPv4" };
            items.push(json!({
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {
                    "name": format!("web-{}", family.to_lowercase()),
                    "namespace": "default",
                    "labels": {"kubernetes.io/service-name": "web"},
                },
                "addressType": family,
                "ports": [
                    {"name": "tcp", "port": TARGET, "protocol": "TCP"},
                    {"name": "udp", "port": TARGET, "protocol": "UDP"},
                ],
                "endpoints": endpoints,
            }));
        }
        let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
        self.manifests.apply("web-endpoints", &list)
    }

    /// Waits until the agent has programmed what the manifests say now.
    ///
    /// It takes in what it finds in one look in the order of kinds, namespaces after services: who knows the last of ours
    /// knows all that was written before.
    pub(crate) fn settle(&self, agent: &Agent) -> Result<()> {
        let known = self.changes.get() + 1;
        self.changes.set(known);
        let items: Vec<Value> = (0..known)
            .map(|n| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": format!("change-{n}")}}))
            .collect();
        let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
        self.manifests.apply("zz-changes", &list)?;
        agent.wait_until("it knows the last change", |agent| {
            let status = agent.status()?;
            let sources = status["sources"].as_array().context("no sources")?;
            let namespaces = sources
                .iter()
                .find(|source| source["kind"] == "Namespace")
                .and_then(|source| source["objects"].as_u64());
            Ok(namespaces >= Some(known.into())
                && status["sync"]["pending"] == 0
                && status["sync"]["last_error"].is_null())
        })
    }
}

pub(crate) const LONG: Duration = Duration::from_secs(120);

pub(crate) fn exchange(transport: Transport, to: SocketAddr) -> Exchange {
    match transport {
        Transport::Tcp => Exchange::tcp(to),
        Transport::Udp => Exchange::udp(to),
        Transport::UdpConnected => Exchange::udp_connected(to),
    }
}

/// Waits until a condition holds.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !condition()? {
        ensure!(
            Instant::now() < deadline,
            "waited {PATIENCE:?} until {what}"
        );
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Waits until the load has gone on for so many more exchanges.
pub(crate) fn goes_on(job: &Job<LoadReport>, exchanges: u64) -> Result<()> {
    let start = job.report()?.ok;
    eventually("the load goes on", || {
        Ok(job.report()?.ok >= start + exchanges)
    })
    .with_context(|| format!("{:?}", job.report()))
}

/// Waits until the sockets have been answered so many more times.
pub(crate) fn talks_on(job: &Job<LongLivedReport>, requests: u64) -> Result<()> {
    let start = job.report()?.requests;
    eventually("the sockets are answered", || {
        Ok(job.report()?.requests >= start + requests)
    })
    .with_context(|| format!("{:?}", job.report()))
}

fn web() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "type": "NodePort",
            "clusterIP": V4,
            "clusterIPs": [V4.to_string(), V6.to_string()],
            "ports": [
                {"name": "tcp", "port": 80, "protocol": "TCP", "nodePort": NODE_PORT},
                {"name": "udp", "port": 80, "protocol": "UDP", "nodePort": NODE_PORT},
            ],
        },
    })
}

fn node_object(node: &Node) -> Value {
    let addresses = node.addresses();
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node.name()},
        "spec": {"podCIDRs": node.pod_ranges()},
        "status": {"addresses": [
            {"type": "InternalIP", "address": addresses.v4},
            {"type": "InternalIP", "address": addresses.v6},
        ]},
    })
}
