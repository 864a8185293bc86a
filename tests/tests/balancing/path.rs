//! The way through the network: what it says of a packet must reach who has sent it.

use anyhow::{Result, ensure};
use weir_world::{
    PodSpec,
    peer::{Conversation, Exchange, Transport},
};

use crate::{
    talk::exchange,
    town::{Family, Town, town},
};

/// A stream that was opened before the way became narrow, so that only an error on the way can tell of it.
fn open(town: &Town, client: &str, to: std::net::SocketAddr) -> Result<Conversation> {
    let (conversation, outcome) = town.peer(client)?.open(Exchange::tcp(to))?;
    conversation.ok_or_else(|| anyhow::anyhow!("{client} to {to}: {outcome:?}"))
}

/// The last hop to the server takes smaller packets than the rest of the way: node2 says so to whom it believes to be the
/// sender, about a packet as it sees it.
#[test]
fn a_sender_learns_of_a_narrow_way_behind_the_service() -> Result<()> {
    let town = town()?;
    for (client, number) in [("one-mesh", 1), ("ann", 2)] {
        let name = format!("narrow-{number}");
        let pod = town.add_server(PodSpec::new(&name).on("node2"))?;
        let service = town.service("narrow").node_port().to(&[&name]);
        service.apply()?;
        let mut streams = Vec::new();
        for family in Family::BOTH {
            let to = match client {
                "ann" => service.at_node("node1", family)?,
                _ => service.at(family),
            };
            streams.push((to, open(&town, client, to)?));
        }
        let addresses = pod.addresses();
        let veth = pod.host_veth();
        pod.node().ip(&[
            &format!("route change {}/32 dev {veth} mtu 1300", addresses.v4),
            &format!("route change {}/128 dev {veth} mtu 1300", addresses.v6),
        ])?;
        for (to, stream) in &streams {
            let outcome = stream.ask(&"x".repeat(100_000))?;
            ensure!(outcome.ok(), "{client} to {to}: {outcome:?}");
        }
        drop(streams);
        town.remove_pod(&name)?;
    }
    Ok(())
}

/// node1 itself knows that its way to the endpoint is narrow, and says so in the stack's place where it sends in the stack's
/// place.
#[test]
fn a_client_outside_learns_of_a_narrow_way_between_the_nodes() -> Result<()> {
    let town = town()?;
    let name = "between";
    let pod = town.add_server(PodSpec::new(name).on("node3"))?;
    let service = town.service("between").node_port().to(&[name]);
    service.apply()?;
    let mut streams = Vec::new();
    for family in Family::BOTH {
        let to = service.at_node("node1", family)?;
        streams.push((to, open(&town, "ann", to)?));
    }
    let (pod, via) = (pod.addresses(), town.addresses("node3")?);
    town.world.node("node1")?.ip(&[
        &format!("route add {}/32 via {} mtu 1300", pod.v4, via.v4),
        &format!("route add {}/128 via {} mtu 1300", pod.v6, via.v6),
    ])?;
    for (to, stream) in &streams {
        let outcome = stream.ask(&"x".repeat(100_000))?;
        ensure!(outcome.ok(), "ann to {to}: {outcome:?}");
    }
    Ok(())
}

/// A server that is no server tells so by ICMP: the client is to hear of it as though the service had said it.
#[test]
fn a_client_is_told_that_the_endpoint_refuses() -> Result<()> {
    let town = town()?;
    let mut service = town.service("deaf").node_port().to(&["two-client"]);
    for port in &mut service.ports {
        port.target = 7;
    }
    service.apply()?;
    for client in ["one-client", "one-mesh", "two-mesh", "node1", "ann"] {
        let peer = town.peer(client)?;
        for family in Family::BOTH {
            for to in [service.at(family), service.at_node("node1", family)?] {
                for transport in [Transport::Tcp, Transport::UdpConnected] {
                    let outcome = peer.exchange(exchange(transport, to))?;
                    ensure!(
                        outcome.errno() == Some("ECONNREFUSED"),
                        "{client} {transport:?} to {to}: {outcome:?}"
                    );
                }
            }
        }
    }
    Ok(())
}

/// The same ports of the same client, once by one node's service and once by another's: the answers are not mixed up.
#[test]
fn a_port_that_is_used_again_starts_a_new_conversation() -> Result<()> {
    let town = town()?;
    let by_name = town.service("by-name").to(&["one-a"]);
    by_name.apply()?;
    let by_port = town.service("by-port").node_port().to(&["one-a"]);
    by_port.apply()?;
    for client in [
        "three-client",
        "three-mesh",
        "one-client",
        "one-mesh",
        "node3",
    ] {
        let peer = town.peer(client)?;
        for family in Family::BOTH {
            let own = family.of(town.addresses(client)?);
            let straight = town.at("one-a", family, crate::town::TARGET)?;
            let ways = [
                by_port.at_node("node1", family)?,
                by_name.at(family),
                straight,
                by_port.at_node("node2", family)?,
            ];
            for transport in [Transport::Udp, Transport::UdpConnected, Transport::Tcp] {
                for (index, first) in ways.into_iter().enumerate() {
                    for (offset, second) in ways.into_iter().enumerate() {
                        let port = 3000 + u16::try_from(index * 8 + offset)?;
                        for to in [first, second, first] {
                            let exchange = Exchange {
                                reset_on_close: true,
                                ..exchange(transport, to).from((own, port))
                            };
                            let outcome = peer.exchange(exchange)?;
                            ensure!(
                                outcome.ok(),
                                "{client}:{port} {transport:?} to {to}, after {first}: {outcome:?}"
                            );
                        }
                    }
                }
            }
        }
    }
    Ok(())
}
