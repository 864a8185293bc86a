//! What every story needs: a world's node that is a cluster's node as well.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1 as core;
use serde_json::Value;
use weir::api::view::ServiceView;
use weir_tests::{
    agent::{self, Agent, peer_command},
    control_plane::{Cluster, Identity, Namespace, Node, NodeGuard, Pod, Proxy, Service},
};
use weir_world::{
    Peer, PodSpec, World,
    peer::{Exchange, LoadReport, LoadSpec, Outcome},
};

/// The pods that serve: on 8080 under their own name, on 9090 under that name and `-admin`.
pub(crate) const SERVERS: [&str; 3] = ["web-1", "web-2", "web-3"];

/// The zone of the shop's node.
pub(crate) const ZONE: &str = "a";

/// A node with three servers and a client, an API namespace, and a proxy through which the node's agent reaches the API
/// server.
pub(crate) struct Shop<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) namespace: Namespace<'a>,
    pub(crate) world: World,
    pub(crate) proxy: Proxy,
    pub(crate) client: Peer,
    node: NodeGuard<'a>,
    kubeconfig: PathBuf,
    /// They serve as long as they are kept.
    _servers: Vec<Peer>,
}

impl<'a> Shop<'a> {
    /// A shop whose agent may do everything.
    pub(crate) fn open(cluster: &'a Cluster, name: &str) -> Result<Self> {
        Self::open_as(cluster, name, &Identity::Administrator)
    }

    /// A shop whose agent is `identity`.
    pub(crate) fn open_as(
        cluster: &'a Cluster,
        name: &str,
        identity: &Identity<'_>,
    ) -> Result<Self> {
        let world = World::builder(peer_command()?)
            .pods(SERVERS.map(PodSpec::new))
            .pod(PodSpec::new("client"))
            .build()?;
        let servers = SERVERS.map(|name| -> Result<Peer> {
            let peer = world.pod(name)?.peer()?;
            peer.echo(8080)?;
            peer.echo_as(&format!("{name}-admin"), 9090)?;
            Ok(peer)
        });
        let namespace = cluster.namespace(name)?;
        let place = &world.nodes()[0];
        let addresses = place.addresses().both().map(|address| address.to_string());
        let ranges = place.pod_ranges();
        let node = Node::new(&format!("{}-node", namespace.name()))
            .zone(ZONE)
            .internal_ips(&addresses.each_ref().map(String::as_str))
            .pod_cidrs(&ranges.each_ref().map(String::as_str));
        let node = cluster.node(&node)?;
        let proxy = cluster.proxy_in(place.netns().path())?;
        Ok(Self {
            client: world.pod("client")?.peer()?,
            kubeconfig: cluster.kubeconfig(proxy.url(), identity)?,
            _servers: servers.into_iter().collect::<Result<_>>()?,
            cluster,
            namespace,
            world,
            proxy,
            node,
        })
    }

    /// The name of the shop's node in the API.
    pub(crate) fn node_name(&self) -> &str {
        self.node.name()
    }

    /// The world's node.
    pub(crate) fn node(&self) -> &weir_world::Node {
        &self.world.nodes()[0]
    }

    /// Starts the agent and waits until its tables are in sync.
    pub(crate) fn agent(&self) -> Result<Agent> {
        let agent = self.spawn_agent()?;
        agent.wait_until_synced()?;
        Ok(agent)
    }

    /// As [`Shop::agent`], with more options.
    pub(crate) fn agent_with(&self, options: &[&str]) -> Result<Agent> {
        let mut arguments = vec!["--kubeconfig".as_ref(), self.kubeconfig.as_os_str()];
        arguments.extend(options.iter().map(std::ffi::OsStr::new));
        let agent = Agent::spawn_as(self.node(), self.node_name(), &arguments)?;
        agent.wait_until_synced()?;
        Ok(agent)
    }

    /// Starts the agent and waits for nothing.
    pub(crate) fn spawn_agent(&self) -> Result<Agent> {
        let arguments = ["--kubeconfig".as_ref(), self.kubeconfig.as_os_str()];
        Agent::spawn_as(self.node(), self.node_name(), &arguments)
    }

    /// Creates a service of port 80 for the pods that are labelled with its name.
    pub(crate) fn service(&self, name: &str) -> Result<Frontends> {
        self.create(&web(name))
    }

    /// Creates a service as described and returns its addresses.
    pub(crate) fn create(&self, service: &Service) -> Result<Frontends> {
        frontends(&self.namespace.service(service)?)
    }

