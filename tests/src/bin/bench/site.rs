//! A world of two nodes and a machine outside, with a proxy on each node or without.

use std::{
    net::IpAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use rustix::process::{Pid, setpriority_process};
use weir_tests::{agent::peer_command, control_plane::Cluster};
use weir_world::{
    Addresses, Node, Peer, PodSpec, Wiring, World,
    peer::{Exchange, Server},
};

use crate::{
    contender::{Contender, Proxying, Way},
    objects::{ECHO, MEASURED, PORT, SIGNS, SWITCHED, sign_address},
};

/// How long a proxy may take until it has programmed everything. What takes longer is left out.
pub(crate) const PATIENCE: Duration = Duration::from_secs(150);

/// A world.
pub(crate) struct Site {
    pub(crate) contender: Contender,
    /// A pod on the first node.
    pub(crate) pod: Peer,
    /// The first node itself.
    pub(crate) host: Peer,
    /// A machine outside of the cluster.
    pub(crate) outside: Peer,
    /// The first node's address.
    pub(crate) node_address: IpAddr,
    /// The backend on the first node.
    pub(crate) near: Backend,
    /// The backend on the second node.
    pub(crate) far: Backend,
    proxies: Vec<Proxying>,
    // Goes last: what is above works in it.
    world: World,
}

/// A pod that serves.
pub(crate) struct Backend {
    pub(crate) peer: Peer,
    pub(crate) addresses: Addresses,
    /// Its server of IPv4 datagrams, which counts them.
    pub(crate) datagrams: Server,
}

impl Backend {
    fn start(world: &World, pod: &str) -> Result<Self> {
        let pod = world.pod(pod)?;
        let peer = ahead(pod.peer()?)?;
        let servers = peer.bench_server(MEASURED)?;
        peer.echo(ECHO)?;
        Ok(Self {
            addresses: pod.addresses(),
            // TCP and UDP of IPv4, then of IPv6.
            datagrams: servers.get(1).context("there is no UDP server")?.clone(),
            peer,
        })
    }
}

/// Lets a peer go ahead of whatever else runs on the machine, which is noise here. What it starts from now on inherits it.
fn ahead(peer: Peer) -> Result<Peer> {
    const NICE: i32 = -10;
    let process = Pid::from_raw(peer.id().cast_signed()).context("a peer has no process")?;
    setpriority_process(Some(process), NICE).context("cannot raise a peer's priority")?;
    Ok(peer)
}

impl Site {
    /// A world without a proxy.
    pub(crate) fn build(contender: Contender, wiring: Wiring) -> Result<Self> {
        let world = World::builder(peer_command()?)
            .wiring(wiring)
            .nodes(2)
            .pods([
                PodSpec::new("near"),
                PodSpec::new("client"),
                PodSpec::new("far").on("node2"),
            ])
            .client("outside")
            .build()?;
        let (first, second) = (world.node("node1")?, world.node("node2")?);
        if contender == Contender::Direct {
            // The same machines in the same order as by a node port: to both pods by way of the first node, and back.
            let via = first.addresses().v4;
            let outside = world.client("outside")?;
            for node in [first, second] {
                let [range, _] = node.pod_ranges();
                outside.ip(&[&format!("route add {range} via {via}")])?;
            }
            let back = outside.addresses().v4;
            second.ip(&[&format!("route add {back}/32 via {via}")])?;
        }
        Ok(Self {
            contender,
            pod: ahead(world.pod("client")?.peer()?)?,
            host: ahead(first.peer()?)?,
            outside: ahead(world.client("outside")?.peer()?)?,
            node_address: first.addresses().v4.into(),
            near: Backend::start(&world, "near")?,
            far: Backend::start(&world, "far")?,
            proxies: Vec::new(),
            world,
        })
    }

    /// The world's nodes.
    pub(crate) fn nodes(&self) -> &[Node] {
        self.world.nodes()
    }

    /// Starts a proxy on the node of this number, from 0.
    pub(crate) fn start(&mut self, cluster: &Cluster, node: usize, way: Way) -> Result<()> {
        let node = self.world.nodes().get(node).context("no such node")?;
        let started = Proxying::start(cluster, node, way)?;
        self.proxies.extend(started);
        Ok(())
    }

    /// The proxy on the first node.
    pub(crate) fn proxy(&self) -> Result<&Proxying> {
        self.proxies.first().context("this world has no proxy")
    }

    /// All proxies.
    pub(crate) fn proxies(&self) -> &[Proxying] {
        &self.proxies
    }

    /// Waits until the pod on the first node, or the one on the second, reaches the first and the last of all services, by TCP
    /// and UDP; false if that takes too long.
    pub(crate) fn wait_until_programmed(&self, node: usize) -> Result<bool> {
        let client = if node == 0 { &self.pod } else { &self.far.peer };
        let start = Instant::now();
        loop {
            let answered = SIGNS.iter().all(|sign| {
                let to = (sign_address(sign), PORT);
                [Exchange::tcp(to), Exchange::udp(to)]
                    .into_iter()
                    .all(|exchange| {
                        let exchange = exchange.timeout(Duration::from_millis(50));
                        client.exchange(exchange).is_ok_and(|outcome| outcome.ok())
                    })
            });
            if answered {
                return Ok(true);
            }
            if start.elapsed() > PATIENCE {
                return Ok(false);
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Whether the service that is switched on and off answers the pod.
    pub(crate) fn is_switched_on(&self) -> Result<bool> {
        let to = (sign_address(SWITCHED), PORT);
        let exchange = Exchange::tcp(to).timeout(Duration::from_millis(200));
        Ok(self.pod.exchange(exchange)?.ok())
    }
}
