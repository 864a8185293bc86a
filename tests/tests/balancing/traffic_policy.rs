//! `externalTrafficPolicy` and `internalTrafficPolicy`.

use anyhow::{Context, Result, ensure};
use weir_world::peer::Transport;

use crate::{
    service::ready,
    talk::{TOLD, TRANSPORTS, ask, is_met_by_silence, is_refused, reaches},
    town::{Family, HOST_TARGET, both_towns, town},
};

#[test]
fn external_local_keeps_the_clients_address_and_drops_elsewhere() -> Result<()> {
    for town in both_towns()? {
        let service = town
            .service("local")
            .load_balancer()
            .external()
            .with("externalTrafficPolicy", "Local")
            .to(&["two-a"]);
        service.apply()?;
        let (ann, ben) = (town.peer("ann")?, town.peer("ben")?);
        for family in Family::BOTH {
            for transport in TOLD {
                // Ben's way leads to node2, which has the endpoint; Ann's to node1, which has none.
                for to in [
                    service.at_balancer(family),
                    service.at_external(family),
                    service.at_node("node2", family)?,
                ] {
                    let (by, seen) = ask(&ben, transport, to)?;
                    let own = family.of(town.addresses("ben")?);
                    ensure!((by.as_str(), seen) == ("two-a", own), "{to}: {by} {seen}");
                }
                for to in [service.at_balancer(family), service.at_external(family)] {
                    is_met_by_silence(&ann, transport, to)?;
                }
                for client in ["ann", "ben", "three-client", "three-mesh", "node3"] {
                    let to = service.at_node("node1", family)?;
                    is_met_by_silence(&town.peer(client)?, transport, to)?;
                }
            }
        }
    }
    Ok(())
}

/// What comes from within the cluster has no business with the nodes' locality: it is not sent out and back.
#[test]
fn within_the_cluster_an_external_policy_has_no_say() -> Result<()> {
    for town in both_towns()? {
        let service = town
            .service("short-circuit")
            .load_balancer()
            .external()
            .with("externalTrafficPolicy", "Local")
            .to(&["two-a", "three-a"]);
        service.apply()?;
        for client in [
            "one-client",
            "one-mesh",
            "node1",
            "two-client",
            "two-mesh",
            "node2",
        ] {
            let peer = town.peer(client)?;
            let node = if client.contains("one") || client == "node1" {
                "node1"
            } else {
                "node2"
            };
            for family in Family::BOTH {
                for transport in TRANSPORTS {
                    for to in [
                        service.at_balancer(family),
                        service.at_external(family),
                        service.at_node(node, family)?,
                        service.at(family),
                    ] {
                        reaches(&peer, transport, to, &["two-a", "three-a"])
                            .with_context(|| client.to_owned())?;
                    }
                }
            }
        }
    }
    Ok(())
}

#[test]
fn external_local_stays_on_the_node_that_was_asked() -> Result<()> {
    let town = town()?;
    let mut service = town
        .service("own")
        .load_balancer()
        .with("externalTrafficPolicy", "Local")
        .to(&["one-a", "one-b", "two-a"]);
    service.apply()?;
    let (ann, ben) = (town.peer("ann")?, town.peer("ben")?);
    for family in Family::BOTH {
        for transport in TRANSPORTS {
            let to = service.at_balancer(family);
            reaches(&ann, transport, to, &["one-a", "one-b"])?;
            reaches(&ben, transport, to, &["two-a"])?;
            reaches(
                &ben,
                transport,
                service.at_node("node1", family)?,
                &["one-a", "one-b"],
            )?;
        }
    }
    // Changed while it is served.
    for (policy, servers) in [
        ("Cluster", &["one-a", "one-b", "two-a"][..]),
        ("Local", &["one-a", "one-b"]),
    ] {
        service.object["spec"]["externalTrafficPolicy"] = policy.into();
        service.apply()?;
        for family in Family::BOTH {
            reaches(&ann, Transport::Tcp, service.at_balancer(family), servers)?;
        }
    }
    // Without an endpoint anywhere there is nobody to keep silent for.
    service.move_to(Vec::new())?;
    for family in Family::BOTH {
        for transport in TOLD {
            is_refused(&ann, transport, service.at_balancer(family))?;
            is_refused(&ann, transport, service.at_node("node3", family)?)?;
        }
    }
    Ok(())
}

#[test]
fn internal_local_pods_reach_pods_of_their_node_only() -> Result<()> {
    for town in both_towns()? {
        let mut service = town
            .service("internal")
            .with("internalTrafficPolicy", "Local")
            .to(&["one-a", "two-a"]);
        service.apply()?;
        for (client, server) in [
            ("one-client", "one-a"),
            ("one-mesh", "one-a"),
            ("node1", "one-a"),
            ("two-client", "two-a"),
            ("two-mesh", "two-a"),
            ("node2", "two-a"),
            // Whoever comes in from outside is served by the node that it comes to.
            ("ann", "one-a"),
            ("ben", "two-a"),
        ] {
            let peer = town.peer(client)?;
            for family in Family::BOTH {
                for transport in TRANSPORTS {
                    reaches(&peer, transport, service.at(family), &[server])
                        .with_context(|| client.to_owned())?;
                }
            }
        }
        for family in Family::BOTH {
            let to = service.at(family);
            // On the packet path that is silence. At the socket there is nobody to keep silent to.
            is_met_by_silence(&town.peer("three-mesh")?, Transport::Tcp, to)?;
            for client in ["three-mesh", "three-client"] {
                is_met_by_silence(&town.peer(client)?, Transport::UdpConnected, to)?;
            }
            is_refused(&town.peer("three-client")?, Transport::Tcp, to)?;
            is_refused(&town.peer("node3")?, Transport::Tcp, to)?;
        }
        service.move_to(vec![ready("two-a"), ready("three-b")])?;
        for family in Family::BOTH {
            let to = service.at(family);
            reaches(
                &town.peer("three-client")?,
                Transport::Tcp,
                to,
                &["three-b"],
            )?;
            reaches(&town.peer("three-mesh")?, Transport::Tcp, to, &["three-b"])?;
        }
    }
    Ok(())
}

#[test]
fn internal_local_with_endpoints_in_the_nodes_own_network() -> Result<()> {
    for town in both_towns()? {
        let mut service = town
            .service("internal-host")
            .with("internalTrafficPolicy", "Local")
            .to(&["node1", "node2"]);
        for port in &mut service.ports {
            port.target = HOST_TARGET;
        }
        service.apply()?;
        for (client, server) in [
            ("one-client", "node1"),
            ("one-mesh", "node1"),
            ("node1", "node1"),
            ("two-client", "node2"),
            ("node2", "node2"),
        ] {
            let peer = town.peer(client)?;
            for family in Family::BOTH {
                for transport in TRANSPORTS {
                    reaches(&peer, transport, service.at(family), &[server])
                        .with_context(|| client.to_owned())?;
                }
            }
        }
        for family in Family::BOTH {
            let outcome = town.peer("three-client")?.connect(service.at(family))?;
            ensure!(!outcome.ok(), "{outcome:?}");
        }
    }
    Ok(())
}