    /// The service's addresses as they are now.
    pub(crate) fn frontends(&self, service: &str) -> Result<Frontends> {
        let service = self.namespace.get::<core::Service>(service)?;
        frontends(&service.context("there is no such service")?)
    }

    /// Describes a server of the world as a pod of the cluster, on the shop's node and behind the service `web`.
    pub(crate) fn pod(&self, name: &str) -> Result<Pod> {
        self.pod_of(name, "web", self.node_name())
    }

    /// As [`Shop::pod`], behind another service, or as if it were on another node.
    pub(crate) fn pod_of(&self, name: &str, service: &str, node: &str) -> Result<Pod> {
        let [v4, v6] = self.addresses(name)?.map(|address| address.to_string());
        Ok(Pod::new(name)
            .label("app", service)
            .node(node)
            .port("http", 8080)
            .port("admin", 9090)
            .ips(&[&v4, &v6]))
    }

    /// A server's addresses, IPv4 first.
    pub(crate) fn addresses(&self, server: &str) -> Result<[IpAddr; 2]> {
        Ok(self.world.pod(server)?.addresses().both())
    }

    /// Creates pods of these servers, ready, behind the service `web`.
    pub(crate) fn pods(&self, names: &[&str]) -> Result<()> {
        names
            .iter()
            .try_for_each(|name| self.namespace.pod(&self.pod(name)?).map(drop))
    }

    /// What the agent says of a service of this namespace, if anything.
    pub(crate) fn seen(&self, agent: &Agent, service: &str) -> Result<Option<ServiceView>> {
        let all: Vec<ServiceView> = serde_json::from_value(agent.services()?)?;
        let namespace = self.namespace.name();
        Ok(all
            .into_iter()
            .find(|seen| seen.namespace == namespace && seen.name == service))
    }

    /// The endpoints that the agent uses for the first port of a service of this namespace, and their ports.
    pub(crate) fn endpoints(&self, agent: &Agent, service: &str) -> Result<BTreeSet<SocketAddr>> {
        let seen = self
            .seen(agent, service)?
            .context("the agent does not balance it")?;
        let endpoints = seen.ports.iter().take(1).flat_map(|port| &port.endpoints);
        Ok(endpoints.map(|endpoint| endpoint.address).collect())
    }

    /// Both addresses of each server, at `port`.
    pub(crate) fn sockets(&self, servers: &[&str], port: u16) -> Result<BTreeSet<SocketAddr>> {
        let addresses = servers.iter().map(|server| self.addresses(server));
        let addresses: Vec<[IpAddr; 2]> = addresses.collect::<Result<_>>()?;
        Ok(addresses
            .iter()
            .flatten()
            .map(|address| SocketAddr::new(*address, port))
            .collect())
    }

    /// Waits until connections of the client to each of the frontends are answered by exactly these servers.
    pub(crate) fn wait_for(&self, agent: &Agent, to: &Frontends, servers: &[&str]) -> Result<()> {
        for to in to.both() {
            agent.wait_until(&format!("{servers:?} answer at {to}"), |_| {
                self.is_answered_by(to, servers)
            })?;
        }
        Ok(())
    }

    /// Whether connections of the client to `to` are answered by exactly these servers.
    pub(crate) fn is_answered_by(&self, to: SocketAddr, servers: &[&str]) -> Result<bool> {
        let expected: BTreeSet<&str> = servers.iter().copied().collect();
        let mut answered = BTreeMap::new();
        // That one of three equal backends is not met by chance is a matter of one in 60,000.
        for _ in 0..30 {
            let outcome = self.connect(to)?;
            let by = match outcome.answered_by {
                Some(by) => by,
                None => bail!("{to}: {:?}", outcome.failure),
            };
            *answered.entry(by).or_insert(0) += 1;
        }
        ensure!(
            answered.keys().map(String::as_str).collect::<BTreeSet<_>>() == expected,
            "{to} is answered by {answered:?}"
        );
        Ok(true)
    }

    /// Waits until connections of the client are refused.
    pub(crate) fn wait_until_refused(&self, agent: &Agent, to: &Frontends) -> Result<()> {
        for to in to.both() {
            agent.wait_until(&format!("{to} is refused"), |_| {
                Ok(self.connect(to)?.errno() == Some("ECONNREFUSED"))
            })?;
        }
        Ok(())
    }

    /// Waits until nobody touches the client's connections any more: they go into the void.
    pub(crate) fn wait_until_untouched(&self, agent: &Agent, to: &Frontends) -> Result<()> {
        for to in to.both() {
            agent.wait_until(&format!("{to} is left alone"), |_| {
                let outcome = self.connect(to)?;
                Ok(!outcome.ok() && outcome.errno() != Some("ECONNREFUSED"))
            })?;
        }
        Ok(())
    }

