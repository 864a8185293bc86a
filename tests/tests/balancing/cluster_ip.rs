//! Cluster IPs: from pods and nodes, to pods anywhere.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use weir_world::peer::{Exchange, Transport};

use crate::{
    service::{Port, ready},
    talk::{TRANSPORTS, ask, exchange, is_refused, reaches},
    town::{ADMIN, Family, TARGET, both_towns, town},
};

#[test]
fn a_basic_service_is_served_by_pods_anywhere_to_everybody() -> Result<()> {
    for town in both_towns()? {
        let service = town.service("basic").to(&["one-a", "two-a"]);
        service.apply()?;
        for client in [
            "one-client",
            "one-mesh",
            "node1",
            "three-client",
            "node3",
            "ann",
        ] {
            let peer = town.peer(client)?;
            for family in Family::BOTH {
                for transport in TRANSPORTS {
                    reaches(&peer, transport, service.at(family), &["one-a", "two-a"])
                        .with_context(|| client.to_owned())?;
                }
            }
        }
    }
    Ok(())
}

#[test]
fn the_servers_see_the_pods_own_address() -> Result<()> {
    for town in both_towns()? {
        for server in ["one-a", "two-a"] {
            let service = town.service("source").to(&[server]);
            service.apply()?;
            for client in ["one-client", "one-mesh"] {
                let peer = town.peer(client)?;
                for family in Family::BOTH {
                    let own = family.of(town.addresses(client)?);
                    for transport in TRANSPORTS {
                        let (by, seen) = ask(&peer, transport, service.at(family))?;
                        ensure!(
                            (by.as_str(), seen) == (server, own),
                            "{client}: {by} {seen}"
                        );
                    }
                }
            }
        }
    }
    Ok(())
}

#[test]
fn each_port_of_a_service_leads_to_its_own() -> Result<()> {
    let town = town()?;
    let mut service = town.service("ports").to(&["one-a", "two-a"]);
    service.ports = vec![
        Port::new("http", "TCP", 80, TARGET),
        Port::new("admin", "TCP", 81, ADMIN),
        Port::new("dns", "UDP", 81, TARGET),
    ];
    service.apply()?;
    let clients = ["one-client", "two-mesh", "node3", "ann"];
    for client in clients {
        let peer = town.peer(client)?;
        for family in Family::BOTH {
            let at = |port| (service.ip(family), port).into();
            reaches(&peer, Transport::Tcp, at(80), &["one-a", "two-a"])?;
            reaches(
                &peer,
                Transport::Tcp,
                at(81),
                &["one-a-admin", "two-a-admin"],
            )?;
            reaches(&peer, Transport::Udp, at(81), &["one-a", "two-a"])?;
            is_refused(&peer, Transport::UdpConnected, at(80))?;
        }
    }
    // Ports are added and taken away, and the others stay.
    service.ports = vec![
        Port::new("http", "TCP", 80, ADMIN),
        Port::new("more", "TCP", 82, TARGET),
    ];
    service.apply()?;
    for client in clients {
        let peer = town.peer(client)?;
        for family in Family::BOTH {
            let at = |port| (service.ip(family), port).into();
            reaches(
                &peer,
                Transport::Tcp,
                at(80),
                &["one-a-admin", "two-a-admin"],
            )?;
            reaches(&peer, Transport::Tcp, at(82), &["one-a", "two-a"])?;
            is_refused(&peer, Transport::Tcp, at(81))?;
        }
    }
    Ok(())
}

