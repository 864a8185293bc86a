//! Traffic through a service against the same pod addressed directly, worlds of several sizes side by side.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use weir_tests::{
    agent::{Agent, peer_command},
    manifests::{Manifests, endpoints_of},
};
use weir_world::{
    Peer, PodSpec, World,
    peer::{BenchKind, BenchReport, BenchSpec},
};

use crate::ratio::Ratios;

/// What the service and the pod are reached at.
const SERVICE: [&str; 2] = ["10.96.0.80", "fd00:10:96::80"];
const SERVED: u16 = 8080;
/// Endpoints of each service that only fills the tables.
const FILLING: u32 = 10;

/// A node whose agent has programmed that many services, one of them with a real pod.
pub(crate) struct Site {
    pub(crate) services: u32,
    world: World,
    client: Peer,
    host: Peer,
    _server: Peer,
    agent: Agent,
    pub(crate) rows: Rows,
}

/// What was measured in one site: the service against the pod.
#[derive(Default)]
pub(crate) struct Rows {
    pub(crate) connects: Ratios,
    pub(crate) connects_v6: Ratios,
    pub(crate) connects_from_host: Ratios,
    pub(crate) direct_with_agent: Ratios,
    pub(crate) latency_p50: Ratios,
    pub(crate) latency_p99: Ratios,
    pub(crate) connect_cpu: Ratios,
}

impl Site {
    pub(crate) fn build(services: u32) -> Result<Self> {
        let world = World::builder(peer_command()?)
            .pods([PodSpec::new("server"), PodSpec::new("client")])
            .build()?;
        let node = &world.nodes()[0];
        let server = world.pod("server")?.peer()?;
        server.bench_server(SERVED)?;
        let manifests = Manifests::new(node.run_directory())?;
        manifests.service(
            "web",
            &SERVICE,
            &endpoints_of(&[&world.pod("server")?], SERVED),
        )?;
        let filling: Vec<Value> = (1..services).flat_map(filling).collect();
        let list = json!({"apiVersion": "v1", "kind": "List", "items": filling});
        fs::write(
            manifests.path().join("filling.json"),
            serde_json::to_vec(&list)?,
        )?;
        let agent = Agent::start(node, manifests.path())?;
        Ok(Self {
            services,
            client: world.pod("client")?.peer()?,
            host: node.peer()?,
            _server: server,
            agent,
            world,
            rows: Rows::default(),
        })
    }

    /// One round of everything. `untouched` is a site without an agent.
    pub(crate) fn round(&mut self, untouched: &Untouched, each: Duration) -> Result<()> {
        let pod = self.world.pod("server")?.addresses();
        let [v4, v6] = SERVICE.map(str::parse::<IpAddr>);
        let (service, service_v6) = (SocketAddr::new(v4?, 80), SocketAddr::new(v6?, 80));
        let (direct, direct_v6) = ((pod.v4, SERVED).into(), (pod.v6, SERVED).into());
        let connect = |peer: &Peer, to| run(peer, to, BenchKind::Connect, each);

        let reference = connect(&self.client, direct)?;
        let measured = connect(&self.client, service)?;
        self.rows.connects.push(measured.rate(), reference.rate());
        self.rows
            .connect_cpu
            .push(cpu_per_operation(&measured), cpu_per_operation(&reference));
        self.rows.direct_with_agent.push(
            reference.rate(),
            connect(&untouched.client, untouched.direct)?.rate(),
        );
        self.rows.connects_v6.push(
            connect(&self.client, service_v6)?.rate(),
            connect(&self.client, direct_v6)?.rate(),
        );
        self.rows.connects_from_host.push(
            connect(&self.host, service)?.rate(),
            connect(&self.host, direct)?.rate(),
        );
        let talk = |to| run(&self.client, to, BenchKind::RequestResponse, each);
        let (measured, reference) = (talk(service)?, talk(direct)?);
        let seconds = |duration: Duration| duration.as_secs_f64();
        self.rows
            .latency_p50
            .push(seconds(measured.p50), seconds(reference.p50));
        self.rows
            .latency_p99
            .push(seconds(measured.p99), seconds(reference.p99));
        Ok(())
    }
}

/// The same pods on a node without an agent.
pub(crate) struct Untouched {
    _world: World,
    client: Peer,
    _server: Peer,
    direct: SocketAddr,
}

impl Untouched {
    pub(crate) fn build() -> Result<Self> {
        let world = World::builder(peer_command()?)
            .pods([PodSpec::new("server"), PodSpec::new("client")])
            .build()?;
        let server = world.pod("server")?.peer()?;
        server.bench_server(SERVED)?;
        Ok(Self {
            client: world.pod("client")?.peer()?,
            direct: (world.pod("server")?.addresses().v4, SERVED).into(),
            _server: server,
            _world: world,
        })
    }
}

fn run(peer: &Peer, to: SocketAddr, kind: BenchKind, each: Duration) -> Result<BenchReport> {
    let report = peer.bench(BenchSpec::new(to, kind, each))?.wait()?;
    ensure!(
        report.failed.is_empty(),
        "{kind:?} to {to} failed: {:?}",
        report.failed
    );
    Ok(report)
}

fn cpu_per_operation(report: &BenchReport) -> f64 {
    report.cpu.as_secs_f64() / report.operations.max(1) as f64
}

/// A service with [`FILLING`] endpoints that nobody serves, and its slice.
fn filling(number: u32) -> [Value; 2] {
    let name = format!("filling-{number}");
    let address = format!("10.96.{}.{}", 1 + number / 250, 1 + number % 250);
    let endpoints = (0..FILLING).map(|n| {
        let n = number * FILLING + n;
        json!({"addresses": [format!("10.{}.{}.{}", 128 + n / 62500, n / 250 % 250, 1 + n % 250)]})
    });
    [
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "namespace": "filling"},
            "spec": {"clusterIP": address, "clusterIPs": [address], "ports": [{"port": 80, "protocol": "TCP"}]},
        }),
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": name, "namespace": "filling",
                "labels": {"kubernetes.io/service-name": name},
            },
            "addressType": "IPv4",
            "ports": [{"port": 8080, "protocol": "TCP"}],
            "endpoints": endpoints.collect::<Vec<_>>(),
        }),
    ]
}

/// Checks that the site really has so many services programmed.
pub(crate) fn check(site: &Site) -> Result<()> {
    let entries = site.agent.metric(r#"weir_map_entries{map="SERVICES"}"#)?;
    // Two for each address of each service; `web` has two addresses.
    let expected = f64::from(site.services) * 2.0 + 2.0;
    ensure!(
        entries == expected,
        "{entries} entries instead of {expected}"
    );
    Ok(())
}