    /// One connection of the client, soon given up where nobody answers.
    pub(crate) fn connect(&self, to: SocketAddr) -> Result<Outcome> {
        let exchange = Exchange::tcp(to).timeout(Duration::from_millis(500));
        Ok(self.client.exchange(exchange)?)
    }

    /// Steady load of the client's, until it is stopped.
    pub(crate) fn load(&self, to: SocketAddr) -> Result<Load> {
        self.load_of(Exchange::tcp(to))
    }

    /// As [`Shop::load`], of any exchange.
    pub(crate) fn load_of(&self, exchange: Exchange) -> Result<Load> {
        let load =
            LoadSpec::new(exchange, Duration::from_secs(120)).pause(Duration::from_millis(2));
        Ok(Load(self.client.load(load)?))
    }
}

/// A load that must not fail.
pub(crate) struct Load(weir_world::peer::Job<LoadReport>);

impl Load {
    /// Waits until it has gone on for so many more exchanges.
    pub(crate) fn more(&self, exchanges: u64) -> Result<()> {
        let start = self.0.report()?;
        let deadline = Instant::now() + agent::PATIENCE;
        while self.0.report()?.ok < start.ok + exchanges {
            ensure!(
                Instant::now() < deadline,
                "the load stands still: {:?}",
                self.0.report()?
            );
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Ends it; an error if a single exchange failed.
    pub(crate) fn stop(self) -> Result<()> {
        self.stop_allowing(0)
    }

    /// Ends it; an error if more exchanges failed.
    pub(crate) fn stop_allowing(self, failures: u64) -> Result<()> {
        let report = self.0.stop()?;
        ensure!(
            report.failures() <= failures,
            "connections failed: {report:?}"
        );
        Ok(())
    }
}

/// Where a service is reached: its cluster IPs and first port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frontends {
    pub(crate) v4: SocketAddr,
    pub(crate) v6: SocketAddr,
}

impl Frontends {
    pub(crate) fn both(&self) -> [SocketAddr; 2] {
        [self.v4, self.v6]
    }

    /// The same addresses with another port.
    pub(crate) fn port(&self, port: u16) -> Self {
        let mut other = self.clone();
        other.v4.set_port(port);
        other.v6.set_port(port);
        other
    }
}

fn frontends(service: &core::Service) -> Result<Frontends> {
    let spec = service.spec.as_ref().context("no spec")?;
    let port = spec.ports.iter().flatten().next().context("no port")?.port;
    let address = |i: usize| -> Result<SocketAddr> {
        let address = spec
            .cluster_ips
            .iter()
            .flatten()
            .nth(i)
            .context("an address is missing")?;
        Ok(SocketAddr::new(address.parse()?, u16::try_from(port)?))
    };
    Ok(Frontends {
        v4: address(0)?,
        v6: address(1)?,
    })
}

/// A service of port 80 for pods that have its name as their label `app`.
pub(crate) fn web(name: &str) -> Service {
    Service::new(name)
        .select("app", name)
        .port("http", 80, 8080)
}

/// The part of a status about one kind.
pub(crate) fn source<'a>(status: &'a Value, kind: &str) -> Result<&'a Value> {
    let sources = status["sources"].as_array().context("no sources")?;
    let source = sources.iter().find(|source| source["kind"] == kind);
    source.with_context(|| format!("no source of {kind} in {status}"))
}

/// The kinds whose watches do not work at present.
pub(crate) fn failing(status: &Value) -> Result<Vec<&str>> {
    let sources = status["sources"].as_array().context("no sources")?;
    let failing = sources.iter().filter(|source| !source["error"].is_null());
    Ok(failing
        .filter_map(|source| source["kind"].as_str())
        .collect())
}

/// Every kind that the agent watches.
pub(crate) const KINDS: [&str; 5] = ["Service", "EndpointSlice", "Node", "Namespace", "Pod"];

/// Waits until the watches of all kinds fail.
pub(crate) fn wait_until_cut_off(agent: &Agent) -> Result<()> {
    agent.wait_until("every watch fails", |agent| {
        Ok(failing(&agent.status()?)?.len() == KINDS.len())
    })
}

/// Waits until no watch fails.
pub(crate) fn wait_until_watching(agent: &Agent) -> Result<()> {
    agent.wait_until("every watch works", |agent| {
        Ok(failing(&agent.status()?)?.is_empty())
    })
}