/// As the controller splits them: endpoints in several slices, ports in several slices, and a named port that is another
/// number in each pod.
#[test]
fn the_slices_of_a_service_add_up() -> Result<()> {
    let town = town()?;
    let mut service = town.service("slices");
    service.ports = vec![
        Port::new("http", "TCP", 80, TARGET),
        Port::new("admin", "TCP", 81, ADMIN),
    ];
    service.apply()?;
    let mut items = Vec::new();
    for family in Family::BOTH {
        // Its own number for the port of each pod.
        for (suffix, pod, target) in [("-1", "one-a", TARGET), ("-2", "two-a", ADMIN)] {
            service.ports = vec![Port::new("http", "TCP", 80, target)];
            items.push(service.slice(family, &[ready(pod)], suffix)?);
        }
        service.ports = vec![Port::new("admin", "TCP", 81, ADMIN)];
        items.push(service.slice(family, &[ready("three-a"), ready("three-b")], "-3")?);
    }
    let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
    town.manifests.apply(&service.slices(), &list)?;
    town.settle()?;
    for client in ["one-client", "two-mesh", "node3", "ann"] {
        let peer = town.peer(client)?;
        for family in Family::BOTH {
            let at = |port| (service.ip(family), port).into();
            reaches(&peer, Transport::Tcp, at(80), &["one-a", "two-a-admin"])?;
            reaches(
                &peer,
                Transport::Tcp,
                at(81),
                &["three-a-admin", "three-b-admin"],
            )?;
        }
    }
    Ok(())
}

#[test]
fn services_come_and_go_beside_each_other() -> Result<()> {
    let town = town()?;
    let [first, second] =
        ["first", "second"].map(|name| town.service(name).to(&["one-a", "two-a"]));
    first.apply()?;
    second.apply()?;
    let clients = ["one-client", "two-mesh", "node3", "ann"];
    let serves = |service: &crate::service::Service<'_>, served: bool| -> Result<()> {
        for client in clients {
            let peer = town.peer(client)?;
            for family in Family::BOTH {
                let to = service.at(family);
                if served {
                    reaches(&peer, Transport::Tcp, to, &["one-a", "two-a"])?;
                } else {
                    let to = Exchange::tcp(to).timeout(std::time::Duration::from_millis(100));
                    ensure!(!peer.exchange(to)?.ok());
                }
            }
        }
        Ok(())
    };
    serves(&first, true)?;
    serves(&second, true)?;
    first.delete()?;
    let third = town.service("third").to(&["one-a", "two-a"]);
    third.apply()?;
    serves(&first, false)?;
    serves(&second, true)?;
    serves(&third, true)
}

#[test]
fn labels_give_a_service_to_others_and_back() -> Result<()> {
    let town = town()?;
    let mut service = town.service("labelled").node_port().to(&["one-a"]);
    for label in [
        "service.kubernetes.io/service-proxy-name",
        "service.kubernetes.io/headless",
    ] {
        for ours in [true, false, true] {
            service.object["metadata"]["labels"] = match ours {
                true => json!({}),
                false => json!({label: "somebody"}),
            };
            service.apply()?;
            for client in ["one-client", "two-mesh", "node3", "ann"] {
                let peer = town.peer(client)?;
                let to = service.at(Family::V4);
                if ours {
                    reaches(&peer, Transport::Tcp, to, &["one-a"])?;
                } else {
                    let to = Exchange::tcp(to).timeout(std::time::Duration::from_millis(100));
                    ensure!(!peer.exchange(to)?.ok());
                    is_refused(&peer, Transport::Tcp, service.at_node("node2", Family::V4)?)?;
                }
            }
        }
    }
    Ok(())
}

#[test]
fn large_requests_are_answered_whole() -> Result<()> {
    for town in both_towns()? {
        let service = town.service("large").node_port().to(&["two-a"]);
        service.apply()?;
        for client in [
            "one-client",
            "one-mesh",
            "two-client",
            "two-mesh",
            "node1",
            "ann",
        ] {
            let peer = town.peer(client)?;
            for family in Family::BOTH {
                for to in [service.at(family), service.at_node("node1", family)?] {
                    for transport in TRANSPORTS {
                        // A datagram of many fragments, both ways; of a stream more than its window.
                        let size = if transport == Transport::Tcp {
                            300_000
                        } else {
                            9_000
                        };
                        let large = exchange(transport, to).payload("x".repeat(size));
                        let outcome = peer.exchange(large)?;
                        ensure!(outcome.ok(), "{client} {transport:?} to {to}: {outcome:?}");
                    }
                }
            }
        }
    }
    Ok(())
}
