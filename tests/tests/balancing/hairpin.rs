//! Pods that are their own server, or one of their own servers, through a service.

use anyhow::{Context, Result, ensure};
use weir_world::{PodSpec, peer::Exchange};

use crate::{
    talk::{TRANSPORTS, ask, exchange, reaches},
    town::{Family, both_towns},
};

#[test]
fn a_pod_reaches_itself_through_its_service() -> Result<()> {
    for town in both_towns()? {
        // The second one's connections are translated packet by packet.
        for pod in ["loop", "loop-mesh"] {
            town.add_server(PodSpec::new(pod))?;
            let service = town.service("hairpin").load_balancer().external().to(&[pod]);
            service.apply()?;
            let peer = town.peer(pod)?;
            for family in Family::BOTH {
                for to in [
                    service.at(family),
                    service.at_node("node1", family)?,
                    service.at_balancer(family),
                    service.at_external(family),
                    // Out to another node, and back.
                    service.at_node("node2", family)?,
                ] {
                    for transport in TRANSPORTS {
                        let (by, seen) = ask(&peer, transport, to)?;
                        ensure!(by == pod);
                        // Its own address would come back to it as a stranger's, or the service's without us.
                        let nodes = town.world.nodes().iter();
                        let mut addresses = nodes.map(|node| family.of(node.addresses()));
                        let own = seen == family.of(town.addresses(pod)?);
                        ensure!(addresses.any(|address| address == seen) || own, "seen as {seen}");
                        // More than one segment, both ways.
                        let large = Exchange {
                            payload: "weir".repeat(2000),
                            ..exchange(transport, to)
                        };
                        let outcome = peer.exchange(large)?;
                        ensure!(outcome.ok(), "{pod} {transport:?} to {to}: {outcome:?}");
                    }
                }
            }
        }
    }
    Ok(())
}

#[test]
fn a_pod_that_is_one_of_the_servers_is_sent_to_all_of_them() -> Result<()> {
    for town in both_towns()? {
        for pod in ["both", "both-mesh"] {
            town.add_server(PodSpec::new(pod))?;
            let servers = [pod, "one-a", "two-a"];
            let service = town.service("one-of-them").to(&servers);
            service.apply()?;
            let peer = town.peer(pod)?;
            for family in Family::BOTH {
                for transport in TRANSPORTS {
                    reaches(&peer, transport, service.at(family), &servers).context(pod)?;
                }
            }
        }
    }
    Ok(())
}
