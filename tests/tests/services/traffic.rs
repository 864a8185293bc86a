//! Where connections go, from which clients, and what becomes of those that nobody serves.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::Result;
use weir_tests::{
    agent::{Agent, peer_command},
    manifests::{Manifests, endpoints_of},
};
use weir_world::{
    CgroupDriver, Peer, PodSpec, Wiring, World,
    peer::{Exchange, LoadSpec},
};

use crate::shop::{ADDRESSES, SERVERS, Shop, V4, both};
#[test]
fn connections_spread_evenly_over_the_backends() -> Result<()> {
    let shop = Shop::open()?;
    let agent = shop.agent()?;
    let host = shop.node().peer()?;
    for to in both() {
        spread(&shop.client, to)?;
        spread(&host, to)?;
    }
    // Every one of them was counted, once.
    let counted = agent.metric(
        r#"weir_service_connections_total{namespace="default",service="web",port="http",protocol="TCP",result="translated"}"#,
    )?;
    assert_eq!(counted, 3600.0);
    Ok(())
}

#[test]
fn bridged_pods_and_systemd_cgroups_are_served_too() -> Result<()> {
    let shop = Shop::open_as(Wiring::Bridged, CgroupDriver::Systemd)?;
    let _agent = shop.agent()?;
    for to in both() {
        spread(&shop.client, to)?;
    }
    Ok(())
}

#[test]
fn an_application_sees_the_peer_it_asked_for() -> Result<()> {
    let shop = Shop::open()?;
    let _agent = shop.agent()?;
    for to in both() {
        let outcome = shop.client.connect(to)?;
        assert!(outcome.ok(), "{outcome:?}");
        assert_eq!(outcome.peer, Some(to));
    }
    // An IPv6 socket that reaches IPv4 by a mapped address.
    let mapped: SocketAddr = (V4.to_ipv6_mapped(), 80).into();
    let outcome = shop.client.connect(mapped)?;
    assert!(outcome.ok(), "{outcome:?}");
    assert_eq!(outcome.peer, Some(mapped));
    // A connection straight to a pod is none of ours.
    let pod: SocketAddr = (shop.world.pod("web-1")?.addresses().v4, 8080).into();
    let outcome = shop.client.connect(pod)?;
    assert_eq!(
        (outcome.answered_by.as_deref(), outcome.peer),
        (Some("web-1"), Some(pod))
    );
    Ok(())
}

#[test]
fn what_nobody_serves_is_refused_at_once() -> Result<()> {
    let shop = Shop::open()?;
    shop.manifests
        .service("lonely", &["10.96.0.99", "fd00:10:96::99"], &[])?;
    let agent = shop.agent()?;
    let lonely: [IpAddr; 2] = ["10.96.0.99".parse()?, "fd00:10:96::99".parse()?];
    for client in [&shop.client, &shop.node().peer()?] {
        for addr in lonely {
            let outcome = client.connect((addr, 80))?;
            assert_eq!(outcome.errno(), Some("ECONNREFUSED"), "{addr}: {outcome:?}");
        }
        // Known addresses, but no such port.
        for to in both() {
            let outcome = client.connect(SocketAddr::new(to.ip(), 81))?;
            assert_eq!(outcome.errno(), Some("ECONNREFUSED"), "{to}: {outcome:?}");
        }
    }
    let refused =
        |verdict: &str| agent.metric(&format!("weir_verdicts_total{{verdict=\"{verdict}\"}}"));
    assert_eq!(refused("no_endpoints")?, 4.0);
    assert_eq!(refused("unknown_port")?, 4.0);
    assert_eq!(
        agent.metric(
            r#"weir_service_connections_total{namespace="default",service="lonely",port="http",protocol="TCP",result="refused"}"#
        )?,
        4.0
    );
    // The rest is a black hole in this world, as 192.0.2.0/24 has no such host: only Weir could have refused it.
    let unknown = shop.client.exchange(
        Exchange::tcp((Ipv4Addr::new(10, 96, 0, 77), 80)).timeout(Duration::from_millis(300)),
    )?;
    assert_ne!(unknown.errno(), Some("ECONNREFUSED"), "{unknown:?}");
    Ok(())
}

#[test]
fn only_processes_below_the_cgroup_root_are_served() -> Result<()> {
    let world = World::builder(peer_command()?)
        .nodes(2)
        .pods(SERVERS.map(PodSpec::new))
        .pod(PodSpec::new("elsewhere").on("node2"))
        .build()?;
    let node = world.node("node1")?;
    let server = world.pod("web-1")?;
    let serving = server.peer()?;
    serving.echo(8080)?;
    let manifests = Manifests::new(node.run_directory())?;
    manifests.service("web", &ADDRESSES, &endpoints_of(&[&server], 8080))?;
    let _agent = Agent::start(node, manifests.path())?;
    assert!(node.peer()?.connect((V4, 80))?.ok());
    let elsewhere = world.pod("elsewhere")?.peer()?;
    let to = Exchange::tcp((V4, 80)).timeout(Duration::from_millis(300));
    assert!(!elsewhere.exchange(to)?.ok(), "node2 has no agent");
    Ok(())
}

#[test]
fn a_udp_socket_is_not_touched_by_the_tcp_service() -> Result<()> {
    let shop = Shop::open()?;
    let _agent = shop.agent()?;
    let to = Exchange::udp_connected((V4, 80)).timeout(Duration::from_millis(300));
    let outcome = shop.client.exchange(to)?;
    assert!(!outcome.ok(), "{outcome:?}");
    assert_ne!(
        outcome.peer.map(|peer| peer.port()),
        Some(8080),
        "{outcome:?}"
    );
    Ok(())
}

fn spread(peer: &Peer, to: SocketAddr) -> Result<()> {
    const CONNECTIONS: u64 = 900;
    let load = LoadSpec::new(Exchange::tcp(to), Duration::from_secs(60)).count(CONNECTIONS);
    let report = peer.load(load)?.wait()?;
    assert_eq!(report.ok, CONNECTIONS, "{to}: {report:?}");
    // A binomial count of 900 at one third has a deviation of 14; six of them are never met by chance.
    for server in SERVERS {
        let count = report.answered_by.get(server).copied().unwrap_or(0);
        assert!(
            (216..=384).contains(&count),
            "{to}: {server} answered {count} of {CONNECTIONS}"
        );
    }
    Ok(())
}
