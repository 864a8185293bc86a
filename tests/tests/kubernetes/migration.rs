//! From kube-proxy to Weir and back under load, step by step as `docs/migrate.md` says.

use std::{net::SocketAddr, process::Command, time::Duration};

use anyhow::Result;
use serde_json::Value;
use weir_tests::{
    agent::{self, Agent},
    control_plane::{self, Cluster},
    kube_proxy::{self, KubeProxy, Mode},
};
use weir_world::peer::Exchange;

use crate::shop::{Frontends, Load, Shop, web};

/// What `manifests/migrate` gives an agent that runs beside kube-proxy.
const BESIDE: [&str; 2] = [
    "--metrics-bind-address=127.0.0.1:10349",
    "--healthz-bind-address=0.0.0.0:10356",
];

/// Of thousands of requests, those that are on their way in the moment in which rules change hands may fail.
const MOMENTS: u64 = 5;

#[test]
fn nodes_move_from_kube_proxys_nftables_to_weir_under_load_and_back() -> Result<()> {
    let cluster = control_plane::shared()?;
    there_and_back(&cluster, Mode::Nftables)
}

#[test]
fn nodes_move_from_kube_proxys_iptables_to_weir_under_load_and_back() -> Result<()> {
    let cluster = control_plane::shared()?;
    there_and_back(&cluster, Mode::Iptables)
}

fn there_and_back(cluster: &Cluster, mode: Mode) -> Result<()> {
    let shop = Shop::open(cluster, &format!("migration-{}", mode.name()))?;
    let to = shop.create(&web("web").port_of("UDP", "datagrams", 80, 8080))?;
    shop.pods(&["web-1", "web-2"])?;
    let start = || KubeProxy::start(cluster, shop.node(), shop.node_name(), mode);
    let kube_proxy = start()?;
    for to in to.both() {
        control_plane::eventually("kube-proxy serves the node", || {
            Ok(shop.connect(to)?.ok().then_some(()))
        })?;
    }
    assert!(programmed(&shop, &to)?);
    let connections = [shop.load(to.v4)?, shop.load(to.v6)?];
    let datagrams = shop.load_of(Exchange::udp(to.v4).timeout(Duration::from_secs(2)))?;
    let more = |loads: &[&Load]| loads.iter().try_for_each(|load| load.more(50));
    let all = [&connections[0], &connections[1], &datagrams];
    more(&all)?;

    // There: beside kube-proxy first, which is not asked any more.
    let agent = shop.agent_with(&BESIDE)?;
    let translated = |agent: &Agent| -> Result<u64> {
        let seen = shop.seen(agent, "web")?.unwrap_or_default();
        Ok(seen
            .ports
            .iter()
            .map(|port| port.connections.translated)
            .sum())
    };
    more(&all)?;
    let before = translated(&agent)?;
    more(&all)?;
    assert!(translated(&agent)? >= before + 150, "the loads are Weir's");
    kube_proxy.terminate()?;
    agent.terminate()?;
    let agent = shop.agent()?;
    kube_proxy::cleanup(cluster, shop.node(), mode)?;
    more(&all)?;
    assert!(!programmed(&shop, &to)?);
    // What goes packet by packet is made anew on the way back.
    datagrams.stop_allowing(MOMENTS)?;

    // Back: kube-proxy can begin where its ports are free, and serves once Weir's programs are gone.
    agent.terminate()?;
    let kube_proxy = start()?;
    control_plane::eventually("kube-proxy has programmed the service", || {
        Ok(programmed(&shop, &to)?.then_some(()))
    })?;
    let both = [&connections[0], &connections[1]];
    more(&both)?;
    connections
        .into_iter()
        .try_for_each(|load| load.stop_allowing(MOMENTS))?;
    // What is opened between two pods while programs go one by one may fail: the stack has seen one side of it.
    agent::cleanup(shop.node())?;
    for to in to.both() {
        assert!(shop.connect(to)?.ok(), "kube-proxy serves {to}");
    }
    assert!(shop.client.datagram(to.v4)?.ok());
    kube_proxy.terminate()
}

/// Whether `weir check --migrate` finds both addresses of the service in kube-proxy's rules.
fn programmed(shop: &Shop<'_>, to: &Frontends) -> Result<bool> {
    let check = || -> Result<Vec<u8>> {
        let mut weir = Command::new(agent::weir_bin()?);
        let output = weir.args(["check", "--migrate", "-o", "json"]).output()?;
        Ok(output.stdout)
    };
    let found: Value = serde_json::from_slice(&shop.node().run(check)??)?;
    let services = found["services"].to_string();
    let has = |to: SocketAddr| services.contains(&format!("\"{}\"", to.ip()));
    Ok(has(to.v4) && has(to.v6))
}
