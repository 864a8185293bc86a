//! Node ports: on every node, for everybody, whatever node has the endpoint.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, ensure};
use weir_world::peer::Transport;

use crate::{
    service::Port,
    talk::{TOLD, TRANSPORTS, ask, is_refused, reaches},
    town::{ADMIN, Family, HOST_TARGET, TARGET, both_towns, town},
};

#[test]
fn a_node_port_is_served_on_every_node_to_everybody() -> Result<()> {
    for town in both_towns()? {
        let service = town
            .service("everywhere")
            .node_port()
            .to(&["one-a", "two-a"]);
        service.apply()?;
        for client in ["ann", "one-client", "one-mesh", "node1"] {
            let peer = town.peer(client)?;
            for node in ["node1", "node2", "node3"] {
                for family in Family::BOTH {
                    let to = service.at_node(node, family)?;
                    for transport in TRANSPORTS {
                        reaches(&peer, transport, to, &["one-a", "two-a"])
                            .with_context(|| format!("{client} by {node}"))?;
                    }
                }
            }
        }
    }
    Ok(())
}

/// Where the node that was asked has the endpoint, answers pass it anyway. Where another one has it, they must come back.
#[test]
fn the_source_is_kept_where_answers_come_back_by_themselves() -> Result<()> {
    for town in both_towns()? {
        let service = town.service("seen").node_port().to(&["one-a"]);
        service.apply()?;
        for client in ["ann", "two-client", "two-mesh", "three-client"] {
            let peer = town.peer(client)?;
            for family in Family::BOTH {
                let own = family.of(town.addresses(client)?);
                for transport in TRANSPORTS {
                    let (_, seen) = ask(&peer, transport, service.at_node("node1", family)?)?;
                    ensure!(seen == own, "{client} by node1 is seen as {seen}");
                    let via = family.of(town.addresses("node3")?);
                    let (_, seen) = ask(&peer, transport, service.at_node("node3", family)?)?;
                    // A pod of the node asks its own node, which sends it on as it is.
                    let expected = if client.starts_with("three") {
                        own
                    } else {
                        via
                    };
                    ensure!(seen == expected, "{client} by node3 is seen as {seen}");
                }
            }
        }
    }
    Ok(())
}

#[test]
fn endpoints_in_the_nodes_own_network_are_reached() -> Result<()> {
    for town in both_towns()? {
        let mut service = town
            .service("host-network")
            .node_port()
            .to(&["node1", "node2"]);
        for port in &mut service.ports {
            port.target = HOST_TARGET;
        }
        service.apply()?;
        for client in [
            "ann",
            "one-client",
            "one-mesh",
            "node1",
            "three-client",
            "node3",
        ] {
            let peer = town.peer(client)?;
            for family in Family::BOTH {
                for transport in TRANSPORTS {
                    for to in [
                        service.at(family),
                        service.at_node("node1", family)?,
                        service.at_node("node3", family)?,
                    ] {
                        reaches(&peer, transport, to, &["node1", "node2"])
                            .with_context(|| client.to_owned())?;
                    }
                }
            }
        }
    }
    Ok(())
}

#[test]
fn one_number_is_two_ports_of_two_protocols() -> Result<()> {
    let town = town()?;
    let mut service = town.service("protocols").node_port().to(&["one-a"]);
    service.ports = vec![
        Port::new("tcp", "TCP", 80, TARGET),
        Port::new("udp", "UDP", 80, ADMIN),
    ];
    service.apply()?;
    for client in ["ann", "ben", "one-client", "two-mesh", "node2"] {
        let peer = town.peer(client)?;
        for family in Family::BOTH {
            for to in [service.at(family), service.at_node("node2", family)?] {
                reaches(&peer, Transport::Tcp, to, &["one-a"])?;
                reaches(&peer, Transport::Udp, to, &["one-a-admin"])?;
            }
        }
    }
    // Without the one, the other goes on.
    service.ports.pop();
    service.apply()?;
    let ann = town.peer("ann")?;
    for family in Family::BOTH {
        let to = service.at_node("node1", family)?;
        reaches(&ann, Transport::Tcp, to, &["one-a"])?;
        is_refused(&ann, Transport::UdpConnected, to)?;
    }
    Ok(())
}

#[test]
fn loopback_and_ports_of_nobody_are_the_nodes_own() -> Result<()> {
    let town = town()?;
    let service = town.service("own").node_port().to(&["one-a"]);
    service.apply()?;
    let (host, ann) = (town.peer("node1")?, town.peer("ann")?);
    for transport in TOLD {
        is_refused(
            &host,
            transport,
            (Ipv4Addr::LOCALHOST, service.port_on_nodes()).into(),
        )?;
        is_refused(
            &host,
            transport,
            (Ipv6Addr::LOCALHOST, service.port_on_nodes()).into(),
        )?;
        for family in Family::BOTH {
            // The node's own server has its port, and where there is none the node itself refuses.
            reaches(
                &ann,
                transport,
                town.at("node1", family, HOST_TARGET)?,
                &["node1"],
            )?;
            is_refused(&ann, transport, town.at("node1", family, 9)?)?;
        }
    }
    Ok(())
}

#[test]
fn a_service_changes_its_type_and_everybody_notices() -> Result<()> {
    let town = town()?;
    let mut service = town.service("changing").to(&["one-a", "two-a"]);
    let both = &["one-a", "two-a"];
    let clients = [
        town.peer("ann")?,
        town.peer("one-client")?,
        town.peer("two-mesh")?,
    ];
    let node_port = |family| service_port(&town, service.number, family);
    let ports = [node_port(Family::V4)?, node_port(Family::V6)?];
    let cluster_ips = Family::BOTH.map(|family| service.at(family));
    let set_type = |service: &mut crate::service::Service<'_>, kind: &str| {
        service.object["spec"]["type"] = kind.into();
        service.apply()
    };
    // `ExternalName` has no addresses; what was one of its is nobody's.
    for (kind, served, on_nodes) in [
        ("ClusterIP", true, false),
        ("NodePort", true, true),
        ("ExternalName", false, false),
        ("ClusterIP", true, false),
        ("ExternalName", false, false),
        ("NodePort", true, true),
        ("ClusterIP", true, false),
    ] {
        set_type(&mut service, kind)?;
        for client in &clients {
            for to in cluster_ips {
                if served {
                    reaches(client, Transport::Tcp, to, both).context(kind)?;
                } else {
                    let to = weir_world::peer::Exchange::tcp(to)
                        .timeout(std::time::Duration::from_millis(200));
                    ensure!(!client.exchange(to)?.ok(), "{kind}");
                }
            }
            for to in ports {
                for transport in TOLD {
                    if on_nodes {
                        reaches(client, transport, to, both).context(kind)?;
                    } else {
                        is_refused(client, transport, to).context(kind)?;
                    }
                }
            }
        }
    }
    Ok(())
}

fn service_port(
    town: &crate::town::Town,
    number: u16,
    family: Family,
) -> Result<std::net::SocketAddr> {
    town.at("node2", family, 30000 + number)
}
