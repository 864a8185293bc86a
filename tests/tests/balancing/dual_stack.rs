//! Services of one family, and sockets of one family that speak the other.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::{
    talk::{TRANSPORTS, exchange, reaches},
    town::{Family, town},
};

#[test]
fn a_service_of_one_family_has_nothing_of_the_other() -> Result<()> {
    let town = town()?;
    for family in Family::BOTH {
        let mut service = town.service("single").load_balancer().external().to(&["one-a", "two-a"]);
        let ip = service.ip(family);
        service.object["spec"]["clusterIP"] = json!(ip);
        service.object["spec"]["clusterIPs"] = json!([ip]);
        service.apply()?;
        for client in ["one-client", "one-mesh", "node3", "ann"] {
            let peer = town.peer(client)?;
            for other in Family::BOTH {
                for to in [
                    service.at(other),
                    service.at_balancer(other),
                    service.at_external(other),
                    service.at_node("node1", other)?,
                ] {
                    if other == family {
                        for transport in TRANSPORTS {
                            reaches(&peer, transport, to, &["one-a", "two-a"]).context(client)?;
                        }
                    } else {
                        let timeout = std::time::Duration::from_millis(100);
                        let tcp = weir_world::peer::Exchange::tcp(to).timeout(timeout);
                        ensure!(!peer.exchange(tcp)?.ok(), "{client} to {to}");
                    }
                }
            }
        }
    }
    Ok(())
}

#[test]
fn an_ipv6_socket_that_speaks_ipv4_is_served() -> Result<()> {
    let town = town()?;
    let service = town.service("mapped").node_port().to(&["one-a", "two-a"]);
    service.apply()?;
    for client in ["one-client", "one-mesh", "node1"] {
        let peer = town.peer(client)?;
        for to in [service.at(Family::V4), service.at_node("node1", Family::V4)?] {
            let std::net::IpAddr::V4(v4) = to.ip() else { continue };
            let mapped = SocketAddr::from((v4.to_ipv6_mapped(), to.port()));
            for transport in TRANSPORTS {
                reaches(&peer, transport, mapped, &["one-a", "two-a"]).context(client)?;
                let outcome = peer.exchange(exchange(transport, mapped))?;
                ensure!(outcome.peer.is_none_or(|peer| peer == mapped), "{outcome:?}");
            }
        }
    }
    Ok(())
}
