//! Session affinity: a client stays with its endpoint.

use std::{collections::BTreeSet, net::SocketAddr, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use weir_world::{
    Peer,
    peer::{LoadReport, Transport},
};

use crate::{
    service::ready,
    talk::{TRANSPORTS, ask, exchange, many},
    town::{Family, both_towns, town},
};

const SERVERS: [&str; 6] = ["one-a", "one-b", "two-a", "two-b", "three-a", "three-b"];

fn connect(peer: &Peer, transport: Transport, to: SocketAddr) -> Result<LoadReport> {
    let report = many(peer, exchange(transport, to), 24)?;
    ensure!(report.failures() == 0, "{report:?}");
    Ok(report)
}

/// The one server that answers.
fn stays(peer: &Peer, transport: Transport, to: SocketAddr) -> Result<String> {
    let report = connect(peer, transport, to)?;
    let mut servers = report.answered_by.into_keys();
    let server = servers.next().context("nobody answered")?;
    ensure!(
        servers.next().is_none(),
        "{transport:?} to {to}: not only {server} answered"
    );
    Ok(server)
}

fn spreads(peer: &Peer, transport: Transport, to: SocketAddr) -> Result<()> {
    let report = connect(peer, transport, to)?;
    // One of six, 24 times by chance: never.
    ensure!(
        report.answered_by.len() > 1,
        "{transport:?} to {to}: {report:?}"
    );
    Ok(())
}

#[test]
fn a_client_stays_and_is_switched_on_and_off() -> Result<()> {
    for town in both_towns()? {
        let mut service = town.service("switched").node_port().to(&SERVERS);
        service.apply()?;
        let clients = ["one-client", "two-mesh", "node3", "ann", "ben"];
        for on in [false, true, false, true] {
            let affinity = if on { "ClientIP" } else { "None" };
            service.object["spec"]["sessionAffinity"] = affinity.into();
            service.apply()?;
            for client in clients {
                let peer = town.peer(client)?;
                for family in Family::BOTH {
                    for to in [service.at(family), service.at_node("node2", family)?] {
                        for transport in TRANSPORTS {
                            if on {
                                stays(&peer, transport, to).map(drop)
                            } else {
                                spreads(&peer, transport, to)
                            }
                            .with_context(|| format!("{client}, {affinity}"))?;
                        }
                    }
                }
            }
        }
    }
    Ok(())
}

#[test]
fn a_client_stays_whichever_of_the_addresses_it_uses() -> Result<()> {
    let town = town()?;
    let service = town
        .service("addresses")
        .load_balancer()
        .external()
        .sticky(600)
        .to(&SERVERS);
    service.apply()?;
    for (client, node) in [
        ("one-client", "node1"),
        ("two-mesh", "node2"),
        ("node3", "node3"),
        ("ann", "node1"),
    ] {
        let peer = town.peer(client)?;
        for family in Family::BOTH {
            for transport in TRANSPORTS {
                let first = stays(&peer, transport, service.at(family))?;
                for to in [
                    service.at_balancer(family),
                    service.at_external(family),
                    service.at_node(node, family)?,
                ] {
                    let server = stays(&peer, transport, to)?;
                    ensure!(server == first, "{client} at {to}: {server}, not {first}");
                }
            }
        }
    }
    Ok(())
}

#[test]
fn the_families_of_a_client_do_not_disturb_each_other() -> Result<()> {
    let town = town()?;
    let service = town.service("families").sticky(600).to(&SERVERS);
    service.apply()?;
    for client in ["one-client", "one-mesh", "node1"] {
        let peer = town.peer(client)?;
        for transport in TRANSPORTS {
            let first = Family::BOTH.map(|family| stays(&peer, transport, service.at(family)));
            for _ in 0..12 {
                for (family, first) in Family::BOTH.into_iter().zip(&first) {
                    let (server, _) = ask(&peer, transport, service.at(family))?;
                    ensure!(
                        Some(&server) == first.as_ref().ok(),
                        "{client} {transport:?} {family}: {server}, {first:?} before"
                    );
                }
            }
        }
    }
    Ok(())
}

#[test]
fn clients_are_told_apart() -> Result<()> {
    let town = town()?;
    let service = town.service("apart").sticky(600).to(&SERVERS);
    service.apply()?;
    for transport in TRANSPORTS {
        let mut servers = BTreeSet::new();
        for client in [
            "one-client",
            "one-mesh",
            "one-b",
            "two-client",
            "two-mesh",
            "two-b",
            "three-client",
            "three-mesh",
            "three-b",
            "node1",
            "node2",
            "node3",
            "ann",
            "ben",
        ] {
            for family in Family::BOTH {
                servers.insert(stays(&town.peer(client)?, transport, service.at(family))?);
            }
        }
        ensure!(servers.len() > 1, "all of them are with {servers:?}");
    }
    Ok(())
}

#[test]
fn after_the_timeout_a_client_is_free() -> Result<()> {
    let town = town()?;
    let service = town.service("timeout").node_port().sticky(1).to(&SERVERS);
    service.apply()?;
    let mut clients = Vec::new();
    for client in ["one-client", "one-mesh", "node2", "ann"] {
        for family in Family::BOTH {
            let to = service.at_node("node1", family)?;
            for (transport, to) in [(Transport::Tcp, to), (Transport::Udp, service.at(family))] {
                clients.push((town.peer(client)?, transport, to, BTreeSet::new()));
            }
        }
    }
    for _ in 0..12 {
        for (peer, transport, to, seen) in &mut clients {
            if seen.len() < 2 {
                seen.insert(ask(peer, *transport, *to)?.0);
            }
        }
        if clients.iter().all(|(.., seen)| seen.len() > 1) {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(1100));
    }
    let seen: Vec<_> = clients.iter().map(|(_, _, to, seen)| (to, seen)).collect();
    anyhow::bail!("some never changed: {seen:?}")
}

#[test]
fn a_client_whose_endpoint_is_gone_gets_another_and_stays_there() -> Result<()> {
    let town = town()?;
    let mut service = town.service("gone").node_port().sticky(600).to(&SERVERS);
    service.apply()?;
    for client in ["one-client", "two-mesh", "node3", "ann"] {
        let peer = town.peer(client)?;
        for transport in TRANSPORTS {
            let to = service.at_node("node2", Family::V4)?;
            let first = stays(&peer, transport, to)?;
            let rest: Vec<&str> = SERVERS
                .into_iter()
                .filter(|server| *server != first)
                .collect();
            service.move_to(rest.iter().map(|server| ready(server)).collect())?;
            let second = stays(&peer, transport, to)?;
            ensure!(second != first, "{client} is still sent to {first}");
            // Once it has chosen anew, the return of the first does not move it again.
            service.move_to(SERVERS.map(ready).into())?;
            let third = stays(&peer, transport, to)?;
            ensure!(third == second, "{client} left {second} for {third}");
        }
    }
    Ok(())
}
