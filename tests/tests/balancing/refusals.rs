//! What nobody serves is refused at once, from wherever it is asked for.

use anyhow::{Context, Result, ensure};
use weir_world::peer::{Exchange, Transport};

use crate::{
    service::ready,
    talk::{TOLD, is_refused, reaches},
    town::{Family, both_towns, town},
};

#[test]
fn without_endpoints_everybody_is_refused_everywhere() -> Result<()> {
    for town in both_towns()? {
        let mut service = town.service("empty").load_balancer().external();
        service.apply()?;
        let clients = ["one-client", "one-mesh", "node1", "ann", "ben"];
        for client in clients {
            let peer = town.peer(client)?;
            for family in Family::BOTH {
                for to in [
                    service.at(family),
                    service.at_balancer(family),
                    service.at_external(family),
                    service.at_node("node1", family)?,
                    service.at_node("node2", family)?,
                ] {
                    for transport in TOLD {
                        is_refused(&peer, transport, to).context(client)?;
                    }
                }
            }
        }
        // As soon as there is one, all of them are served; when it is gone, all are refused again.
        for endpoints in [vec![ready("two-a")], Vec::new()] {
            let served = !endpoints.is_empty();
            service.move_to(endpoints)?;
            for client in clients {
                let peer = town.peer(client)?;
                for family in Family::BOTH {
                    for transport in TOLD {
                        if served {
                            reaches(&peer, transport, service.at(family), &["two-a"])
                        } else {
                            is_refused(&peer, transport, service.at(family))
                        }
                        .context(client)?;
                    }
                }
            }
        }
    }
    Ok(())
}

#[test]
fn a_port_that_no_service_has_is_refused_on_a_cluster_ip_only() -> Result<()> {
    let town = town()?;
    let service = town.service("ports").load_balancer().to(&["one-a"]);
    service.apply()?;
    for client in ["one-client", "one-mesh", "node1", "ann"] {
        let peer = town.peer(client)?;
        for family in Family::BOTH {
            for transport in TOLD {
                is_refused(&peer, transport, (service.ip(family), 81).into()).context(client)?;
            }
            // The balancer may well have that port.
            let to = (service.at_balancer(family).ip(), 81);
            let outcome = peer.exchange(Exchange::tcp(to).timeout(std::time::Duration::from_millis(100)))?;
            ensure!(!outcome.ok() && outcome.errno() != Some("ECONNREFUSED"), "{outcome:?}");
        }
    }
    Ok(())
}

#[test]
fn a_deleted_service_is_nobodys_and_a_recreated_one_serves_again() -> Result<()> {
    let town = town()?;
    let mut service = town.service("recreated").node_port().to(&["one-a"]);
    for server in ["one-a", "two-a", "one-a"] {
        service.endpoints = vec![ready(server)];
        service.apply()?;
        for client in ["one-client", "one-mesh", "node3", "ann"] {
            let peer = town.peer(client)?;
            for family in Family::BOTH {
                for transport in TOLD {
                    reaches(&peer, transport, service.at(family), &[server])?;
                    reaches(&peer, transport, service.at_node("node2", family)?, &[server])?;
                }
            }
        }
        service.delete()?;
        for client in ["one-client", "one-mesh", "node3", "ann"] {
            let peer = town.peer(client)?;
            for family in Family::BOTH {
                is_refused(&peer, Transport::Tcp, service.at_node("node2", family)?)?;
                let gone = Exchange::tcp(service.at(family)).timeout(std::time::Duration::from_millis(100));
                ensure!(!peer.exchange(gone)?.ok());
            }
        }
    }
    Ok(())
}
