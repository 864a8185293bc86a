//! Endpoints on their way out, and on their way in.

use anyhow::{Context, Result, ensure};
use weir_world::peer::Transport;

use crate::{
    service::{Endpoint, ready, terminating, unready},
    talk::{TOLD, TRANSPORTS, is_met_by_silence, is_refused, reaches},
    town::{Family, town},
};

/// Neither ready nor able to serve any more.
fn dying(place: &str) -> Endpoint {
    Endpoint {
        serving: false,
        ..terminating(place)
    }
}

#[test]
fn terminating_endpoints_serve_when_none_is_ready() -> Result<()> {
    let town = town()?;
    let mut service = town.service("cluster").node_port();
    let clients = ["one-client", "two-mesh", "node3", "ann"];
    for (endpoints, servers) in [
        (vec![ready("one-a"), terminating("two-a")], &["one-a"][..]),
        (vec![terminating("one-a"), terminating("two-a")], &["one-a", "two-a"]),
        (vec![dying("one-a"), terminating("two-a")], &["two-a"]),
        (vec![unready("one-a"), terminating("two-a")], &["two-a"]),
        (vec![unready("one-a"), ready("three-a")], &["three-a"]),
        (vec![dying("one-a"), unready("two-a")], &[]),
    ] {
        let state = format!("{endpoints:?}");
        service.endpoints = endpoints;
        service.apply()?;
        for client in clients {
            let peer = town.peer(client)?;
            for family in Family::BOTH {
                for to in [service.at(family), service.at_node("node2", family)?] {
                    for transport in TOLD {
                        if servers.is_empty() {
                            is_refused(&peer, transport, to)
                        } else {
                            reaches(&peer, transport, to, servers)
                        }
                        .with_context(|| format!("{client}, {state}"))?;
                    }
                }
            }
        }
    }
    Ok(())
}

#[test]
fn internal_local_falls_back_to_the_nodes_own_terminating_endpoints() -> Result<()> {
    let town = town()?;
    let mut service = town.service("internal").with("internalTrafficPolicy", "Local");
    service.endpoints = vec![terminating("one-a"), ready("two-a"), terminating("two-b")];
    service.apply()?;
    for family in Family::BOTH {
        for transport in TRANSPORTS {
            for (client, server) in [
                ("one-client", "one-a"),
                ("one-mesh", "one-a"),
                ("node1", "one-a"),
                ("two-client", "two-a"),
                ("two-mesh", "two-a"),
            ] {
                reaches(&town.peer(client)?, transport, service.at(family), &[server])?;
            }
        }
        let outcome = town.peer("three-client")?.connect(service.at(family))?;
        ensure!(!outcome.ok(), "{outcome:?}");
        is_met_by_silence(&town.peer("three-mesh")?, Transport::Tcp, service.at(family))?;
    }
    Ok(())
}

#[test]
fn external_local_falls_back_to_the_nodes_own_terminating_endpoints() -> Result<()> {
    let town = town()?;
    let mut service = town
        .service("external")
        .load_balancer()
        .with("externalTrafficPolicy", "Local");
    service.endpoints = vec![terminating("one-a"), ready("two-a")];
    service.apply()?;
    let (ann, ben) = (town.peer("ann")?, town.peer("ben")?);
    for family in Family::BOTH {
        for transport in TOLD {
            reaches(&ann, transport, service.at_balancer(family), &["one-a"])?;
            reaches(&ann, transport, service.at_node("node1", family)?, &["one-a"])?;
            reaches(&ben, transport, service.at_balancer(family), &["two-a"])?;
            is_met_by_silence(&ann, transport, service.at_node("node3", family)?)?;
        }
    }
    // The last one of the cluster is on its way out: pods of other nodes are not sent to it by a node that has none.
    service.move_to(vec![terminating("one-a")])?;
    for family in Family::BOTH {
        for client in ["three-client", "three-mesh", "node3", "ann"] {
            let peer = town.peer(client)?;
            for transport in TOLD {
                reaches(&peer, transport, service.at_node("node1", family)?, &["one-a"])?;
                is_met_by_silence(&peer, transport, service.at_node("node2", family)?)?;
            }
        }
    }
    Ok(())
}

/// `publishNotReadyAddresses` is told by the slices: they call every endpoint ready then.
#[test]
fn endpoints_are_served_when_they_become_ready() -> Result<()> {
    let town = town()?;
    let mut service = town.service("unready").node_port();
    let clients = ["one-client", "one-mesh", "node2", "ann"];
    for (endpoints, served) in [
        (vec![unready("one-a")], false),
        (vec![ready("one-a")], true),
        (vec![unready("one-a")], false),
        // Published though not ready, and terminating.
        (vec![Endpoint { terminating: true, ..ready("one-a") }], true),
    ] {
        service.endpoints = endpoints;
        service.apply()?;
        for client in clients {
            let peer = town.peer(client)?;
            for family in Family::BOTH {
                for to in [service.at(family), service.at_node("node2", family)?] {
                    if served {
                        reaches(&peer, Transport::Tcp, to, &["one-a"])
                    } else {
                        is_refused(&peer, Transport::Tcp, to)
                    }
                    .context(client)?;
                }
            }
        }
    }
    Ok(())
}
