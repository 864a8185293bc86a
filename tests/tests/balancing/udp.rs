//! Datagrams: a client that keeps its socket follows the service.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use weir_world::{
    Peer, PodSpec,
    peer::{Conversation, Transport},
};

use crate::{
    service::{ready, terminating, unready},
    talk::{exchange, reaches},
    town::{Family, Town, both_towns, town},
};

/// A socket that stays open. A datagram without an answer costs so little time that a story can send many.
fn open(peer: &Peer, transport: Transport, to: std::net::SocketAddr) -> Result<Conversation> {
    let exchange = exchange(transport, to).timeout(Duration::from_millis(150));
    let (conversation, outcome) = peer.open(exchange)?;
    conversation.with_context(|| format!("{outcome:?}"))
}

fn server(conversation: &Conversation) -> Result<String> {
    let outcome = conversation.ask("who?")?;
    outcome.answered_by.clone().with_context(|| format!("{outcome:?}"))
}

const SOCKETS: [Transport; 2] = [Transport::Udp, Transport::UdpConnected];

/// A server pod ends and is replaced, as in an upstream test of the same story; the client does not notice.
fn survives_the_end_of_its_server(
    town: &Town,
    client: &str,
    servers: [(&str, &str); 2],
    on_node: Option<&str>,
) -> Result<()> {
    let peer = town.peer(client)?;
    for (pod, node) in servers {
        town.add_server(PodSpec::new(pod).on(node))?;
    }
    let [(first, _), (second, _)] = servers;
    let mut service = town.service("cycling").node_port().to(&[first]);
    service.apply()?;
    let mut open_ones = Vec::new();
    for family in Family::BOTH {
        for transport in SOCKETS {
            let to = match on_node {
                Some(node) => service.at_node(node, family)?,
                None => service.at(family),
            };
            let conversation = open(&peer, transport, to)?;
            ensure!(server(&conversation)? == first);
            open_ones.push((transport, to, conversation));
        }
    }
    // The replacement is ready before the first one ends, or there would be nobody to follow to.
    service.move_to(vec![terminating(first), ready(second)])?;
    town.remove_pod(first)?;
    service.move_to(vec![ready(second)])?;
    for (transport, to, conversation) in &open_ones {
        // An id is given up once every program that may be using it has ended: less than a second.
        town.eventually(&format!("{client} is served: {transport:?} {to}"), || {
            Ok(conversation.ask("who?")?.answered_by.as_deref() == Some(second))
        })?;
    }
    drop(open_ones);
    town.remove_pod(second)?;
    service.delete()
}

#[test]
fn a_client_of_a_cluster_ip_follows_when_its_server_ends() -> Result<()> {
    for town in both_towns()? {
        for client in ["one-client", "one-mesh"] {
            for (name, nodes) in [("same", ["node1", "node1"]), ("other", ["node2", "node3"])] {
                let pods = [format!("udp-{client}-{name}-1"), format!("udp-{client}-{name}-2")];
                let servers = [(&*pods[0], nodes[0]), (&*pods[1], nodes[1])];
                survives_the_end_of_its_server(&town, client, servers, None)?;
            }
        }
    }
    Ok(())
}

#[test]
fn a_client_of_a_node_port_follows_when_its_server_ends() -> Result<()> {
    for town in both_towns()? {
        for client in ["ann", "two-client"] {
            for (name, nodes) in [("same", ["node1", "node1"]), ("other", ["node2", "node3"])] {
                let pods = [format!("np-{client}-{name}-1"), format!("np-{client}-{name}-2")];
                let servers = [(&*pods[0], nodes[0]), (&*pods[1], nodes[1])];
                survives_the_end_of_its_server(&town, client, servers, Some("node1"))?;
            }
        }
    }
    Ok(())
}

/// The node's own sockets are translated when they send: an unconnected one follows at once, a connected one is told that its
/// peer is gone and follows when it connects again.
#[test]
fn a_client_in_the_nodes_own_network_follows_when_its_server_ends() -> Result<()> {
    let town = town()?;
    let peer = town.peer("node1")?;
    for pod in ["host-udp-1", "host-udp-2"] {
        town.add_server(PodSpec::new(pod).on("node2"))?;
    }
    let mut service = town.service("host-cycling").to(&["host-udp-1"]);
    service.apply()?;
    let mut sockets = Vec::new();
    for family in Family::BOTH {
        let [unconnected, connected] = SOCKETS.map(|kind| open(&peer, kind, service.at(family)));
        let (unconnected, connected) = (unconnected?, connected?);
        ensure!(server(&unconnected)? == "host-udp-1" && server(&connected)? == "host-udp-1");
        sockets.push((family, unconnected, connected));
    }
    town.remove_pod("host-udp-1")?;
    service.move_to(vec![ready("host-udp-2")])?;
    for (family, unconnected, connected) in &sockets {
        ensure!(server(unconnected)? == "host-udp-2");
        town.eventually("the connected socket is told", || {
            let outcome = connected.ask("who?")?;
            let errno = outcome.errno();
            Ok(matches!(errno, Some("ECONNABORTED" | "EDESTADDRREQ")))
        })?;
        reaches(&peer, Transport::UdpConnected, service.at(*family), &["host-udp-2"])?;
    }
    Ok(())
}

#[test]
fn a_client_that_comes_before_the_first_endpoint_is_served_by_it() -> Result<()> {
    for town in both_towns()? {
        let mut service = town.service("early").node_port();
        service.endpoints = vec![unready("two-a")];
        service.apply()?;
        let mut waiting = Vec::new();
        for client in ["one-client", "one-mesh", "ann", "three-client"] {
            let peer = town.peer(client)?;
            for family in Family::BOTH {
                let to = match client {
                    "ann" => service.at_node("node1", family)?,
                    _ => service.at(family),
                };
                let conversation = open(&peer, Transport::UdpConnected, to)?;
                let outcome = conversation.ask("anybody?")?;
                ensure!(outcome.errno() == Some("ECONNREFUSED"), "{client}: {outcome:?}");
                waiting.push((client, conversation));
            }
        }
        service.move_to(vec![ready("two-a")])?;
        for (client, conversation) in &waiting {
            let by = server(conversation).with_context(|| (*client).to_owned())?;
            ensure!(by == "two-a");
        }
    }
    Ok(())
}

#[test]
fn a_client_stays_with_its_endpoint_when_others_come() -> Result<()> {
    let town = town()?;
    let mut service = town.service("staying").node_port().to(&["one-a"]);
    service.apply()?;
    let mut sockets = Vec::new();
    for client in ["one-client", "two-mesh", "ann"] {
        for _ in 0..8 {
            let to = service.at_node("node1", Family::V4)?;
            let conversation = open(&town.peer(client)?, Transport::UdpConnected, to)?;
            ensure!(server(&conversation)? == "one-a");
            sockets.push(conversation);
        }
    }
    service.move_to(["one-a", "one-b", "two-a", "two-b", "three-a"].map(ready).into())?;
    for conversation in &sockets {
        ensure!(server(conversation)? == "one-a");
    }
    Ok(())
}
